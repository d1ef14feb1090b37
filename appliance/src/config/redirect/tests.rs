//! Tables as they are written, and as they must not be.

use std::path::Path;

use super::super::{Config, ConfigError};
use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("labsan.toml"), Path::new("/etc/labsan"))
}

const PORTALS: &str = "portals = ['10.0.0.1', '10.0.0.2', '10.0.0.3,2', '[fd00::1]:3261']\n";

/// One table for the first portal, with this policy, these addresses and more.
fn table(policy: &str, addresses: &str, more: &str) -> String {
    format!(
        "{PORTALS}[[redirect]]\nportal = '10.0.0.1'\npolicy = '{policy}'\naddresses = [{addresses}]\n{more}\n"
    )
}

#[test]
fn a_table_says_how_and_where() {
    let config = parse(&table("round-robin", "'10.0.0.2', '[2001:db8::7]', '192.0.2.7:3261'", "")).unwrap();
    let [redirect] = &config.redirect[..] else { panic!() };
    let addresses: Vec<String> = redirect.addresses.iter().map(|place| place.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.2:3260", "[2001:db8::7]:3260", "192.0.2.7:3261"]);
    assert_eq!((redirect.policy, &redirect.health), (Policy::RoundRobin, &Check::Tcp));
    assert_eq!(
        (redirect.interval, redirect.timeout, redirect.rise, redirect.fall),
        (Seconds(5), Seconds(2), 2, 3)
    );
    let more = "health = 'http:8080/health?x=1'\ninterval = '1min'\ntimeout = '10s'\nrise = 1\nfall = 9\n";
    let config =
        parse(&table("weighted", "{ address = '192.0.2.7', weight = 3 }, '10.0.0.1'", more)).unwrap();
    let [redirect] = &config.redirect[..] else { panic!() };
    assert_eq!(redirect.health, Check::Http { port: 8080, path: "/health?x=1".into() });
    assert_eq!(redirect.health.to_string(), "http:8080/health?x=1");
    assert_eq!(
        (redirect.interval, redirect.timeout, redirect.rise, redirect.fall),
        (Seconds(60), Seconds(10), 1, 9)
    );
    let weights: Vec<_> = redirect.addresses.iter().map(|place| place.weight).collect();
    assert_eq!(weights, [Some(3), None]);
}

#[test]
fn every_policy_can_be_asked_for() {
    for (policy, name) in Policy::ALL {
        assert_eq!(parse(&table(name, "'10.0.0.2'", "")).unwrap().redirect[0].policy, policy);
    }
    let counted = table("least-sessions", "'10.0.0.2', '192.0.2.7'", "health = 'http:80/sessions'");
    assert!(parse(&counted).is_ok(), "whoever is no portal of ours can be asked");
}

/// Nobody knows which addresses are this host's, but a portal for all of them serves those that are.
#[test]
fn an_address_that_a_portal_for_all_addresses_may_serve_is_in_its_group() {
    let table = |wildcard: &str, to: &str| {
        let portals = format!("portals = ['{wildcard}', '10.0.0.1:3261,2']");
        parse(&format!(
            "{portals}\n[[redirect]]\nportal = '10.0.0.1:3261'\npolicy = 'fixed'\naddresses = ['{to}']\n"
        ))
    };
    for wildcard in ["0.0.0.0", "[::]"] {
        let refused = table(wildcard, "10.0.0.1:3260").unwrap_err().to_string();
        let words = format!("portals = [\"{wildcard}:3260,2\"]");
        assert!(
            refused.contains("10.0.0.1:3260 may be this host's") && refused.contains(&words),
            "{refused}"
        );
        assert!(table(&format!("{wildcard}:3260,2"), "10.0.0.1:3260").is_ok(), "one group");
        assert!(table(wildcard, "10.0.0.1:3262").is_ok(), "another port");
    }
    assert!(table("0.0.0.0", "[fd00::1]:3260").is_ok(), "another family");
    assert!(table("[::]", "[fd00::1]:3260").is_err());
}

#[test]
fn what_cannot_be_is_refused_with_what_to_write() {
    let cases = [
        (table("fixed", "", ""), "redirect of portal 10.0.0.1:3260: it has no address"),
        (table("fixed", "'10.0.0.1'", ""), "no address to send anybody to"),
        (table("fixed", "'10.0.0.2', '[::ffff:10.0.0.2]:3260'", ""), "10.0.0.2:3260 is there twice"),
        (table("fixed", "'0.0.0.0'", ""), "0.0.0.0:3260 leads nowhere"),
        (table("fixed", "'10.0.0.7:0'", ""), "10.0.0.7:0 leads nowhere"),
        (table("fixed", "'fe80::1'", ""), "[fe80::1]:3260 leads nowhere"),
        (table("fixed", "'224.0.0.1'", ""), "224.0.0.1:3260 leads nowhere"),
        (table("fixed", "'127.0.0.1'", ""), "127.0.0.1:3260 is a loopback address"),
        (table("fixed", "'10.0.0.3'", ""), "portals = [\"10.0.0.3:3260,1\"]"),
        (
            table("fixed", "{ address = '10.0.0.2', weight = 2 }", ""),
            "a weight means nothing to policy = \"fixed\"",
        ),
        (
            table("weighted", "{ address = '10.0.0.2', weight = 0 }", ""),
            "line 5: \"10.0.0.2\": a weight is a number from 1",
        ),
        (table("weighted", "{ address = '10.0.0.2', weight = 1001 }", ""), "from 1 to 1000"),
        (table("weighted", "{ address = '10.0.0.2', wait = 1 }", ""), "unknown field `wait`"),
        (table("weighted", "7", ""), "expected an address such as"),
        (table("fixed", "'10.0.0.2,1'", ""), "line 5: \"10.0.0.2,1\": no portal group"),
        (table("fixed", "'san7.example.com'", ""), "is no address"),
        (table("fastest", "'10.0.0.2'", ""), "unknown variant `fastest`"),
        (
            table("least-sessions", "'10.0.0.2', '192.0.2.7'", ""),
            "needs the number of sessions at 192.0.2.7:3260",
        ),
        (
            table("fixed", "'10.0.0.2'", "timeout = '6s'"),
            "timeout must be 1s at least and no longer than interval",
        ),
        (table("fixed", "'10.0.0.2'", "timeout = '0s'"), "timeout must be 1s"),
        (table("fixed", "'10.0.0.2'", "rise = 0"), "1 at least"),
        (table("fixed", "'10.0.0.2'", "fall = 0"), "1 at least"),
        (table("fixed", "'10.0.0.2'", "fall = 70000"), "line 6"),
        (
            table("fixed", "'10.0.0.2'", "health = 'https:443/x'"),
            "line 6: \"https:443/x\" is no health check",
        ),
        (table("fixed", "'10.0.0.2'", "health = 'http:0/x'"), "no health check"),
        (table("fixed", "'10.0.0.2'", "health = 'http:80'"), "no health check"),
        (table("fixed", "'10.0.0.2'", "health = 'http:80/a b'"), "no health check"),
        (table("fixed", "'10.0.0.2'", "weight = 1"), "unknown field `weight`"),
        (
            table("fixed", "'10.0.0.2'", "").replace("portal = '10.0.0.1'", "portal = '10.0.0.9'"),
            "none of the portals (10.0.0.1:3260, ",
        ),
        (
            table("fixed", "'10.0.0.2'", "").replace("portal = '10.0.0.1'", "portal = '0.0.0.0'"),
            "an address and a port of its own",
        ),
        (
            table("fixed", "'10.0.0.2'", "").replace("portal = '10.0.0.1'", "portal = '10.0.0.1:0'"),
            "an address and a port of its own",
        ),
    ];
    let wrong = cases.into_iter().filter_map(|(text, part)| {
        let message = parse(&text).err().map(|error| error.to_string()).unwrap_or_default();
        let is_right = message.starts_with("labsan.toml") && message.contains(part);
        (!is_right).then(|| format!("{message:?}, not {part:?}, of\n{text}"))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let many: Vec<String> = (0..=MAX_REDIRECT_ADDRESSES).map(|n| format!("'192.0.2.1:{}'", n + 1)).collect();
    assert!(parse(&table("fixed", &many[1..].join(", "), "")).is_ok());
    let message = parse(&table("fixed", &many.join(", "), "")).unwrap_err().to_string();
    assert!(message.contains("more than 64 addresses"), "{message}");
}

#[test]
fn nobody_can_be_sent_in_a_circle_among_our_own_portals() {
    let other = |portal: &str, address: &str| {
        format!("[[redirect]]\nportal = '{portal}'\npolicy = 'fixed'\naddresses = ['{address}']\n")
    };
    let text = table("fixed", "'10.0.0.2'", "") + &other("10.0.0.2", "192.0.2.7");
    let message = parse(&text).unwrap_err().to_string();
    assert!(message.contains("10.0.0.2:3260 redirects as well"), "{message}");
    let text = table("fixed", "'10.0.0.1', '[fd00::1]:3261'", "") + &other("10.0.0.2", "[fd00::1]:3261");
    assert!(parse(&text).is_ok(), "its own address, and one where whoever comes is served");
    let message = parse(&(table("fixed", "'10.0.0.2'", "") + &other("10.0.0.1", "192.0.2.7"))).unwrap_err();
    assert!(message.to_string().contains("two tables"), "{message}");
}

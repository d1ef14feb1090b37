//! Every condition alone and together, and everybody it must keep out.

use proptest::prelude::*;

use super::*;

const NODE: &str = "iqn.2026-11.com.example:node1";

fn from<'a>(initiator: &'a str, peer: &str, local: &str) -> Caller<'a> {
    let peer = SocketAddr::new(peer.parse().unwrap(), 40_000);
    Caller { initiator, peer, local: local.parse().unwrap() }
}

fn rule(initiator: &str, account: &str, network: &str, portal: &str) -> AccessRule {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    AccessRule {
        initiator: given(initiator),
        account: given(account),
        network: given(network).map(|text| text.parse().unwrap()),
        portal: given(portal).map(|text| text.parse().unwrap()),
    }
}

fn admits(rules: &[AccessRule], caller: Caller<'_>) -> Option<Admission> {
    AccessPolicy { rules: rules.to_vec(), loopback_only: false }.admits(caller)
}

#[test]
fn nobody_gets_in_who_is_not_named() {
    let caller = from(NODE, "10.0.0.1", "10.0.0.9:3260");
    let lets_in = |pattern: &str| admits(&[AccessRule::initiator(pattern)], caller).is_some();
    assert_eq!(admits(&[], caller), None);
    assert!(lets_in("iqn.2026-11.com.example:NODE1"), "case does not count");
    assert!(!lets_in("iqn.2026-11.com.example:node"));
    assert!(!lets_in("iqn.2026-11.com.example:node11"));
    assert!(
        lets_in("iqn.2026-11.com.example:*") && lets_in("*") && lets_in("iqn.2026-11.com.example:node1*")
    );
    assert!(!lets_in("iqn.2026-11.com.example:node1x*") && !lets_in("iqn.2026-11.com.other:*"));
    // A prefix that ends within a character of the name.
    assert_eq!(admits(&[AccessRule::initiator("iqn.x:a*")], from("iqn.x:\u{e4}", "::1", "[::1]:1")), None);
}

#[test]
fn a_place_alone_is_nobody() {
    let caller = from(NODE, "10.0.0.1", "10.0.0.9:3260");
    assert_eq!(admits(&[rule("", "", "10.0.0.0/8", "")], caller), None);
    assert_eq!(admits(&[rule("", "", "", "10.0.0.9")], caller), None);
    assert_eq!(admits(&[AccessRule::default()], caller), None);
}

#[test]
fn all_conditions_of_a_rule_must_hold_and_one_rule_is_enough() {
    let whole = rule("iqn.2026-11.com.example:*", "", "10.1.0.0/16", "10.1.0.9:3260");
    let lets_in = |name, peer, local| admits(std::slice::from_ref(&whole), from(name, peer, local)).is_some();
    assert!(lets_in(NODE, "10.1.2.3", "10.1.0.9:3260"));
    assert!(!lets_in("iqn.2026-11.com.other:node1", "10.1.2.3", "10.1.0.9:3260"));
    assert!(!lets_in(NODE, "10.2.2.3", "10.1.0.9:3260"));
    assert!(!lets_in(NODE, "10.1.2.3", "10.1.0.8:3260") && !lets_in(NODE, "10.1.2.3", "10.1.0.9:3261"));
    let both = [whole, rule(NODE, "", "192.0.2.7", "")];
    assert!(admits(&both, from(NODE, "192.0.2.7", "192.0.2.1:3260")).is_some());
    assert!(admits(&both, from(NODE, "192.0.2.8", "192.0.2.1:3260")).is_none());
}

#[test]
fn an_account_binds_unless_another_rule_lets_in_without() {
    let caller = from(NODE, "10.0.0.1", "10.0.0.9:3260");
    let bound = [rule(NODE, "a", "", ""), rule("", "b", "10.0.0.0/8", ""), rule("", "c", "11.0.0.0/8", "")];
    let admission = admits(&bound, caller).unwrap();
    assert_eq!(admission, Admission::OneOf(vec!["a".into(), "b".into()]));
    assert!(admission.covers(Some("a")) && !admission.covers(Some("c")) && !admission.covers(None));
    let open = [bound.to_vec(), vec![AccessRule::initiator("*")]].concat();
    assert_eq!(admits(&open, caller), Some(Admission::AnyAccount));
    assert!(Admission::AnyAccount.covers(None));
}

#[test]
fn loopback_only_holds_whatever_the_rules_say() {
    let policy = AccessPolicy::of_names(&["*"], true);
    for (peer, is_let_in) in [
        ("127.0.0.1", true),
        ("127.9.9.9", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("10.0.0.1", false),
    ] {
        assert_eq!(policy.admits(from(NODE, peer, "127.0.0.1:3260")).is_some(), is_let_in, "{peer}");
    }
}

#[test]
fn mapped_addresses_are_what_they_stand_for() {
    let v4: Network = "10.0.0.0/8".parse().unwrap();
    assert!(v4.contains("10.9.9.9".parse().unwrap()) && v4.contains("::ffff:10.9.9.9".parse().unwrap()));
    assert!(!v4.contains("a09:909::".parse().unwrap()), "the same leading bits in IPv6");
    let mapped: Network = "::ffff:10.0.0.0/104".parse().unwrap();
    assert_eq!((mapped, mapped.to_string()), (v4, "10.0.0.0/8".to_owned()));
    let v6: Network = "::/0".parse().unwrap();
    assert!(v6.contains("2001:db8::1".parse().unwrap()) && !v6.contains("::ffff:1.2.3.4".parse().unwrap()));
    let portal: Portal = "::ffff:10.0.0.9".parse().unwrap();
    assert!(portal.is("[::ffff:10.0.0.9]:3260".parse().unwrap()) && portal.is("10.0.0.9:1".parse().unwrap()));
    let scoped: Portal = "fe80::1".parse().unwrap();
    assert!(scoped.is("[fe80::1%2]:3260".parse().unwrap()));
}

#[test]
fn addresses_that_make_no_sense_are_refused_with_what_to_write() {
    for text in [
        "",
        "10.0.0.0/33",
        "10.0.0.0/",
        "/8",
        "10.0.0/8",
        "::/129",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "any",
        "10.0.0.0/8/8",
    ] {
        assert!(matches!(text.parse::<Network>(), Err(AddressError::Network(_))), "{text}");
    }
    let message = "10.1.2.3/8".parse::<Network>().unwrap_err().to_string();
    assert!(message.contains("10.0.0.0/8") && message.contains("10.1.2.3 for"), "{message}");
    assert!(
        "2001:db8::1/32".parse::<Network>().is_err() && "::ffff:10.0.0.1/104".parse::<Network>().is_err()
    );
    for text in ["", "10.0.0.1:", "10.0.0.1:99999", "[::1]", "host:3260"] {
        assert!(matches!(text.parse::<Portal>(), Err(AddressError::Portal(_))), "{text}");
    }
    for text in ["0.0.0.0", "0.0.0.0:3260", "[::]:3260", "::", "10.0.0.1:0"] {
        assert!(matches!(text.parse::<Portal>(), Err(AddressError::Unspecified(_))), "{text}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0", "::1/128"] {
        assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
    }
    assert_eq!("192.0.2.1".parse::<Network>().unwrap().to_string(), "192.0.2.1/32");
    for text in ["10.0.0.1", "10.0.0.1:3260", "2001:db8::1", "[2001:db8::1]:3260"] {
        assert_eq!(text.parse::<Portal>().unwrap().to_string(), text);
    }
}

proptest! {
    /// By the definition, bit by bit.
    #[test]
    fn a_network_holds_whoever_has_its_leading_bits(own: u32, other: u32, same in 0u32..=32, prefix in 0u8..=32) {
        let keep = |bits: u32| if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
        let network = Network::of(IpAddr::V4(own.into()), prefix);
        // Addresses that share `same` leading bits with it, so that both answers come up.
        let other = (own & keep(same)) | (other & !keep(same));
        let expected = (0..prefix).all(|bit| (own ^ other) >> (31 - u32::from(bit)) & 1 == 0);
        prop_assert_eq!(network.contains(IpAddr::V4(other.into())), expected);
        prop_assert_eq!(network.to_string().parse(), Ok(network));
    }
}

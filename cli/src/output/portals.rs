//! How do portals look? A heading for each, and under it a line for each address that it sends initiators to.

use labsan_api::portal::{Place, Portal, Redirect};

use super::columns::Columns;
use super::timestamp;

/// `portal list`.
pub(crate) fn screen(portals: &[Portal]) -> String {
    portals.iter().map(one).collect()
}

fn one(portal: &Portal) -> String {
    let Portal { address, group, redirect } = portal;
    match redirect {
        None => format!("{address}, group {group}: serves all that come\n"),
        Some(redirect) => format!("{address}, group {group}: {}\n{}", policy(redirect), places(redirect)),
    }
}

fn policy(redirect: &Redirect) -> String {
    let Redirect { policy, check, interval_seconds, timeout_seconds, rise, fall, served_here, .. } = redirect;
    format!(
        "sends to {policy}; check {check} every {interval_seconds} s, timeout {timeout_seconds} s, rise {rise}, fall {fall}; \
         {served_here} served here for want of an address"
    )
}

fn places(redirect: &Redirect) -> String {
    let mut table =
        Columns::new(&["ADDRESS", ">WEIGHT", "STATE", "SINCE", ">SENT", ">SESSIONS", "LAST CHECK"]);
    for place in &redirect.addresses {
        let Place { address, weight, health, since_unix, reason, sent, sessions } = place;
        table.row([
            address.clone(),
            weight.to_string(),
            health.to_string(),
            timestamp(*since_unix),
            sent.to_string(),
            sessions.map_or_else(|| "-".into(), |sessions| sessions.to_string()),
            reason.clone().unwrap_or_default(),
        ]);
    }
    table.render(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use labsan_api::portal::{Health, Policy};

    #[test]
    fn a_portal_shows_where_it_sends_initiators() {
        let place = |address: &str, health, reason: Option<&str>, sessions| Place {
            address: address.into(),
            weight: 1,
            health,
            since_unix: 951_782_400,
            reason: reason.map(str::to_owned),
            sent: 12,
            sessions,
        };
        let redirect = Redirect {
            policy: Policy::LeastSessions,
            check: "http:8080/health".into(),
            interval_seconds: 5,
            timeout_seconds: 2,
            rise: 2,
            fall: 3,
            served_here: 4,
            addresses: vec![
                place("192.0.2.7:3260", Health::Healthy, None, Some(3)),
                place("[2001:db8::7]:3260", Health::Failing, Some("no answer within 2 s"), None),
            ],
        };
        let portal = |address: &str, redirect| Portal { address: address.into(), group: 1, redirect };
        let text = screen(&[portal("192.0.2.1:3260", Some(redirect)), portal("192.0.2.2:3260", None)]);
        assert_eq!(
            text,
            "192.0.2.1:3260, group 1: sends to least-sessions; check http:8080/health every 5 s, timeout 2 s, rise 2, fall 3; \
             4 served here for want of an address\n  \
             ADDRESS             WEIGHT  STATE    SINCE                SENT  SESSIONS  LAST CHECK\n  \
             192.0.2.7:3260           1  healthy  2000-02-29 00:00:00    12         3\n  \
             [2001:db8::7]:3260       1  failing  2000-02-29 00:00:00    12         -  no answer within 2 s\n\
             192.0.2.2:3260, group 1: serves all that come\n"
        );
    }
}

//! Who may log in to a target, and from where?

use std::net::IpAddr;

/// Who may log in to a target. Nobody is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Initiator names that are let in; a trailing `*` stands for any rest, `*` alone for everyone.
    pub initiators: Vec<String>,
    /// Only from this very machine.
    pub loopback_only: bool,
}

impl AccessPolicy {
    /// Is this initiator, coming from there, let in?
    pub fn admits(&self, initiator: &str, peer: IpAddr) -> bool {
        if self.loopback_only && !peer.to_canonical().is_loopback() {
            return false;
        }
        let initiator = initiator.to_ascii_lowercase();
        self.initiators.iter().map(|rule| rule.to_ascii_lowercase()).any(|rule| {
            rule.strip_suffix('*').map_or(rule == initiator, |prefix| initiator.starts_with(prefix))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_in_who_is_not_named() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let policy = |rules: &[&str]| AccessPolicy {
            initiators: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            loopback_only: false,
        };
        assert!(!policy(&[]).admits("iqn.2026-11.x:a", peer));
        assert!(policy(&["iqn.2026-11.x:A"]).admits("iqn.2026-11.x:a", peer));
        assert!(!policy(&["iqn.2026-11.x:a"]).admits("iqn.2026-11.x:ab", peer));
        assert!(policy(&["iqn.2026-11.x:*"]).admits("iqn.2026-11.x:ab", peer));
        let local = AccessPolicy { loopback_only: true, ..policy(&["*"]) };
        assert!(!local.admits("iqn.2026-11.x:a", peer));
        assert!(local.admits("iqn.2026-11.x:a", "::ffff:127.0.0.1".parse().unwrap()));
    }
}

//! Is an address one that initiators can be sent to? What its checks say, so that one lost packet moves nobody.
//!
//! | taken for | checks | then taken for |
//! |---|---|---|
//! | unknown | the first passes | healthy |
//! | unknown | the first fails | failing |
//! | healthy | `fall` in a row fail | failing |
//! | failing | `rise` in a row pass | healthy |

/// How many checks in a row change what an address is taken for; 1 at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passed ones until a failing address is healthy.
    pub rise: u16,
    /// Failed ones until a healthy address is failing.
    pub fall: u16,
}

/// What an address is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No check has ended yet: nobody is sent there.
    Unknown,
    /// Initiators may be sent there.
    Healthy,
    /// Nobody is sent there.
    Failing,
}

/// The checks of one address so far.
#[derive(Debug)]
pub struct Record {
    thresholds: Thresholds,
    health: Health,
    since_unix: u64,
    /// Checks in a row that ended otherwise than what it is taken for.
    against: u16,
    reason: Option<String>,
}

impl Record {
    /// None yet. `now_unix`: seconds since 1970.
    pub fn new(thresholds: Thresholds, now_unix: u64) -> Self {
        Self { thresholds, health: Health::Unknown, since_unix: now_unix, against: 0, reason: None }
    }

    /// What it is taken for.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Since when, in seconds since 1970.
    pub fn since_unix(&self) -> u64 {
        self.since_unix
    }

    /// Why the last check failed, if it did.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// A check has ended; the error says for a person why it failed. What the address is taken for, if that is another now.
    pub fn note(&mut self, result: Result<(), String>, now_unix: u64) -> Option<Health> {
        let seen = if result.is_ok() { Health::Healthy } else { Health::Failing };
        self.reason = result.err();
        if seen == self.health {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match self.health {
            Health::Unknown => 1,
            Health::Healthy => self.thresholds.fall,
            Health::Failing => self.thresholds.rise,
        };
        if self.against < needed {
            return None;
        }
        (self.health, self.against, self.since_unix) = (seen, 0, now_unix);
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a record of rise 2 and fall 3 is taken for after each check; the time is the check's number.
    fn after(checks: &str) -> (Vec<Health>, u64) {
        let mut record = Record::new(Thresholds { rise: 2, fall: 3 }, 0);
        let mut seen = Vec::new();
        for (number, check) in (1..).zip(checks.chars()) {
            let before = record.health();
            let result = if check == '+' { Ok(()) } else { Err("refused".to_owned()) };
            let changed = record.note(result, number);
            assert_eq!(changed, (before != record.health()).then(|| record.health()), "{checks}");
            assert_eq!(record.reason(), (check == '-').then_some("refused"));
            seen.push(record.health());
        }
        (seen, record.since_unix())
    }

    #[test]
    fn the_first_check_decides_and_later_ones_only_in_a_row() {
        use Health::{Failing as F, Healthy as H, Unknown};
        assert_eq!(Record::new(Thresholds { rise: 2, fall: 3 }, 7).health(), Unknown);
        assert_eq!(after("+"), (vec![H], 1));
        assert_eq!(after("-"), (vec![F], 1));
        assert_eq!(after("+--+---"), (vec![H, H, H, H, H, H, F], 7));
        assert_eq!(after("-+-++"), (vec![F, F, F, F, H], 5));
        assert_eq!(after("-++++"), (vec![F, F, H, H, H], 3), "since when it has been so");
    }
}

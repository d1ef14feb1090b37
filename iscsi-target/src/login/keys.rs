//! Every operational key of RFC 7143 section 13, in one table: how it is negotiated, what we offer, where the result
//! goes. Negotiation and `docs/iscsi-conformance.md` follow from it.

use super::parameters::Parameters;
use crate::limits;

/// How a key's value comes about (RFC 7143 section 6.2).
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// The first of the initiator's list that we support.
    List(&'static [&'static str], fn(&mut Parameters, &str)),
    /// Yes if either says so.
    Or(bool, fn(&mut Parameters, bool)),
    /// Yes if both say so.
    And(bool, fn(&mut Parameters, bool)),
    /// The lesser of the two, in a range.
    Minimum(u32, (u32, u32), fn(&mut Parameters, u32)),
    /// The greater of the two, in a range.
    Maximum(u32, (u32, u32), fn(&mut Parameters, u32)),
    /// A number the initiator states of itself; there is no answer.
    Declared((u32, u32), fn(&mut Parameters, u32)),
    /// Text the initiator states of itself; the login reads it elsewhere.
    Stated,
    /// Only in full feature phase, or only sent by targets: refused in a login.
    NotInLogin,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As in the RFC.
    pub name: &'static str,
    /// The section of RFC 7143 that defines it.
    pub section: &'static str,
    /// How it is negotiated.
    pub rule: Rule,
    /// It means nothing in discovery sessions.
    pub normal_only: bool,
    /// "LO": only the connection that begins a session may send it.
    pub leading_only: bool,
}

/// Bounds of lengths.
pub(crate) const MAX_LENGTH: (u32, u32) = (512, 0x00ff_ffff);

const fn key(name: &'static str, section: &'static str, rule: Rule) -> Key {
    Key { name, section, rule, normal_only: false, leading_only: false }
}

const fn leading(name: &'static str, section: &'static str, rule: Rule) -> Key {
    Key { leading_only: true, ..key(name, section, rule) }
}

const fn normal(name: &'static str, section: &'static str, rule: Rule) -> Key {
    Key { normal_only: true, ..leading(name, section, rule) }
}

const fn marker(name: &'static str) -> Key {
    Key { normal_only: true, ..key(name, "13.25", Rule::And(false, |_, _| {})) }
}

/// The table.
pub const KEYS: &[Key] = &[
    key("HeaderDigest", "13.1", Rule::List(&["CRC32C", "None"], |p, v| p.header_digest = v == "CRC32C")),
    key("DataDigest", "13.1", Rule::List(&["CRC32C", "None"], |p, v| p.data_digest = v == "CRC32C")),
    normal(
        "MaxConnections",
        "13.2",
        Rule::Minimum(limits::MAX_SESSION_CONNECTIONS, (1, 65535), |p, v| p.max_connections = v),
    ),
    key("SendTargets", "13.3", Rule::NotInLogin),
    key("TargetName", "13.4", Rule::Stated),
    key("InitiatorName", "13.5", Rule::Stated),
    key("TargetAlias", "13.6", Rule::NotInLogin),
    key("InitiatorAlias", "13.7", Rule::Stated),
    key("TargetAddress", "13.8", Rule::NotInLogin),
    key("TargetPortalGroupTag", "13.9", Rule::NotInLogin),
    normal("InitialR2T", "13.10", Rule::Or(false, |p, v| p.initial_r2t = v)),
    normal("ImmediateData", "13.11", Rule::And(true, |p, v| p.immediate_data = v)),
    key("MaxRecvDataSegmentLength", "13.12", Rule::Declared(MAX_LENGTH, |p, v| p.initiator_max_recv = v)),
    normal("MaxBurstLength", "13.13", Rule::Minimum(limits::MAX_BURST, MAX_LENGTH, |p, v| p.max_burst = v)),
    normal(
        "FirstBurstLength",
        "13.14",
        Rule::Minimum(limits::FIRST_BURST, MAX_LENGTH, |p, v| p.first_burst = v),
    ),
    leading("DefaultTime2Wait", "13.15", Rule::Maximum(2, (0, 3600), |p, v| p.time_to_wait_s = v)),
    leading("DefaultTime2Retain", "13.16", Rule::Minimum(0, (0, 3600), |p, v| p.time_to_retain_s = v)),
    normal(
        "MaxOutstandingR2T",
        "13.17",
        Rule::Minimum(limits::MAX_OUTSTANDING_R2T, (1, 65535), |p, v| p.max_outstanding_r2t = v),
    ),
    // Any order is fine with us, so the initiator decides.
    normal("DataPDUInOrder", "13.18", Rule::Or(false, |p, v| p.data_pdu_in_order = v)),
    normal("DataSequenceInOrder", "13.19", Rule::Or(false, |p, v| p.data_sequence_in_order = v)),
    leading("ErrorRecoveryLevel", "13.20", Rule::Minimum(0, (0, 2), |_, _| {})),
    key("SessionType", "13.21", Rule::Stated),
    normal("TaskReporting", "13.23", Rule::List(&["RFC3720"], |_, _| {})),
    leading("iSCSIProtocolLevel", "13.24", Rule::Minimum(1, (0, 31), |_, _| {})),
    // Markers were dropped by RFC 7143 (section 13.25); older initiators still ask.
    marker("IFMarker"),
    marker("OFMarker"),
];

/// The value is not one that the key can have: the login ends with "initiator error".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no value of {key}")]
pub struct BadValue {
    /// The key.
    pub key: String,
    /// What was sent.
    pub value: String,
}

/// May a connection that joins a session not send this?
pub(super) fn is_leading_only(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name && key.leading_only)
}

/// Negotiate one key: change `parameters`, and give our answer if there is one.
pub fn negotiate(
    parameters: &mut Parameters,
    discovery: bool,
    name: &str,
    value: &str,
) -> Result<Option<String>, BadValue> {
    let bad = || BadValue { key: name.to_owned(), value: value.to_owned() };
    let Some(key) = KEYS.iter().find(|key| key.name == name) else {
        return Ok(Some("NotUnderstood".to_owned()));
    };
    if key.normal_only && discovery {
        return Ok(Some("Irrelevant".to_owned()));
    }
    Ok(match key.rule {
        Rule::Stated => None,
        Rule::NotInLogin => Some("Reject".to_owned()),
        Rule::List(ours, set) => match value.split(',').find(|offer| ours.contains(offer)) {
            Some(choice) => {
                set(parameters, choice);
                Some(choice.to_owned())
            }
            None => Some("Reject".to_owned()),
        },
        Rule::Or(ours, set) => Some(boolean(parameters, set, yes_or_no(value).ok_or_else(bad)? | ours)),
        Rule::And(ours, set) => Some(boolean(parameters, set, yes_or_no(value).ok_or_else(bad)? & ours)),
        Rule::Minimum(ours, range, set) => {
            Some(chosen(parameters, set, number(value, range).ok_or_else(bad)?.min(ours)))
        }
        Rule::Maximum(ours, range, set) => {
            Some(chosen(parameters, set, number(value, range).ok_or_else(bad)?.max(ours)))
        }
        Rule::Declared(range, set) => {
            set(parameters, number(value, range).ok_or_else(bad)?);
            None
        }
    })
}

fn boolean(parameters: &mut Parameters, set: fn(&mut Parameters, bool), result: bool) -> String {
    set(parameters, result);
    if result { "Yes" } else { "No" }.to_owned()
}

fn chosen(parameters: &mut Parameters, set: fn(&mut Parameters, u32), result: u32) -> String {
    set(parameters, result);
    result.to_string()
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// Decimal or hex (RFC 7143 section 6.1), inside the key's range.
pub(crate) fn number(value: &str, (low, high): (u32, u32)) -> Option<u32> {
    crate::text::number(value).filter(|number| (low..=high).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, value: &str) -> (Option<String>, Parameters) {
        let mut parameters = Parameters::default();
        (negotiate(&mut parameters, false, name, value).unwrap(), parameters)
    }

    #[test]
    fn each_rule_gives_the_rfcs_result() {
        assert_eq!(ask("HeaderDigest", "CRC32C,None").0.as_deref(), Some("CRC32C"));
        assert_eq!(ask("HeaderDigest", "None,CRC32C").0.as_deref(), Some("None"));
        assert_eq!(ask("DataDigest", "foo").0.as_deref(), Some("Reject"));
        assert_eq!(
            ask("InitialR2T", "No"),
            (Some("No".into()), Parameters { initial_r2t: false, ..<_>::default() })
        );
        assert_eq!(ask("ImmediateData", "No").0.as_deref(), Some("No"));
        assert_eq!(ask("MaxBurstLength", "16776192").1.max_burst, limits::MAX_BURST);
        assert_eq!(ask("FirstBurstLength", "0x2000").1.first_burst, 8192);
        assert_eq!(ask("DefaultTime2Wait", "0").0.as_deref(), Some("2"));
        assert_eq!(ask("ErrorRecoveryLevel", "2").0.as_deref(), Some("0"));
        assert_eq!(ask("MaxRecvDataSegmentLength", "65536").0, None);
        assert_eq!(ask("X-com.example.thing", "1").0.as_deref(), Some("NotUnderstood"));
        assert_eq!(ask("TargetAlias", "x").0.as_deref(), Some("Reject"));
        assert_eq!(ask("OFMarker", "Yes").0.as_deref(), Some("No"));
        assert_eq!(ask("DataPDUInOrder", "Yes").0.as_deref(), Some("Yes"));
        assert!(ask("DataPDUInOrder", "Yes").1.data_pdu_in_order);
        assert_eq!(ask("DataPDUInOrder", "No").0.as_deref(), Some("No"));
        assert!(!ask("DataPDUInOrder", "No").1.data_pdu_in_order);
        assert!(!ask("DataSequenceInOrder", "No").1.data_sequence_in_order);
    }

    #[test]
    fn values_out_of_range_end_the_login() {
        for (name, value) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "16777216"),
            ("MaxConnections", "0"),
            ("InitialR2T", "yes"),
            ("MaxRecvDataSegmentLength", "-1"),
            ("ErrorRecoveryLevel", "3"),
        ] {
            assert!(negotiate(&mut Parameters::default(), false, name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn discovery_sessions_have_no_use_for_some_keys() {
        let answer = negotiate(&mut Parameters::default(), true, "InitialR2T", "No").unwrap();
        assert_eq!(answer.as_deref(), Some("Irrelevant"));
    }

    #[test]
    fn the_document_lists_every_key() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/iscsi-conformance.md");
        let document = std::fs::read_to_string(path).unwrap();
        for key in KEYS {
            let row = format!("| `{}` | {} |", key.name, key.section);
            assert!(document.contains(&row), "docs/iscsi-conformance.md lacks the row {row}");
        }
    }

    #[test]
    fn the_document_names_tests_that_exist() {
        fn sources(directory: &std::path::Path, all: &mut String) {
            for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    sources(&entry, all);
                } else if entry.extension().is_some_and(|extension| extension == "rs") {
                    all.push_str(&std::fs::read_to_string(entry).unwrap());
                }
            }
        }
        let crate_directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut all = String::new();
        sources(&crate_directory.join("src"), &mut all);
        sources(&crate_directory.join("tests"), &mut all);
        sources(&crate_directory.join("../tests/tests"), &mut all);
        let document = std::fs::read_to_string(crate_directory.join("../docs/iscsi-conformance.md")).unwrap();
        let words = document.split('`').skip(1).step_by(2);
        let names: Vec<&str> =
            words.filter(|word| word.matches('_').count() >= 2 && !word.contains('/')).collect();
        assert!(names.len() > 30, "the document names its tests");
        for name in names {
            assert!(all.contains(&format!("fn {name}(")), "docs/iscsi-conformance.md names {name}");
        }
    }
}

//! Why is a wish about the SAN's configuration refused, what kind of no is it, and what is to be typed?

use iscsi_target::access::AddressError;
use labsan_api::ErrorCode;
use labsan_api::duration;
use labsan_api::names::{self, NameError};
use labsan_api::target::Rule;

/// Why a wish is refused. Nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SanError {
    /// A name or secret that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No such target.
    #[error("there is no target {iqn}")]
    NoTarget {
        /// The name asked for.
        iqn: String,
    },
    /// The target is there with another alias.
    #[error("target {iqn} exists already with the alias \"{alias}\"")]
    TargetDiffers {
        /// Its name.
        iqn: String,
        /// Its alias.
        alias: String,
    },
    /// The number is another volume's.
    #[error("LUN {lun} of {iqn} is already another volume")]
    LunTaken {
        /// The target.
        iqn: String,
        /// The number.
        lun: u16,
    },
    /// The volume is in this target under another number, or with other rights.
    #[error(
        "the volume is already LUN {lun} of {iqn}{}{}",
        for_whom(initiator.as_deref()),
        if *read_only { ", read-only" } else { "" }
    )]
    AlreadyMapped {
        /// The target.
        iqn: String,
        /// For this initiator.
        initiator: Option<String>,
        /// The number it has.
        lun: u16,
        /// Its rights there.
        read_only: bool,
    },
    /// The number meant another disk until lately.
    #[error(
        "LUN {lun} of {iqn} was another disk until lately: a node that remembers that one would write to the wrong disk; \
         it rests for another {}", duration(*left_seconds)
    )]
    LunHeld {
        /// The target.
        iqn: String,
        /// The number.
        lun: u16,
        /// How long it rests.
        left_seconds: u64,
    },
    /// An initiator's own LUNs go before its mask.
    #[error("{initiator} still has LUN {lun} of its own in {iqn}")]
    HasOwnLuns {
        /// The target.
        iqn: String,
        /// The initiator.
        initiator: String,
        /// One of them.
        lun: u16,
    },
    /// No such number.
    #[error("LUN {lun} is too high: initiators reach LUN 0 to {}", names::MAX_LUN)]
    LunTooHigh {
        /// The number asked for.
        lun: u16,
    },
    /// All numbers of the target are used.
    #[error("{iqn} has no free LUN left")]
    NoFreeLun {
        /// The target.
        iqn: String,
    },
    /// A rule that would let in a place.
    #[error("a rule names an initiator or an account: an address alone does not say who may use {iqn}")]
    RuleOfNobody {
        /// The target.
        iqn: String,
    },
    /// Not a network, or not an address of a portal.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A rule for an account that is not there.
    #[error("{iqn} has no CHAP account \"{user}\"")]
    NoAccount {
        /// The target.
        iqn: String,
        /// The account asked for.
        user: String,
    },
    /// An account goes that a rule asks for.
    #[error("CHAP account \"{user}\" of {iqn} is asked for by the rule \"{rule}\"")]
    AccountInRule {
        /// The target.
        iqn: String,
        /// The account.
        user: String,
        /// The rule.
        rule: Box<Rule>,
    },
    /// Without its last account a target would ask for CHAP no longer.
    #[error(
        "\"{user}\" is the only CHAP account of {iqn}: without it nobody would have to prove who they are"
    )]
    LastAccount {
        /// The target.
        iqn: String,
        /// The account.
        user: String,
    },
    /// Denying a name that a pattern still lets in.
    #[error("{initiator} is let in to {iqn} by \"{rule}\"")]
    LetInByPattern {
        /// The target.
        iqn: String,
        /// Who was to be shut out.
        initiator: String,
        /// What lets it in.
        rule: Box<Rule>,
    },
    /// The same user twice.
    #[error("CHAP user \"{user}\" is given twice")]
    UserTwice {
        /// The name.
        user: String,
    },
    /// Both directions with one secret, which lets an attacker reflect the challenge.
    #[error("the mutual CHAP secret must differ from the initiators' (RFC 7143 section 9.2.1)")]
    SameSecret,
    /// A limit is reached.
    #[error("{what}: at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

fn for_whom(initiator: Option<&str>) -> String {
    initiator.map_or_else(String::new, |initiator| format!(" for {initiator}"))
}

impl SanError {
    /// What kind of no it is.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NoTarget { .. } | Self::NoAccount { .. } => ErrorCode::NotFound,
            Self::TargetDiffers { .. } | Self::AlreadyMapped { .. } => ErrorCode::Different,
            Self::LunTaken { .. } | Self::NoFreeLun { .. } => ErrorCode::Taken,
            Self::LetInByPattern { .. } | Self::AccountInRule { .. } | Self::HasOwnLuns { .. } => {
                ErrorCode::InUse
            }
            Self::LastAccount { .. } | Self::LunHeld { .. } => ErrorCode::Unsafe,
            _ => ErrorCode::Invalid,
        }
    }

    /// What to type next.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoTarget { iqn } => format!("make it: raidctl target create {iqn}"),
            Self::LunTaken { iqn, .. } => {
                format!("leave --lun out, or unmap the other: raidctl lun list ({iqn})")
            }
            Self::AlreadyMapped { iqn, initiator, lun, .. } => {
                let whose =
                    initiator.as_ref().map_or_else(String::new, |name| format!(" --initiator {name}"));
                format!("unmap it first: raidctl lun unmap {iqn} {lun}{whose}")
            }
            Self::LunHeld { .. } => {
                "leave --lun out for another number; if no node remembers that disk (it was \
                 logged out or never saw it), say the same with --force"
                    .into()
            }
            Self::HasOwnLuns { iqn, initiator, lun } => {
                format!("unmap it first: raidctl lun unmap {iqn} {lun} --initiator {initiator}")
            }
            Self::LetInByPattern { iqn, rule, .. } => {
                format!("deny that instead: raidctl target deny {iqn} {}", rule.options())
            }
            Self::RuleOfNobody { .. } => "for anybody from there, add --initiator '*'".into(),
            Self::NoAccount { iqn, user } => {
                format!("make it: raidctl target chap {iqn} --add --user {user} --secret-file FILE")
            }
            Self::AccountInRule { iqn, rule, .. } => {
                format!("deny that first: raidctl target deny {iqn} {}", rule.options())
            }
            Self::LastAccount { iqn, .. } => {
                format!("if that is what you want: raidctl target chap {iqn} --off")
            }
            _ => return None,
        })
    }
}

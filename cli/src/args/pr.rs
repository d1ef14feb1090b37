//! `raidctl pr`

use clap::Subcommand;
use labsan_api::VolumePath;

use super::Confirm;

/// A LUN by its volume, or by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LunName {
    /// ARRAY/NAME.
    Volume(VolumePath),
    /// TARGET#LUN, as `volume list` shows it.
    Place(String, u16),
}

impl std::str::FromStr for LunName {
    type Err = labsan_api::NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((target, lun)) = text.split_once('#')
            && let Ok(lun) = lun.parse()
        {
            return Ok(Self::Place(target.to_owned(), lun));
        }
        text.parse().map(Self::Volume)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PrCommand {
    /// Who has registered with a LUN, who holds it, and which of them are logged in.
    List {
        /// ARRAY/NAME, or TARGET#LUN [default: all].
        lun: Option<LunName>,
    },
    /// Take a key, or all, off a LUN: for what its node left behind. What its holder reserved is free then.
    Purge {
        /// ARRAY/NAME, or TARGET#LUN.
        lun: LunName,
        /// The key, in hex.
        #[arg(long, value_parser = parse_key, required_unless_present = "all")]
        key: Option<u64>,
        /// Everything, also what cannot be read: the LUN is served again then, to everybody.
        #[arg(long, conflicts_with = "key")]
        all: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
}

fn parse_key(text: &str) -> Result<u64, &'static str> {
    labsan_api::reservation::parse_key(text).ok_or("give up to 16 hexadecimal digits, not all 0")
}

//! What can raidctl be told? Nouns, then verbs. Help, completions and man pages all come from here.

mod pr;
mod san;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use labsan_api::{Size, VolumePath};

pub(crate) use pr::{LunName, PrCommand};
pub(crate) use san::{ChapArgs, LunCommand, RuleArgs, TargetCommand};

/// Command line of the labsan storage appliance.
#[derive(Debug, Parser)]
#[command(
    name = "raidctl",
    version,
    about,
    max_term_width = 100,
    after_help = "Exit codes: 0 done or all well; 1 works, but redundancy is not whole; 2 something is unusable;\n\
                  3 refused by a safety rule; 4 could not be done; 64 wrong usage."
)]
pub(crate) struct Cli {
    /// Where labsand listens.
    #[arg(long, global = true, value_name = "PATH", env = "LABSAN_SOCKET", default_value = labsan_api::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Answer in JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How everything is, and what to do about it. Exits 1 when redundancy is not whole, 2 when something is unusable.
    Status,
    /// What happened, under mdadm's names.
    Events(EventsArgs),
    /// Disks and what is on them.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Arrays: disks made into one, with redundancy.
    #[command(subcommand)]
    Array(ArrayCommand),
    /// Volumes: parts of an array that can be exported.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// iSCSI targets and who may use them.
    #[command(subcommand)]
    Target(TargetCommand),
    /// LUNs: volumes made visible in a target.
    #[command(subcommand)]
    Lun(LunCommand),
    /// Portals: addresses that serve iSCSI, and where they send initiators.
    #[command(subcommand)]
    Portal(PortalCommand),
    /// Who is logged in.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Persistent reservations: which nodes may write to a LUN.
    #[command(subcommand)]
    Pr(PrCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory.
    Man {
        /// The directory; it must exist.
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Stay and print what happens, until Ctrl-C.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Only events after this number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) after: u64,
}

/// For verbs that destroy something or take it from someone.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Confirm {
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// For verbs that start long work.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until the array is optimal.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this many seconds (exit code 4).
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Say what is on disks, by looking at them directly; labsand need not run. Changes nothing.
    Examine {
        /// Disks or files.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// The disks labsand sees, and what they are used for.
    List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyName {
    /// A journal closes the write hole (RAID 5 and 6).
    Journal,
    /// md's write-intent bitmap: a short resync after a crash.
    Bitmap,
    /// Nothing: a full resync after a crash.
    None,
}

#[derive(Debug, Args)]
pub(crate) struct ArrayCreate {
    /// Name of the new array.
    pub(crate) name: String,
    /// RAID level: 0, 1, 5, 6 or 10.
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    pub(crate) level: u32,
    /// The disks, in order. Paths that do not exist need --create-size.
    #[arg(required = true, value_name = "DISK")]
    pub(crate) disks: Vec<PathBuf>,
    /// A disk that waits to take a failed one's place. May be given several times.
    #[arg(long, value_name = "DISK")]
    pub(crate) spare: Vec<PathBuf>,
    /// How much of a stripe lies on one disk: 4KiB to 1MiB, a power of two [default: 64KiB].
    #[arg(long, value_name = "SIZE")]
    pub(crate) chunk: Option<Size>,
    /// What keeps it consistent across crashes [default: the best for the level].
    #[arg(long, value_enum)]
    pub(crate) policy: Option<PolicyName>,
    /// Make files of this size where a path does not exist, with all their space.
    #[arg(long, value_name = "SIZE")]
    pub(crate) create_size: Option<Size>,
    /// Make those files sparse: they take space as data is written.
    #[arg(long, requires = "create_size")]
    pub(crate) sparse: bool,
    /// Overwrite what the disks hold now.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitGoal {
    /// Every member is in sync.
    #[default]
    Optimal,
    /// Nothing runs in the background.
    Idle,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ArrayCommand {
    /// Make a new array.
    Create(ArrayCreate),
    /// All arrays.
    List,
    /// One array in full. Exits 1 when its redundancy is not whole, 2 when it is unusable.
    Show {
        /// The array.
        array: String,
    },
    /// Start arrays from their disks.
    Start {
        /// The disks of the array.
        #[arg(value_name = "DISK", required_unless_present = "scan", conflicts_with = "scan")]
        disks: Vec<PathBuf>,
        /// Start everything that the configuration's `scan` finds.
        #[arg(long)]
        scan: bool,
        /// Start also what is refused because some data could not be told right after it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Stop an array cleanly; its disks are then plain md members.
    Stop {
        /// The array.
        array: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Destroy an array. Its volumes must be deleted first.
    Delete {
        /// The array.
        array: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take a disk out of use, as if it had failed.
    Fail {
        /// The array.
        array: String,
        /// The disk.
        disk: PathBuf,
        /// Also while a resync still needs it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take a failed disk or a spare off the array.
    Remove {
        /// The array.
        array: String,
        /// The disk.
        disk: PathBuf,
    },
    /// Give the array a disk: to be rebuilt if one is missing, else as a spare.
    Add {
        /// The array.
        array: String,
        /// The disk.
        disk: PathBuf,
        /// Overwrite what it holds now.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Wait for an array. Exits 1 or 2 if it will not get there by itself, 4 when the time is up.
    Wait {
        /// The array.
        array: String,
        /// What to wait for.
        #[arg(long = "for", value_enum, default_value_t)]
        goal: WaitGoal,
        /// Give up after this many seconds.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
}

/// A size, or `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeOrMax {
    /// So many bytes.
    Size(Size),
    /// All that is free.
    Max,
}

impl std::str::FromStr for SizeOrMax {
    type Err = labsan_api::SizeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("max") { Ok(Self::Max) } else { text.parse().map(Self::Size) }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    On,
    #[default]
    Off,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume.
    Create {
        /// ARRAY/NAME.
        volume: VolumePath,
        /// Its size, for example 10GiB, or `max` for all that is free.
        #[arg(long)]
        size: SizeOrMax,
        /// `on`: acknowledge writes from memory; SYNCHRONIZE CACHE and FUA make them durable.
        #[arg(long, value_enum, default_value_t)]
        write_cache: OnOff,
        /// The physical block that initiators are told, for those that cannot stand 4096: 512 or 4096 [default: as the disks].
        #[arg(long, value_name = "BYTES", value_parser = parse_physical_block)]
        physical_block: Option<u32>,
    },
    /// All volumes.
    List,
    /// Change a volume's size; nodes that use it are told. A smaller size destroys the data beyond it.
    Resize {
        /// ARRAY/NAME.
        volume: VolumePath,
        /// Its new size.
        #[arg(long)]
        size: Size,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Destroy a volume and its data.
    Delete {
        /// ARRAY/NAME.
        volume: VolumePath,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortalCommand {
    /// All portals; of those that send initiators elsewhere how, where, and whether that works.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Who is logged in.
    List,
    /// End a session. The initiator may log in again if it is allowed to.
    Drop {
        /// Its id, from `session list`.
        session: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

fn parse_level(text: &str) -> Result<u32, raid_core::geometry::UnknownLevel> {
    text.parse::<raid_core::geometry::Level>().map(raid_core::geometry::Level::number)
}

fn parse_physical_block(text: &str) -> Result<u32, String> {
    let known = labsan_api::volume::PHYSICAL_BLOCKS.into_iter().find(|bytes| bytes.to_string() == text);
    known.ok_or_else(|| "a physical block has 512 or 4096 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_forms_are_understood() {
        for line in [
            "status",
            "--socket /s status --json",
            "events --follow",
            "disk examine a b",
            "disk list",
            "array create demo --level raid5 a b c --spare d --chunk 64KiB --policy bitmap",
            "array create demo --level 1 --create-size 1GiB --sparse a b --yes --wait --timeout 5",
            "array start --scan",
            "array start a b c",
            "array wait demo --for optimal --timeout 60",
            "array add demo d --wait",
            "volume create demo/lun0 --size max --write-cache on",
            "volume resize demo/lun0 --size 2TiB",
            "target chap iqn.2026-11.org.labsan:x --user u --secret-file f --mutual t --mutual-secret-file g",
            "target chap iqn.2026-11.org.labsan:x --off",
            "target chap iqn.2026-11.org.labsan:x --add --user u --secret-file -",
            "target chap iqn.2026-11.org.labsan:x --remove u --drop-sessions",
            "target allow iqn.2026-11.org.labsan:x * --loopback-only",
            "target allow iqn.2026-11.org.labsan:x --initiator * --account u --network 10.0.0.0/8 --portal 10.0.0.9",
            "target allow iqn.2026-11.org.labsan:x --account u",
            "target deny iqn.2026-11.org.labsan:x iqn.2026-11.org.example:a --drop-sessions",
            "target deny iqn.2026-11.org.labsan:x --network 10.0.0.0/8",
            "lun map iqn.2026-11.org.labsan:x demo/lun0 --lun 3 --read-only",
            "lun map iqn.2026-11.org.labsan:x demo/lun0 --lun 0 --initiator iqn.2026-11.org.example:a --force --yes",
            "lun unmap iqn.2026-11.org.labsan:x 3 -y",
            "lun unmap iqn.2026-11.org.labsan:x 3 --initiator iqn.2026-11.org.example:a",
            "lun mask iqn.2026-11.org.labsan:x iqn.2026-11.org.example:a",
            "lun unmask iqn.2026-11.org.labsan:x iqn.2026-11.org.example:a --force",
            "session drop 7 --yes",
            "pr list",
            "pr list demo/lun0",
            "pr list iqn.2026-11.org.labsan:x#0 --json",
            "pr purge demo/lun0 --key 0x123abc --yes",
            "pr purge iqn.2026-11.org.labsan:x#0 --all",
            "completions bash",
        ] {
            let words = ["raidctl"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "array start",
            "array start --scan a",
            "array create demo a b c",
            "array create demo --level 7 a b c",
            "array create demo --level 5 --sparse a b c",
            "volume create demo --size 1GiB",
            "volume create demo/lun0 --size 1GB",
            "target chap iqn.2026-11.org.labsan:x",
            "target chap iqn.2026-11.org.labsan:x --user u",
            "target chap iqn.2026-11.org.labsan:x --add",
            "target chap iqn.2026-11.org.labsan:x --add --user u --secret-file f --mutual t --mutual-secret-file g",
            "target chap iqn.2026-11.org.labsan:x --remove u --off",
            "target allow iqn.2026-11.org.labsan:x",
            "target allow iqn.2026-11.org.labsan:x a --initiator b",
            "target deny iqn.2026-11.org.labsan:x",
            "lun unmap iqn.2026-11.org.labsan:x many",
            "lun map iqn.2026-11.org.labsan:x demo/lun0 --force",
            "pr purge demo/lun0",
            "pr purge demo/lun0 --key 0",
            "pr purge demo/lun0 --key 1 --all",
        ] {
            let words = ["raidctl"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}

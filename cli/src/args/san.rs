//! `raidctl target ...` and `raidctl lun ...`: what may be said.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use labsan_api::VolumePath;
use labsan_api::target::PathState;

use super::Confirm;

#[derive(Debug, Args)]
pub(crate) struct ChapArgs {
    /// The target.
    pub(crate) target: String,
    /// The user that initiators log in as.
    #[arg(long, required_unless_present_any = ["off", "remove"], requires = "secret_file")]
    pub(crate) user: Option<String>,
    /// File with its secret on the first line; - for standard input.
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Keep the accounts that there are, and add this one (or give it another secret).
    #[arg(long, requires = "user", conflicts_with = "mutual")]
    pub(crate) add: bool,
    /// Take one account away.
    #[arg(long, value_name = "USER", conflicts_with_all = ["user", "mutual", "off"])]
    pub(crate) remove: Option<String>,
    /// The user that the target proves itself as, in return.
    #[arg(long, value_name = "USER", requires = "mutual_secret_file", requires = "user")]
    pub(crate) mutual: Option<String>,
    /// File with that secret.
    #[arg(long, value_name = "FILE", requires = "mutual")]
    pub(crate) mutual_secret_file: Option<PathBuf>,
    /// Ask for CHAP no longer.
    #[arg(long, conflicts_with_all = ["user", "mutual"])]
    pub(crate) off: bool,
    /// Also end the sessions that would not be let in any more: those of accounts that are gone.
    #[arg(long, conflicts_with = "add")]
    pub(crate) drop_sessions: bool,
}

/// Who is let in, from where and by what.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct RuleArgs {
    /// Its name, the beginning of names followed by '*', or '*' for anybody.
    #[arg(conflicts_with = "named")]
    pub(crate) initiator: Option<String>,
    /// The same.
    #[arg(long = "initiator", value_name = "NAME", id = "named")]
    pub(crate) named: Option<String>,
    /// The CHAP account by which it has to log in.
    #[arg(long, value_name = "USER")]
    pub(crate) account: Option<String>,
    /// The network it comes from, for example 192.0.2.0/24 or 2001:db8::/32.
    #[arg(long, value_name = "CIDR")]
    pub(crate) network: Option<String>,
    /// The address of this SAN that it connects to, with or without a port.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) portal: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// Make a target. It lets nobody in until `allow`.
    Create {
        /// Its name, for example iqn.2026-11.org.example:cluster1.
        target: String,
        /// A name for people.
        #[arg(long)]
        alias: Option<String>,
    },
    /// All targets.
    List,
    /// Take a target away, with its LUN map and access list. Volumes are kept.
    Delete {
        /// The target.
        target: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Let initiators in. All conditions of one rule must hold; whom one of the rules lets in is let in.
    Allow {
        /// The target.
        target: String,
        #[command(flatten)]
        rule: RuleArgs,
        /// Only connections from this machine.
        #[arg(long)]
        loopback_only: bool,
        /// Connections from everywhere, after all.
        #[arg(long, conflicts_with = "loopback_only")]
        from_anywhere: bool,
    },
    /// Let initiators in no longer: takes away every rule that has all of these conditions.
    Deny {
        /// The target.
        target: String,
        #[command(flatten)]
        rule: RuleArgs,
        /// Also end the sessions of those whom no rule lets in any more.
        #[arg(long)]
        drop_sessions: bool,
    },
    /// Ask initiators for a password (CHAP).
    Chap(ChapArgs),
    /// Say what initiators may do through a target that is one of several ways to its volumes (ALUA).
    State {
        /// The target.
        target: String,
        /// The state.
        #[arg(value_parser = path_state)]
        state: PathState,
    },
}

fn path_state(text: &str) -> Result<PathState, String> {
    let names = PathState::ALL.map(|(_, name)| name).join(", ");
    let found = PathState::ALL.into_iter().find(|(_, name)| *name == text);
    found.map(|(state, _)| state).ok_or_else(|| format!("it is one of {names}"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum LunCommand {
    /// Make a volume visible in a target, to all initiators or to one.
    Map {
        /// The target.
        target: String,
        /// ARRAY/NAME.
        volume: VolumePath,
        /// Its number [default: the next that was not used lately].
        #[arg(long)]
        lun: Option<u16>,
        /// To this initiator alone. It then sees only LUNs of its own in that target, not the common ones.
        #[arg(long, value_name = "NAME")]
        initiator: Option<String>,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
        /// Take the number though it was another disk until lately.
        #[arg(long, requires = "lun")]
        force: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take a LUN out of a target. The volume is kept.
    Unmap {
        /// The target.
        target: String,
        /// Its number.
        lun: u16,
        /// One of this initiator's own LUNs.
        #[arg(long, value_name = "NAME")]
        initiator: Option<String>,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Let an initiator see only LUNs of its own in a target: none until `lun map --initiator`.
    Mask {
        /// The target.
        target: String,
        /// The initiator's name.
        initiator: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Let an initiator that has no LUN of its own any more see the common ones again.
    Unmask {
        /// The target.
        target: String,
        /// The initiator's name.
        initiator: String,
        /// Though numbers of common LUNs were other disks to it until lately.
        #[arg(long)]
        force: bool,
    },
    /// All LUNs.
    List,
}

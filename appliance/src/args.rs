//! What can labsand be told on its command line?

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use labsan_api::Size;

use crate::config::{EngineName, Portal};

/// The labsan daemon: software RAID, exported as iSCSI LUNs.
#[derive(Debug, Parser)]
#[command(name = "labsand", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// The configuration file [default: /etc/labsan/labsan.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to do [default: serve].
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What labsand can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve what the configuration file and the disks say.
    Serve,
    /// A whole SAN of file disks in one directory: four disks and a spare, RAID 5, one LUN on this machine.
    ///
    /// No root, no configuration. A second run opens what the first one made. Ctrl-C stops it cleanly.
    Demo(DemoArgs),
}

/// Where the configuration is if nobody says otherwise.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/labsan/labsan.toml";

/// `labsand demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the disks are kept; made if it does not exist.
    #[arg(value_name = "DIR", default_value = "labsan-demo")]
    pub(crate) dir: PathBuf,
    /// The address that serves iSCSI.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3260", value_parser = parse_portal)]
    pub(crate) listen: SocketAddr,
    /// Size of each disk [default: 256MiB].
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_size: Option<Size>,
    /// RAID level: 0, 1, 5, 6 or 10 [default: 5].
    #[arg(long, value_name = "LEVEL")]
    pub(crate) level: Option<u32>,
    /// Number of disks, without the spare [default: 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=64))]
    pub(crate) disks: Option<u16>,
    /// Take space only as data is written; writes fail if the file system fills up.
    #[arg(long)]
    pub(crate) sparse: bool,
    /// What carries disk I/O.
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = EngineName::Auto)]
    pub(crate) engine: EngineName,
}

fn parse_portal(text: &str) -> Result<SocketAddr, crate::config::ValueError> {
    text.parse::<Portal>().map(|portal| portal.address)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

//! By which addresses is the target reached, and which of them is an initiator told? (RFC 7143 appendix C.)
//!
//! Every portal leads to every target. Portals of one group may share a session's connections; a session is with the group
//! that its portal is in.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::access::Caller;
use crate::registry::Connected;

/// An address that serves iSCSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Where to listen; port 0 lets the system choose.
    pub address: SocketAddr,
    /// TargetPortalGroupTag.
    pub group: u16,
}

impl From<SocketAddr> for Portal {
    fn from(address: SocketAddr) -> Self {
        Self { address, group: crate::scsi::PORTAL_GROUP_TAG }
    }
}

/// The portals of a server, and by which of them somebody came.
#[derive(Clone, Debug)]
pub(super) struct CameBy {
    /// All of them, with the ports that were chosen.
    pub(super) portals: std::sync::Arc<[Portal]>,
    /// The one.
    pub(super) index: usize,
    /// Our end of the connection.
    pub(super) local: SocketAddr,
    /// The initiator's.
    pub(super) peer: SocketAddr,
}

impl CameBy {
    /// The tag of the group that was come to.
    pub(super) fn group(&self) -> u16 {
        self.portals[self.index].group
    }

    /// Who has come there, by this name.
    pub(super) fn caller<'a>(&self, initiator: &'a str) -> Caller<'a> {
        Caller { initiator, peer: self.peer, local: self.local }
    }

    /// A connection that has logged in there by this account.
    pub(super) fn connected(&self, account: Option<String>) -> Connected {
        Connected { peer: self.peer, local: self.local, account }
    }

    /// Our end as it is written.
    pub(super) fn own(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip().to_canonical(), self.local.port())
    }

    /// What to tell this initiator: the address that it is known to reach first, then the others that it may reach.
    pub(super) fn addresses(&self, loopback_only: bool) -> Vec<(SocketAddr, u16)> {
        let own = self.own();
        let mut addresses = vec![(own, self.group())];
        for (index, portal) in self.portals.iter().enumerate() {
            let other = (index != self.index).then(|| self.other(*portal, own.ip())).flatten();
            let of_use = |address: &SocketAddr| self.may_reach(address.ip(), loopback_only);
            if let Some(address) = other.filter(of_use)
                && addresses.iter().all(|(known, _)| *known != address)
            {
                addresses.push((address, portal.group));
            }
        }
        addresses
    }

    /// The address of another portal. A wildcard has all of ours, so also the one that was come to.
    fn other(&self, portal: Portal, own: IpAddr) -> Option<SocketAddr> {
        let ip = portal.address.ip();
        if !ip.is_unspecified() {
            return Some(SocketAddr::new(ip.to_canonical(), portal.address.port()));
        }
        let serves =
            own.is_ipv4() == ip.is_ipv4() || (ip.is_ipv6() && !has_ipv4_beside(&self.portals, portal));
        serves.then(|| SocketAddr::new(own, portal.address.port()))
    }

    /// Loopback addresses lead nowhere from elsewhere, and link-local ones need a link that names do not tell.
    pub(super) fn may_reach(&self, ip: IpAddr, loopback_only: bool) -> bool {
        let from_here = self.peer.ip().to_canonical().is_loopback();
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        match ip.is_loopback() {
            true => from_here,
            // From here by another address, an initiator does not come from a loopback address.
            false => !(link_local || (from_here && loopback_only)),
        }
    }
}

/// Is there an IPv4 wildcard for the port of this IPv6 one?
fn has_ipv4_beside(portals: &[Portal], portal: Portal) -> bool {
    portals.iter().any(|other| {
        let ip = other.address.ip();
        ip.is_ipv4() && ip.is_unspecified() && other.address.port() == portal.address.port()
    })
}

/// Listen on all of them. The error names the one that cannot be had.
pub(super) fn listen(portals: &[Portal]) -> Result<Vec<std::net::TcpListener>, (SocketAddr, io::Error)> {
    let listen = |portal: &Portal| {
        let only_v6 = has_ipv4_beside(portals, *portal);
        listen_on(portal.address, only_v6).map_err(|error| (portal.address, error))
    };
    portals.iter().map(listen).collect()
}

fn listen_on(address: SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted target must get its port back though old connections linger.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Without an IPv4 wildcard beside it, it serves IPv4 too, whatever the system's default is.
        socket.set_only_v6(only_v6)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody from `peer` is told who came to `local` by the portal of this index.
    fn told(
        portals: &[(&str, u16)],
        index: usize,
        local: &str,
        peer: &str,
        loopback_only: bool,
    ) -> Vec<String> {
        let portal =
            |(address, group): &(&str, u16)| Portal { address: address.parse().unwrap(), group: *group };
        let came = CameBy {
            portals: portals.iter().map(portal).collect(),
            index,
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
        };
        came.addresses(loopback_only).iter().map(|(address, group)| format!("{address},{group}")).collect()
    }

    #[test]
    fn all_portals_of_all_groups_are_told() {
        let portals = [("10.0.0.1:3260", 1), ("10.0.1.1:3260", 2), ("[fd00::1]:3261", 2)];
        let expected = ["10.0.1.1:3260,2", "10.0.0.1:3260,1", "[fd00::1]:3261,2"];
        assert_eq!(told(&portals, 1, "10.0.1.1:3260", "10.0.1.9:5000", false), expected);
    }

    #[test]
    fn wildcards_answer_with_the_address_that_was_come_to() {
        let portals = [("0.0.0.0:3260", 1), ("[::]:3260", 1), ("0.0.0.0:3261", 2), ("[::]:3262", 3)];
        assert_eq!(
            told(&portals, 0, "10.0.0.1:3260", "10.0.0.9:5000", false),
            ["10.0.0.1:3260,1", "10.0.0.1:3261,2", "10.0.0.1:3262,3"],
            "[::]:3260 leaves IPv4 to its neighbour, [::]:3262 has none"
        );
        assert_eq!(
            told(&portals, 1, "[fd00::1]:3260", "[fd00::9]:5000", false),
            ["[fd00::1]:3260,1", "[fd00::1]:3262,3"]
        );
        assert_eq!(
            told(&[("[::]:3260", 1)], 0, "[::ffff:10.0.0.1]:3260", "[::ffff:10.0.0.9]:5000", false),
            ["10.0.0.1:3260,1"]
        );
    }

    #[test]
    fn what_leads_nowhere_is_not_told() {
        let portals = [("127.0.0.1:3260", 1), ("10.0.0.1:3260", 1), ("[fe80::1]:3260", 1), ("[::1]:3260", 1)];
        assert_eq!(told(&portals, 1, "10.0.0.1:3260", "10.0.0.9:5000", false), ["10.0.0.1:3260,1"]);
        assert_eq!(
            told(&portals, 0, "127.0.0.1:3260", "127.0.0.1:5000", false),
            ["127.0.0.1:3260,1", "10.0.0.1:3260,1", "[::1]:3260,1"]
        );
        assert_eq!(
            told(&portals, 0, "127.0.0.1:3260", "127.0.0.1:5000", true),
            ["127.0.0.1:3260,1", "[::1]:3260,1"]
        );
        assert_eq!(
            told(&portals, 2, "[fe80::1]:3260", "[fe80::9]:5000", false)[0],
            "[fe80::1]:3260,1",
            "the link is known to whoever came by it"
        );
    }
}

//! What do the `[[redirect]]` tables of `labsan.toml` say, and can it be so?
//!
//! No address of ours that redirects is one that initiators are sent to, but the portal's own: whoever is sent to a portal of
//! this host is served there, so nobody is sent around in a circle. Those of this host are in the portal group of the portal
//! that sends there: only then does a session that comes again take the place of its former self (RFC 7143 section 6.3.5).

use std::net::{IpAddr, SocketAddr};

use labsan_api::portal::Policy;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{Portal, Seconds, ValueError};
use crate::limits::{MAX_CHECK_PATH_BYTES, MAX_REDIRECT_ADDRESSES, MAX_REDIRECT_WEIGHT};

/// One table: a portal that sends initiators to other addresses.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redirect {
    /// Which portal.
    pub(crate) portal: Portal,
    /// How an address is chosen.
    pub(crate) policy: Policy,
    /// Where initiators may be sent.
    pub(crate) addresses: Vec<Place>,
    /// How an address is checked.
    #[serde(default)]
    pub(crate) health: Check,
    /// From one check to the next.
    #[serde(default = "default_interval")]
    pub(crate) interval: Seconds,
    /// What a check may take.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: Seconds,
    /// Checks in a row that a failing address must pass.
    #[serde(default = "default_rise")]
    pub(crate) rise: u16,
    /// Checks in a row that a healthy address must fail.
    #[serde(default = "default_fall")]
    pub(crate) fall: u16,
}

fn default_interval() -> Seconds {
    Seconds(5)
}

fn default_timeout() -> Seconds {
    Seconds(2)
}

fn default_rise() -> u16 {
    2
}

fn default_fall() -> u16 {
    3
}

/// An address, with or without a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// With iSCSI's port unless another is given.
    pub(crate) address: SocketAddr,
    /// Its share, if one is given.
    pub(crate) weight: Option<u16>,
}

impl Place {
    fn new(text: &str, weight: Option<u16>) -> Result<Self, ValueError> {
        if text.contains(',') {
            return Err(ValueError::Tagged(text.to_owned()));
        }
        if weight.is_some_and(|weight| weight == 0 || weight > MAX_REDIRECT_WEIGHT) {
            return Err(ValueError::Weight(text.to_owned()));
        }
        let Portal { address, .. } = text.parse()?;
        Ok(Self { address, weight })
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PlaceVisitor)
    }
}

struct PlaceVisitor;

impl<'de> Visitor<'de> for PlaceVisitor {
    type Value = Place;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an address such as \"192.0.2.2:3260\", or { address = \"192.0.2.2:3260\", weight = 2 }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Place, E> {
        Place::new(text, None).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Place, A::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            address: String,
            weight: Option<u16>,
        }
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        Place::new(&table.address, table.weight).map_err(serde::de::Error::custom)
    }
}

/// How it is found out whether initiators can be sent to an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Check {
    /// It takes a TCP connection.
    #[default]
    Tcp,
    /// GET of this path on this port of it is answered with 2xx.
    Http {
        /// Of the same host.
        port: u16,
        /// With the query, if there is one.
        path: String,
    },
}

impl TryFrom<String> for Check {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        if text == "tcp" {
            return Ok(Self::Tcp);
        }
        let place = text.strip_prefix("http:").and_then(|rest| Some(rest.split_at(rest.find('/')?)));
        let parsed = place.and_then(|(port, path)| {
            let port = port.parse().ok().filter(|port| *port > 0)?;
            let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            (plain && path.len() <= MAX_CHECK_PATH_BYTES).then(|| Self::Http { port, path: path.to_owned() })
        });
        parsed.ok_or(ValueError::Check(text))
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Http { port, path } => write!(f, "http:{port}{path}"),
        }
    }
}

/// A table that cannot be, and what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("redirect of portal {portal}: {problem}")]
pub(crate) struct RedirectError {
    portal: SocketAddr,
    problem: Problem,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("it is none of the portals ({portals}): add it to portals, or name one of them")]
    NotAPortal { portals: String },
    #[error(
        "a portal that redirects needs an address and a port of its own: list the host's addresses one by one in portals"
    )]
    NotNamed,
    #[error("there are two tables for it: make them one")]
    Twice,
    #[error("it has no address to send anybody to: name some in addresses, or leave the table out")]
    NoAddress,
    #[error("more than {MAX_REDIRECT_ADDRESSES} addresses")]
    TooMany,
    #[error(
        "{0} is there twice: to have more initiators sent there, give it a weight and use policy = \"weighted\""
    )]
    SameAddress(SocketAddr),
    #[error("{0} leads nowhere from an initiator: give the address and port by which initiators reach it")]
    Nowhere(SocketAddr),
    #[error(
        "{0} is a loopback address, and whoever comes to {1} may be on another machine: give one that it can reach"
    )]
    Loopback(SocketAddr, SocketAddr),
    #[error(
        "{0} redirects as well, and initiators could be sent around in a circle: send them where it sends them"
    )]
    Redirects(SocketAddr),
    #[error(
        "{address} is in portal group {group} and this one in {own}: a session that comes again there would not take \
         the place of its former self; put both in one group, as in portals = [\"{address},{own}\"]"
    )]
    OtherGroup { address: SocketAddr, group: u16, own: u16 },
    #[error(
        "{address} may be this host's, of portal {wildcard} in portal group {group}, and this one is in {own}: a session that \
         comes again there would not take the place of its former self; put both in one group, as in portals = \
         [\"{wildcard},{own}\"], or list the host's addresses one by one"
    )]
    WildcardGroup { address: SocketAddr, wildcard: SocketAddr, group: u16, own: u16 },
    #[error("a weight means nothing to policy = \"{0}\": leave it out, or use policy = \"weighted\"")]
    Weight(Policy),
    #[error(
        "policy = \"least-sessions\" needs the number of sessions at {0}, which is none of this host's portals by its own \
         address: use health = \"http:PORT/PATH\" with something there that answers {{\"sessions\": N}}, or another policy"
    )]
    NoCount(SocketAddr),
    #[error("timeout must be 1s at least and no longer than interval, which is 5s if it is not given")]
    Times,
    #[error("rise and fall are numbers of checks, 1 at least")]
    Thresholds,
}

/// An address as initiators are told it.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The portal of this host that has this address as its own.
pub(crate) fn own_portal(portals: &[Portal], address: SocketAddr) -> Option<usize> {
    portals.iter().position(|portal| canonical(portal.address) == canonical(address))
}

/// The portal that serves this address if it is this host's: one for all addresses.
fn wildcard_portal(portals: &[Portal], address: SocketAddr) -> Option<&Portal> {
    portals.iter().find(|portal| {
        let all = portal.address;
        all.ip().is_unspecified() && all.port() == address.port() && (all.is_ipv6() || address.is_ipv4())
    })
}

/// Can all of these tables be, beside each other and these portals?
pub(super) fn check(tables: &[Redirect], portals: &[Portal]) -> Result<(), RedirectError> {
    for (index, table) in tables.iter().enumerate() {
        let problem = |problem| RedirectError { portal: table.portal.address, problem };
        let same = |other: &Redirect| canonical(other.portal.address) == canonical(table.portal.address);
        if tables[..index].iter().any(same) {
            return Err(problem(Problem::Twice));
        }
        check_portal(table, portals).map_err(problem)?;
        check_checks(table).map_err(problem)?;
        check_addresses(table).map_err(problem)?;
        for place in &table.addresses {
            check_place(table, place.address, tables, portals).map_err(problem)?;
        }
    }
    Ok(())
}

fn check_portal(table: &Redirect, portals: &[Portal]) -> Result<(), Problem> {
    let address = table.portal.address;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(Problem::NotNamed);
    }
    if own_portal(portals, address).is_none() {
        let portals: Vec<String> = portals.iter().map(|portal| portal.address.to_string()).collect();
        return Err(Problem::NotAPortal { portals: portals.join(", ") });
    }
    Ok(())
}

fn check_checks(table: &Redirect) -> Result<(), Problem> {
    if table.timeout.0 == 0 || table.timeout > table.interval {
        return Err(Problem::Times);
    }
    if table.rise == 0 || table.fall == 0 {
        return Err(Problem::Thresholds);
    }
    Ok(())
}

fn check_addresses(table: &Redirect) -> Result<(), Problem> {
    let addresses: Vec<SocketAddr> = table.addresses.iter().map(|place| canonical(place.address)).collect();
    if addresses.iter().all(|address| *address == canonical(table.portal.address)) {
        return Err(Problem::NoAddress);
    }
    if addresses.len() > MAX_REDIRECT_ADDRESSES {
        return Err(Problem::TooMany);
    }
    let again = (1..addresses.len()).find(|index| addresses[..*index].contains(&addresses[*index]));
    if let Some(index) = again {
        return Err(Problem::SameAddress(addresses[index]));
    }
    let weighted = table.addresses.iter().any(|place| place.weight.is_some());
    if weighted && table.policy != Policy::Weighted {
        return Err(Problem::Weight(table.policy));
    }
    Ok(())
}

fn check_place(
    table: &Redirect,
    address: SocketAddr,
    tables: &[Redirect],
    portals: &[Portal],
) -> Result<(), Problem> {
    let (address, portal) = (canonical(address), canonical(table.portal.address));
    if leads_nowhere(address) {
        return Err(Problem::Nowhere(address));
    }
    if address.ip().is_loopback() && !portal.ip().is_loopback() {
        return Err(Problem::Loopback(address, portal));
    }
    if address != portal && tables.iter().any(|other| canonical(other.portal.address) == address) {
        return Err(Problem::Redirects(address));
    }
    check_group(address, portal, portals)?;
    let is_counted = own_portal(portals, address).is_some() || table.health != Check::Tcp;
    if table.policy == Policy::LeastSessions && !is_counted {
        return Err(Problem::NoCount(address));
    }
    Ok(())
}

/// What is this host's is in the group of the portal that sends there.
fn check_group(address: SocketAddr, portal: SocketAddr, portals: &[Portal]) -> Result<(), Problem> {
    let Some(own) = own_portal(portals, portal).map(|index| portals[index].group) else { return Ok(()) };
    if let Some(index) = own_portal(portals, address) {
        let group = portals[index].group;
        return if group == own { Ok(()) } else { Err(Problem::OtherGroup { address, group, own }) };
    }
    match wildcard_portal(portals, address) {
        Some(Portal { address: wildcard, group, .. }) if *group != own => {
            Err(Problem::WildcardGroup { address, wildcard: *wildcard, group: *group, own })
        }
        _ => Ok(()),
    }
}

/// Link-local addresses need a link, which cannot be told.
fn leads_nowhere(address: SocketAddr) -> bool {
    let link_local = match address.ip() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() || link_local
}

#[cfg(test)]
mod tests;

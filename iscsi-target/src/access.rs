//! Who may log in, from where, by which of our addresses, and as whom? Pure.
//!
//! A rule is a set of conditions that must all hold; a login is let in if one rule's conditions hold. Nobody is let in by
//! default, and a rule that names neither an initiator nor an account lets nobody in: an address is a place, not a party.
//! Addresses are compared as what they are: an IPv4 address that arrived mapped into IPv6 is that IPv4 address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// One of our own addresses, by any port or by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    address: IpAddr,
    port: Option<u16>,
}

/// Why a text is no network or portal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address and a prefix length.
    #[error("\"{0}\" is no network: write it as 192.0.2.0/24, 2001:db8::/32, or one address")]
    Network(String),
    /// Bits behind the prefix are set: the network or the address was meant.
    #[error(
        "\"{text}\" is an address in a network: write {network} for the network, {address} for that address alone"
    )]
    HostBits {
        /// What was given.
        text: String,
        /// The network that it lies in.
        network: Network,
        /// The address.
        address: IpAddr,
    },
    /// Not an address with or without a port.
    #[error(
        "\"{0}\" is no address of a portal: write it as 192.0.2.1, 192.0.2.1:3260, 2001:db8::1 or [2001:db8::1]:3260"
    )]
    Portal(String),
    /// Every address, where one was to be named.
    #[error("\"{0}\" stands for every address: name the one that initiators connect to")]
    Unspecified(String),
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        // Shifted up, so that prefixes are counted from the same end.
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

fn leading(bits: u128, prefix: u8) -> u128 {
    let rest = 128 - u32::from(prefix);
    bits.checked_shr(rest).map_or(0, |bits| bits << rest)
}

impl Network {
    /// Does the address lie in it?
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let (own, other) = (bits(self.address).0, bits(address).0);
        self.address.is_ipv4() == address.is_ipv4()
            && leading(own, self.prefix) == leading(other, self.prefix)
    }

    fn of(address: IpAddr, prefix: u8) -> Self {
        let masked = leading(bits(address).0, prefix);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(((masked >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(masked.into()),
        };
        Self { address, prefix }
    }
}

impl FromStr for Network {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError::Network(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| bad())?;
        let longest = bits(written).1;
        let prefix = match prefix {
            // What std reads is more than what anybody writes ("+8").
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| bad())?
            }
            Some(_) => return Err(bad()),
            None => longest,
        };
        if prefix > longest {
            return Err(bad());
        }
        // A network of mapped addresses is one of IPv4.
        let canonical = written.to_canonical();
        let (address, prefix) = match canonical.is_ipv4() == written.is_ipv4() {
            true => (written, prefix),
            false if prefix >= 96 => (canonical, prefix - 96),
            false => (written, prefix),
        };
        let network = Self::of(address, prefix);
        match network.address == address {
            true => Ok(network),
            false => Err(AddressError::HostBits { text: text.to_owned(), network, address }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Portal {
    /// Did a connection that came in at this address of ours come in by it?
    pub fn is(&self, local: SocketAddr) -> bool {
        self.address == local.ip().to_canonical() && self.port.is_none_or(|port| port == local.port())
    }
}

impl FromStr for Portal {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (address, port) = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
            (Ok(socket), _) => (socket.ip(), Some(socket.port())),
            (_, Ok(address)) => (address, None),
            _ => return Err(AddressError::Portal(text.to_owned())),
        };
        let address = address.to_canonical();
        match address.is_unspecified() || port == Some(0) {
            true => Err(AddressError::Unspecified(text.to_owned())),
            false => Ok(Self { address, port }),
        }
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// Conditions of which all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRule {
    /// The initiator's name; a trailing `*` stands for any rest, `*` alone for every name.
    pub initiator: Option<String>,
    /// The CHAP account by which it has to log in.
    pub account: Option<String>,
    /// Where it comes from.
    pub network: Option<Network>,
    /// The address of ours that it comes in by.
    pub portal: Option<Portal>,
}

/// Who knocks, and where.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// InitiatorName.
    pub initiator: &'a str,
    /// Its address.
    pub peer: SocketAddr,
    /// The address of ours that it connected to.
    pub local: SocketAddr,
}

/// Does the pattern (a name, or a beginning and `*`) cover the name? Case does not count (RFC 7143 section 4.2.7.1).
pub fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

impl AccessRule {
    /// A rule that names an initiator, or the beginning of names, and asks for nothing else.
    pub fn initiator(pattern: &str) -> Self {
        Self { initiator: Some(pattern.to_owned()), ..Self::default() }
    }

    /// Who it is and where it comes in.
    fn may_open(&self, initiator: &str, local: SocketAddr) -> bool {
        let named = self.initiator.is_some() || self.account.is_some();
        named
            && self.initiator.as_ref().is_none_or(|pattern| name_matches(pattern, initiator))
            && self.portal.is_none_or(|portal| portal.is(local))
    }

    /// Everything but the account, which is known only later.
    fn may_hold(&self, caller: Caller<'_>) -> bool {
        self.may_open(caller.initiator, caller.local)
            && self.network.is_none_or(|network| network.contains(caller.peer.ip()))
    }
}

/// As whom a caller has to log in to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// As any account of the target; without CHAP where it has none.
    AnyAccount,
    /// As one of these, and not without CHAP.
    OneOf(Vec<String>),
}

impl Admission {
    /// Is this account, or none, one by which it may log in?
    pub fn covers(&self, account: Option<&str>) -> bool {
        match self {
            Self::AnyAccount => true,
            Self::OneOf(accounts) => account.is_some_and(|account| accounts.iter().any(|own| own == account)),
        }
    }
}

/// Who may log in to a target. Nobody is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessPolicy {
    /// One of them must hold.
    pub rules: Vec<AccessRule>,
    /// Whatever the rules say: only from this very machine.
    pub loopback_only: bool,
}

impl AccessPolicy {
    /// Initiators by their names alone.
    pub fn of_names(names: &[&str], loopback_only: bool) -> Self {
        Self { rules: names.iter().map(|name| AccessRule::initiator(name)).collect(), loopback_only }
    }

    /// Is there a way in for this initiator by this address of ours, wherever it comes from and as whom?
    pub fn opens(&self, initiator: &str, local: SocketAddr) -> bool {
        self.rules.iter().any(|rule| rule.may_open(initiator, local))
    }

    /// Is this caller let in, and as whom? `None`: not at all.
    pub fn admits(&self, caller: Caller<'_>) -> Option<Admission> {
        if self.loopback_only && !caller.peer.ip().to_canonical().is_loopback() {
            return None;
        }
        let mut accounts = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.may_hold(caller)) {
            match &rule.account {
                None => return Some(Admission::AnyAccount),
                Some(account) => accounts.push(account.clone()),
            }
        }
        (!accounts.is_empty()).then_some(Admission::OneOf(accounts))
    }
}

#[cfg(test)]
mod tests;

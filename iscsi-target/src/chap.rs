//! Who are you, and can you prove it? CHAP (RFC 1994, RFC 7143 section 12.1.3), both ways.
//!
//! Invariants: secrets are compared in constant time and never shown; a challenge of ours is never answered by us
//! (the reflection attack); the algorithm is the first of the initiator's list that we know.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;
use subtle::ConstantTimeEq;

/// Bytes of our challenges.
const CHALLENGE_BYTES: usize = 32;
/// Longest challenge we answer (RFC 7143 section 12.1.3 allows 1024).
const MAX_CHALLENGE_BYTES: usize = 1024;

/// A hash algorithm by its number in the IANA registry of CHAP algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// 5.
    Md5 = 5,
    /// 6.
    Sha1 = 6,
    /// 7.
    Sha256 = 7,
    /// 8.
    Sha3_256 = 8,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3_256];

    /// The first of the initiator's list (CHAP_A) that we know.
    pub fn choose(list: &str) -> Option<Self> {
        list.split(',')
            .filter_map(|number| number.trim().parse::<u8>().ok())
            .find_map(|number| Self::ALL.into_iter().find(|algorithm| *algorithm as u8 == number))
    }

    /// The response to a challenge: hash(identifier, secret, challenge).
    pub fn respond(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 3] = [&[identifier], &secret.0, challenge];
        match self {
            Self::Md5 => hash::<Md5>(parts),
            Self::Sha1 => hash::<Sha1>(parts),
            Self::Sha256 => hash::<Sha256>(parts),
            Self::Sha3_256 => hash::<Sha3_256>(parts),
        }
    }
}

fn hash<D: md5::Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    let mut hasher = D::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().to_vec()
}

/// A secret that does not show itself.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keep these bytes secret.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Equal, in constant time.
    pub fn equals(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A name and its secret.
#[derive(Clone, Debug)]
pub struct Account {
    /// CHAP_N.
    pub name: String,
    /// Of that name.
    pub secret: Secret,
}

/// What a target demands, and how it proves itself.
#[derive(Clone, Debug, Default)]
pub struct ChapPolicy {
    /// Initiators log in as one of these; none: no authentication is demanded.
    pub accounts: Vec<Account>,
    /// The target's own, for initiators that ask for it.
    pub mutual: Option<Account>,
}

/// Binary values in text: hex (0x) or base64 (0b), RFC 7143 section 6.1.
pub fn decode_binary(text: &str) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    match prefix {
        "0x" | "0X" if digits.len() % 2 == 1 => hex::decode(format!("0{digits}")).ok(),
        "0x" | "0X" => hex::decode(digits).ok(),
        "0b" | "0B" => STANDARD.decode(digits).ok(),
        _ => None,
    }
}

/// As hex, which every initiator reads.
pub fn encode_binary(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A challenge of ours.
#[derive(Debug)]
pub struct Challenge {
    /// The algorithm agreed on.
    pub algorithm: Algorithm,
    /// CHAP_I.
    pub identifier: u8,
    /// CHAP_C.
    pub bytes: Vec<u8>,
}

impl Challenge {
    /// From fresh randomness.
    pub fn new(algorithm: Algorithm, random: &[u8; CHALLENGE_BYTES + 1]) -> Self {
        Self { algorithm, identifier: random[CHALLENGE_BYTES], bytes: random[..CHALLENGE_BYTES].to_vec() }
    }

    /// Whether this is the right response of one of the accounts.
    pub fn verify(&self, accounts: &[Account], name: &str, response: &[u8]) -> bool {
        accounts.iter().filter(|account| account.name == name).any(|account| {
            let expected = self.algorithm.respond(self.identifier, &account.secret, &self.bytes);
            expected.ct_eq(response).into()
        })
    }

    /// Our response to the initiator's own challenge; `None` if it sends ours back or one that is no challenge.
    pub fn answer(&self, mutual: &Account, identifier: &str, challenge: &str) -> Option<Vec<u8>> {
        let identifier: u8 = identifier.parse().ok()?;
        let challenge = decode_binary(challenge)?;
        if challenge.is_empty() || challenge.len() > MAX_CHALLENGE_BYTES || challenge == self.bytes {
            return None;
        }
        Some(self.algorithm.respond(identifier, &mutual.secret, &challenge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_response_is_that_of_rfc_1994() {
        // MD5 over 0x01, "secret", 0x00 0x01 0x02 0x03, computed with md5sum.
        let response = Algorithm::Md5.respond(1, &Secret::new("secret"), &[0, 1, 2, 3]);
        assert_eq!(hex::encode(response), "e82cb2ed1efe04893c9cf73d4dd12e2d");
        assert_eq!(
            [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha3_256]
                .map(|a| a.respond(1, &Secret::new("s"), &[0]).len()),
            [20, 32, 32]
        );
    }

    #[test]
    fn the_initiators_order_decides() {
        assert_eq!(Algorithm::choose("8,7,5"), Some(Algorithm::Sha3_256));
        assert_eq!(Algorithm::choose("99,7"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::choose("1,x"), None);
    }

    #[test]
    fn binaries_in_hex_and_base64() {
        assert_eq!(decode_binary("0x0aFF"), Some(vec![10, 255]));
        assert_eq!(decode_binary("0xaff"), Some(vec![10, 255]));
        assert_eq!(decode_binary("0bCv8="), Some(vec![10, 255]));
        for bad in ["", "0", "0x0g", "0b!", "12", "é"] {
            assert_eq!(decode_binary(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_reflected_challenge_is_not_answered() {
        let challenge = Challenge::new(Algorithm::Md5, &[7; CHALLENGE_BYTES + 1]);
        let mutual = Account { name: "target".into(), secret: Secret::new("theirs") };
        assert!(challenge.answer(&mutual, "3", &encode_binary(&challenge.bytes)).is_none());
        assert!(challenge.answer(&mutual, "3", "0x0102").is_some());
        assert!(challenge.answer(&mutual, "300", "0x0102").is_none());
        assert!(challenge.answer(&mutual, "3", "0x").is_none());
        assert_eq!(format!("{mutual:?}"), "Account { name: \"target\", secret: Secret(..) }");
    }

    #[test]
    fn only_the_right_secret_passes() {
        let challenge = Challenge::new(Algorithm::Sha256, &[9; CHALLENGE_BYTES + 1]);
        let accounts = [Account { name: "node".into(), secret: Secret::new("right") }];
        let right = Algorithm::Sha256.respond(challenge.identifier, &accounts[0].secret, &challenge.bytes);
        assert!(challenge.verify(&accounts, "node", &right));
        assert!(!challenge.verify(&accounts, "other", &right));
        assert!(!challenge.verify(&accounts, "node", &right[..31]));
    }
}

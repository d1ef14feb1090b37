//! Who are you, and can you prove it? CHAP (RFC 1994, RFC 7143 section 12.1.3), both ways.
//!
//! Invariants: secrets are compared in constant time and never shown; a challenge of ours is never answered by us
//! (the reflection attack), and neither is one that our own secret would answer; the algorithm is the first of the
//! initiator's list that is allowed.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;
use subtle::ConstantTimeEq;

use crate::text;

/// Bytes of our challenges.
const CHALLENGE_BYTES: usize = 32;
/// Longest challenge we answer (RFC 7143 section 12.1.3 allows 1024).
const MAX_CHALLENGE_BYTES: usize = 1024;

/// Base64 as RFC 7143 section 6.1 has it; some leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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
    /// Those that RFC 7143 section 12.1.3 and the IANA registry have for iSCSI.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3_256];

    /// The first of the initiator's list (CHAP_A) that is allowed.
    pub fn choose(list: &str, allowed: &[Self]) -> Option<Self> {
        list.split(',').filter_map(|number| text::number(number.trim())).find_map(|number| {
            allowed.iter().copied().find(|algorithm| u32::from(*algorithm as u8) == number)
        })
    }

    /// How it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha3_256 => "sha3-256",
        }
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

    /// As an administrator writes it: hex (0x...) or base64 (0b...) stand for the bytes, anything else for itself.
    pub fn from_text(text: &str) -> Self {
        Self(decode_binary(text).unwrap_or_else(|| text.as_bytes().to_vec()))
    }

    /// Its bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
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
        "0b" | "0B" => BASE64.decode(digits).ok(),
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

    /// The account of that name whose right response this is. It cannot be one with the target's own secret: then
    /// it may be the target itself that was made to answer.
    pub fn verify<'a>(&self, policy: &'a ChapPolicy, name: &str, response: &[u8]) -> Option<&'a Account> {
        let own = |account: &Account| {
            policy.mutual.as_ref().is_some_and(|mutual| mutual.secret.equals(&account.secret))
        };
        policy.accounts.iter().filter(|account| account.name == name && !own(account)).find(|account| {
            let expected = self.algorithm.respond(self.identifier, &account.secret, &self.bytes);
            expected.ct_eq(response).into()
        })
    }

    /// Our response to the initiator's own challenge; `None` if it sends ours back or one that is no challenge.
    pub fn answer(&self, mutual: &Account, identifier: &str, challenge: &str) -> Option<Vec<u8>> {
        let identifier = u8::try_from(text::number(identifier)?).ok()?;
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
        let choose = |list| Algorithm::choose(list, &Algorithm::ALL);
        assert_eq!(choose("8,7,5"), Some(Algorithm::Sha3_256));
        assert_eq!(choose("5,8"), Some(Algorithm::Md5));
        assert_eq!(choose("99,7"), Some(Algorithm::Sha256));
        assert_eq!(choose("0x6"), Some(Algorithm::Sha1));
        for nothing in ["1,x", "", "261", "-5"] {
            assert_eq!(choose(nothing), None, "{nothing}");
        }
        let strict = [Algorithm::Sha3_256, Algorithm::Sha256];
        assert_eq!(
            Algorithm::choose("5,6,7", &strict),
            Some(Algorithm::Sha256),
            "what is not allowed is passed over"
        );
        assert_eq!(Algorithm::choose("5,6", &strict), None);
    }

    #[test]
    fn binaries_in_hex_and_base64() {
        assert_eq!(decode_binary("0x0aFF"), Some(vec![10, 255]));
        assert_eq!(decode_binary("0xaff"), Some(vec![10, 255]));
        assert_eq!(decode_binary("0bCv8="), Some(vec![10, 255]));
        assert_eq!(decode_binary("0BCv8"), Some(vec![10, 255]));
        let large: Vec<u8> = (0..1024u32).map(|at| (at * 7) as u8).collect();
        assert_eq!(decode_binary(&encode_binary(&large)), Some(large.clone()));
        assert_eq!(decode_binary(&format!("0b{}", BASE64.encode(&large))), Some(large));
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
        assert_eq!(challenge.answer(&mutual, "0x3", "0bAQI="), challenge.answer(&mutual, "3", "0x0102"));
        for identifier in ["300", "256", "-1", "", "x"] {
            assert!(challenge.answer(&mutual, identifier, "0x0102").is_none(), "{identifier}");
        }
        let of_length = |length: usize| encode_binary(&vec![1; length]);
        assert!(challenge.answer(&mutual, "255", &of_length(1024)).is_some());
        for bad in ["0x", "", "0102", &of_length(1025)] {
            assert!(challenge.answer(&mutual, "3", bad).is_none(), "{bad}");
        }
        // The same bytes in another form are the same challenge.
        let reflected = format!("0b{}", BASE64.encode(&challenge.bytes));
        assert!(challenge.answer(&mutual, "3", &reflected).is_none());
        assert_eq!(format!("{mutual:?}"), "Account { name: \"target\", secret: Secret(..) }");
    }

    #[test]
    fn only_the_right_secret_passes() {
        let challenge = Challenge::new(Algorithm::Sha256, &[9; CHALLENGE_BYTES + 1]);
        let account = |name: &str, secret: &str| Account { name: name.into(), secret: Secret::new(secret) };
        let mut policy = ChapPolicy { accounts: vec![account("node", "right")], mutual: None };
        let right = Algorithm::Sha256.respond(challenge.identifier, &Secret::new("right"), &challenge.bytes);
        let passes = |policy: &ChapPolicy, name: &str, response: &[u8]| {
            challenge.verify(policy, name, response).is_some()
        };
        assert!(passes(&policy, "node", &right));
        assert!(!passes(&policy, "other", &right));
        assert!(!passes(&policy, "node", &right[..31]));
        assert!(!passes(&policy, "node", &[]));
        assert!(!passes(&policy, "node", &[&right[..], &[0]].concat()));
        policy.mutual = Some(account("target", "another"));
        assert!(passes(&policy, "node", &right));
        policy.mutual = Some(account("target", "right"));
        assert!(!passes(&policy, "node", &right), "it may be our own answer that comes back");
    }

    #[test]
    fn secrets_are_text_or_binary() {
        let same = |a: &str, b: &[u8]| Secret::from_text(a).equals(&Secret::new(b));
        assert!(same("0x00ff10", &[0, 255, 16]) && same("0bAP8Q", &[0, 255, 16]));
        for literal in ["a plain secret", "0xnothex", "0b not base64", "12"] {
            assert!(same(literal, literal.as_bytes()), "{literal}");
        }
    }
}

//! key=value pairs (RFC 7143 section 6.1): bytes in, pairs out, and back.

use crate::limits::MAX_TEXT_BYTES;

/// Longest key (RFC 7143 section 6.1).
const MAX_KEY_BYTES: usize = 63;

/// Why text cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// More than the limit.
    #[error("the text is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong,
    /// A pair without '=', with an empty or overlong key, or not UTF-8.
    #[error("the text is not a list of key=value pairs")]
    Malformed,
}

/// Pairs in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Read the pairs of a whole text; each ends with a zero byte (the last one may lack it).
    pub fn parse(bytes: &[u8]) -> Result<Self, TextError> {
        if bytes.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong);
        }
        let pairs = bytes.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()).map(|pair| {
            let pair = std::str::from_utf8(pair).map_err(|_| TextError::Malformed)?;
            let (key, value) = pair.split_once('=').ok_or(TextError::Malformed)?;
            let allowed =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '@' | '_' | '#');
            if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.chars().all(allowed) {
                return Err(TextError::Malformed);
            }
            Ok((key.to_owned(), value.to_owned()))
        });
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Add a pair.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in self.iter() {
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b'=');
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        bytes
    }
}

/// A number, decimal or hex (RFC 7143 section 6.1).
pub fn number(value: &str) -> Option<u32> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    // The standard library would take a sign as well.
    digits.chars().all(|digit| digit.is_digit(radix)).then(|| u32::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_text_is_refused() {
        for bad in [&b"novalue\0"[..], b"=x\0", b"a b=c\0", b"\xff=1\0", &[b'k'; 70]] {
            assert_eq!(Pairs::parse(bad), Err(TextError::Malformed), "{bad:?}");
        }
        assert_eq!(Pairs::parse(&vec![b'a'; MAX_TEXT_BYTES + 1]), Err(TextError::TooLong));
        assert_eq!(Pairs::parse(b"A=\0B=x=y").unwrap().get("B"), Some("x=y"));
    }

    #[test]
    fn numbers_are_decimal_or_hex() {
        let read = ["0", "65535", "0x1F", "0Xff", "4294967295"].map(number);
        assert_eq!(read, [Some(0), Some(65_535), Some(31), Some(255), Some(u32::MAX)]);
        for bad in ["", "0x", "+5", "-1", "0x+5", "1f", "4294967296", " 1", "0b1"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(pairs in prop::collection::vec(("[A-Za-z.#-]{1,20}", "[ -~]{0,40}"), 0..20)) {
            let list = Pairs(pairs);
            prop_assert_eq!(Pairs::parse(&list.encode()).unwrap(), list);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Pairs::parse(&bytes);
        }
    }
}

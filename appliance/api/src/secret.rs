//! A secret: it is not shown, errors about it do not quote it, and comparing it takes as long whatever it is.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

/// Text that only those see who ask for it by name.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whoever must have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// In constant time, for secrets of one length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// serde's own errors quote what they found, which may be a secret without its quotation marks.
struct Reader;

const NOT_TEXT: &str = "a secret has to be a string";

impl Visitor<'_> for Reader {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret(text))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Secret, E> {
        Err(E::custom(NOT_TEXT))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom(NOT_TEXT))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Err(E::custom(NOT_TEXT))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Err(E::custom(NOT_TEXT))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Asked for a string, serde_json itself complains of anything else, and quotes it.
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_itself_in_json_and_nowhere_else() {
        let secret: Secret = serde_json::from_str("\"correct horse\"").unwrap();
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"correct horse\"");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(secret, "correct horse".into());
        assert!(secret != "correct hors".into() && secret != "correct_horse".into());
    }

    #[test]
    fn errors_do_not_quote_it() {
        for json in [
            "123456789012",
            "-123456789012",
            "123456789012.5",
            "true",
            "[123456789012]",
            "{\"123456789012\": 1}",
        ] {
            let error = serde_json::from_str::<Secret>(json).unwrap_err().to_string();
            assert!(!error.contains("123456789012") && !error.contains("true"), "{json}: {error}");
        }
    }
}

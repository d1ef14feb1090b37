//! How is a size written and read? As a number and a binary unit: `64KiB`, `1.5TiB`, `4096`.
//!
//! Decimal units (`GB`) are refused, not guessed at: people mean different things by them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes, written and read with binary units. In JSON it is the plain number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number and a unit.
    #[error("\"{0}\" is no size: write a number and KiB, MiB, GiB or TiB, for example 10GiB")]
    Malformed(String),
    /// `KB`, `MB`, `GB`, `TB`.
    #[error("\"{text}\" could mean two sizes: write {unit} for the binary unit")]
    Decimal {
        /// What was written.
        text: String,
        /// The binary unit next to it.
        unit: &'static str,
    },
    /// A fraction that is no whole number of bytes.
    #[error("\"{0}\" is no whole number of bytes")]
    Fraction(String),
    /// Beyond 64 bits.
    #[error("\"{0}\" is larger than any disk")]
    TooLarge(String),
}

/// Units, largest first, with the bits to shift by.
const UNITS: [(&str, u32); 6] =
    [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
/// Digits after the point that are still exact in 128 bits.
const MAX_FRACTION_DIGITS: usize = 12;

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let shift = unit_shift(text, unit.trim_start())?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
            return Err(malformed());
        }
        if fraction.len() > MAX_FRACTION_DIGITS || fraction.contains('.') {
            return Err(malformed());
        }
        let too_large = || SizeError::TooLarge(text.to_owned());
        let scale = 10u128.pow(fraction.len() as u32);
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let fraction: u128 =
            if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| malformed())? };
        let scaled = (u128::from(whole) * scale + fraction) << shift;
        if !scaled.is_multiple_of(scale) {
            return Err(SizeError::Fraction(text.to_owned()));
        }
        u64::try_from(scaled / scale).map(Self).map_err(|_| too_large())
    }
}

fn unit_shift(text: &str, unit: &str) -> Result<u32, SizeError> {
    if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
        return Ok(0);
    }
    for (name, shift) in UNITS {
        if unit.eq_ignore_ascii_case(name) || unit.eq_ignore_ascii_case(&name[..1]) {
            return Ok(shift);
        }
        if unit.len() == 2 && unit[..1].eq_ignore_ascii_case(&name[..1]) && unit.ends_with(['b', 'B']) {
            return Err(SizeError::Decimal { text: text.to_owned(), unit: name });
        }
    }
    Err(SizeError::Malformed(text.to_owned()))
}

impl fmt::Display for Size {
    /// The largest unit of which there is at least one; whole if exact, else with two digits, rounded down, so
    /// that nothing looks larger than it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, shift)) = UNITS.into_iter().find(|(_, shift)| self.0 >> shift > 0) else {
            return f.pad(&format!("{} B", self.0));
        };
        let whole = self.0 >> shift;
        let rest = self.0 - (whole << shift);
        if rest == 0 {
            return f.pad(&format!("{whole} {unit}"));
        }
        let hundredths = (u128::from(rest) * 100) >> shift;
        f.pad(&format!("{whole}.{hundredths:02} {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, SizeError> {
        text.parse::<Size>().map(|size| size.0)
    }

    #[test]
    fn sizes_are_read() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65536),
            ("64k", 65536),
            ("64 kib", 65536),
            ("1.5TiB", 3 << 39),
            ("0.5KiB", 512),
            ("15EiB", 15 << 60),
            (" 2GiB ", 2 << 30),
            ("7B", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for text in ["", "GiB", ".5GiB", "1.GiB", "1.2.3KiB", "-1", "ten", "1XiB", "1iB", "1€", "1e3"] {
            assert!(matches!(parse(text), Err(SizeError::Malformed(_))), "{text}: {:?}", parse(text));
        }
        assert!(matches!(parse("16EiB"), Err(SizeError::TooLarge(_))));
        assert!(matches!(parse("99999999999999999999"), Err(SizeError::TooLarge(_))));
        assert!(matches!(parse("0.1KiB"), Err(SizeError::Fraction(_))));
        assert_eq!(
            parse("10GB").unwrap_err().to_string(),
            "\"10GB\" could mean two sizes: write GiB for the binary unit"
        );
    }

    #[test]
    fn sizes_are_written_so_that_none_looks_larger_than_it_is() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.50 KiB"),
            ((1 << 30) - 1, "1023.99 MiB"),
            (u64::MAX, "15.99 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn whole_units_survive_a_round_trip() {
        for shift in 0..63 {
            assert_eq!(parse(&Size(1 << shift).to_string()), Ok(1 << shift));
        }
    }
}

//! Is this an iSCSI name? (RFC 7143 section 4.2.7, RFC 3722 for its letters.)

/// Longest name in bytes.
const MAX_NAME_BYTES: usize = 223;

/// iqn., eui. or naa. form.
pub fn is_iscsi_name(name: &str) -> bool {
    if name.len() > MAX_NAME_BYTES {
        return false;
    }
    let lower = name.to_ascii_lowercase();
    if let Some(rest) = lower.strip_prefix("iqn.") {
        return is_iqn(rest);
    }
    let hex_of = |digits: &str, lengths: &[usize]| {
        lengths.contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit())
    };
    lower.strip_prefix("eui.").is_some_and(|digits| hex_of(digits, &[16]))
        || lower.strip_prefix("naa.").is_some_and(|digits| hex_of(digits, &[16, 32]))
}

/// yyyy-mm.reversed.domain, perhaps with :anything.
fn is_iqn(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else { return false };
    let bytes = date.as_bytes();
    let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    let dated = bytes.len() == 7 && bytes[4] == b'-' && digits(0..4) && digits(5..7);
    let allowed = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | ':') || !c.is_ascii()
    };
    dated && !authority.is_empty() && !authority.starts_with(':') && authority.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_every_form() {
        for good in [
            "iqn.2026-11.org.labsan:demo",
            "iqn.1993-08.org.debian:01:abcdef",
            "iqn.2001-04.com.example",
            "IQN.2001-04.com.Example:x",
            "eui.02004567A425678D",
            "naa.52004567BA64678D",
            "naa.62004567BA64678D0123456789ABCDEF",
        ] {
            assert!(is_iscsi_name(good), "{good}");
        }
        for bad in [
            "",
            "iqn.",
            "iqn.2026-1.org",
            "iqn.2026-11",
            "iqn.2026-11.",
            "iqn.2026-11.a b",
            "eui.1",
            "naa.xyz",
            "foo",
        ] {
            assert!(!is_iscsi_name(bad), "{bad}");
        }
        assert!(!is_iscsi_name(&format!("iqn.2026-11.{}", "a".repeat(220))));
    }
}

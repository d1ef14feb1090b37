//! Is this an iSCSI name, and how is it written where names are compared? (RFC 7143 section 4.2.7, RFC 3722.)
//!
//! Names are compared in lower case. Letters, digits, '.', '-' and ':' may stand in them; of other scripts, which RFC 3722
//! allows, none: nobody could tell two that look alike apart, and nobody uses them.

/// Longest name in bytes.
const MAX_NAME_BYTES: usize = 223;

/// iqn., eui. or naa. form.
pub fn is_iscsi_name(name: &str) -> bool {
    normal(name).is_some()
}

/// A name as it is compared, stored and shown; `None` if it is none.
pub fn normal(name: &str) -> Option<String> {
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let (kind, rest) = lower.split_once('.')?;
    let hex = || rest.bytes().all(|digit| digit.is_ascii_hexdigit());
    let is_name = match kind {
        "iqn" => is_iqn(rest),
        "eui" => rest.len() == 16 && hex(),
        "naa" => matches!(rest.len(), 16 | 32) && hex(),
        _ => false,
    };
    is_name.then_some(lower)
}

/// yyyy-mm.reversed.domain, perhaps with :anything.
fn is_iqn(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else { return false };
    let Some((year, month)) = date.split_once('-') else { return false };
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let dated = digits(year, 4) && digits(month, 2) && ("01"..="12").contains(&month);
    let domain = authority.split(':').next().unwrap_or_default();
    let whole = domain.split('.').all(|label| !label.is_empty());
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b':');
    dated && whole && authority.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_every_form_are_compared_in_lower_case() {
        for (name, compared) in [
            ("iqn.2026-11.org.labsan:demo", "iqn.2026-11.org.labsan:demo"),
            ("iqn.1993-08.org.debian:01:abcdef", "iqn.1993-08.org.debian:01:abcdef"),
            ("iqn.2001-04.com.example", "iqn.2001-04.com.example"),
            ("IQN.2001-04.com.Example:X", "iqn.2001-04.com.example:x"),
            ("eui.02004567A425678D", "eui.02004567a425678d"),
            ("naa.52004567BA64678D", "naa.52004567ba64678d"),
            ("NAA.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"),
        ] {
            assert_eq!(normal(name).as_deref(), Some(compared), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_told() {
        for bad in [
            "",
            "iqn",
            "iqn.",
            "iqn.2026-1.org",
            "iqn.2026-13.org",
            "iqn.2026-00.org",
            "iqn.2026-11",
            "iqn.2026-11.",
            "iqn.2026-11.:x",
            "iqn.2026-11.org..labsan",
            "iqn.2026-11.a b",
            "iqn.2026-11.org.labsan:a_b",
            "iqn.2026-11.org.labsan:é",
            "eui.1",
            "eui.02004567A425678D0",
            "naa.xyz",
            "naa.52004567BA64678g",
            "naa.52004567BA64678D01234567",
            "foo.2026-11.org",
        ] {
            assert_eq!(normal(bad), None, "{bad}");
        }
        let of_length = |length: usize| format!("iqn.2026-11.{}", "a".repeat(length - 12));
        assert!(is_iscsi_name(&of_length(223)) && !is_iscsi_name(&of_length(224)));
    }
}

//! What time is it? By the time of day, and by the time since the machine started, which nobody can set.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::san::hold::Moment;

/// Now. Where the kernel does not tell of its start, the time of day is all there is.
pub(crate) fn now() -> Moment {
    let at_unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let read = |path| std::fs::read_to_string(path).ok();
    let boot = read("/proc/sys/kernel/random/boot_id").and_then(|text| text.trim().parse().ok());
    // Whole seconds, of time that passes while the machine sleeps, too.
    let uptime =
        read("/proc/uptime").and_then(|text| text.split('.').next().and_then(|whole| whole.parse().ok()));
    match uptime {
        Some(boot_seconds) => Moment { at_unix, boot, boot_seconds },
        None => Moment { at_unix, boot: None, boot_seconds: 0 },
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_clocks_are_read() {
        let (first, second) = (super::now(), super::now());
        assert!(first.at_unix > 1_700_000_000 && first.boot.is_some() && first.boot == second.boot);
        assert!(first.boot_seconds > 0 && second.boot_seconds - first.boot_seconds < 60);
    }
}

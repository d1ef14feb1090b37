//! How do answers look to a person? Pure: values in, text out.

pub(crate) mod columns;
pub(crate) mod examine;
pub(crate) mod lists;
pub(crate) mod portals;
pub(crate) mod progress;
pub(crate) mod reservations;
pub(crate) mod status;

use labsan_api::array::Step;
pub(crate) use labsan_api::duration;

/// How the user named the daemon, to be repeated in commands that we tell them to type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naming {
    /// The socket, if it was given with `--socket`.
    pub(crate) socket: Option<String>,
}

impl Naming {
    /// A command, or a sentence with commands in it, as they must be typed here.
    pub(crate) fn command(&self, text: &str) -> String {
        match &self.socket {
            Some(socket) => text.replace("raidctl ", &format!("raidctl --socket {} ", quoted(socket))),
            None => text.to_owned(),
        }
    }

    fn steps(&self, steps: &[Step]) -> String {
        let one =
            |step: &Step| format!(" action: {}:\n             {}\n", step.why, self.command(&step.command));
        steps.iter().map(one).collect()
    }
}

/// Where a volume is mapped.
fn place(place: &labsan_api::volume::Mapping) -> String {
    let whom = place.initiator.as_ref().map_or_else(String::new, |name| format!("({name})"));
    format!("{}#{}{whom}", place.target, place.lun)
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,=".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// `YYYY-MM-DD HH:MM:SS` in UTC of seconds since 1970 (days to a date by Howard Hinnant's `civil_from_days`).
pub(crate) fn timestamp(unix: u64) -> String {
    let (days, second) = ((unix / 86400) as i64, unix % 86400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00");
        assert_eq!(timestamp(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(timestamp(1_795_240_800), "2026-11-21 06:00:00");
        assert_eq!(timestamp(4_107_542_399), "2100-02-28 23:59:59");
    }

    #[test]
    fn commands_name_the_same_daemon() {
        let naming = Naming { socket: Some("/tmp/my dir/s".into()) };
        assert_eq!(naming.command("raidctl status"), "raidctl --socket '/tmp/my dir/s' status");
        assert_eq!(Naming::default().command("raidctl status"), "raidctl status");
        assert_eq!(naming.command("mdadm --examine x"), "mdadm --examine x");
        assert_eq!(naming.command("see: raidctl events"), "see: raidctl --socket '/tmp/my dir/s' events");
    }
}

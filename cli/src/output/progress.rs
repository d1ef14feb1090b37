//! How does progress look? One line, with the rate and the time left where they are known.

use labsan_api::Size;
use labsan_api::array::Activity;

use super::duration;

/// `rebuild 43.2 % (110 MiB of 255 MiB), 61 MiB/s, 2 min 5 s left`
pub(crate) fn line(activity: &Activity) -> String {
    let permille = activity.permille();
    let (done, total) = (Size(activity.done_bytes), Size(activity.total_bytes));
    let (whole, tenth) = (permille / 10, permille % 10);
    format!("{} {whole}.{tenth} % ({done} of {total}), {}", activity.kind.word(), rate(activity))
}

/// The rate and the time left.
pub(crate) fn rate(activity: &Activity) -> String {
    match activity.seconds_left() {
        Some(seconds) => format!("{}/s, {} left", Size(activity.bytes_per_second), duration(seconds)),
        None => "waiting".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use labsan_api::array::ActivityKind;

    #[test]
    fn progress_is_one_line() {
        let mut activity = Activity {
            kind: ActivityKind::Rebuild,
            done_bytes: 128 << 20,
            total_bytes: 256 << 20,
            bytes_per_second: 1 << 20,
        };
        assert_eq!(line(&activity), "rebuild 50.0 % (128 MiB of 256 MiB), 1 MiB/s, 2 min 8 s left");
        activity.bytes_per_second = 0;
        assert_eq!(line(&activity), "rebuild 50.0 % (128 MiB of 256 MiB), waiting");
    }
}

//! What does a person need to hear about an array, and what should they type? Pure.
//!
//! | what is wrong | what is said | what to type |
//! |---|---|---|
//! | nothing | nothing | nothing |
//! | a disk failed | which, and why | take it off; give a new one if no spare took its place |
//! | a slot is empty | which | give it a disk; if its old disk is here, that one |
//! | too many are lost | that nothing is lost that is not lost already | reconnect, stop, start |
//! | an unclean stop | how much is doubtful | nothing, it runs by itself |
//! | blocks are lost | how many bytes | nothing: whoever owns the data writes it anew |
//! | space runs short below thin disks | how much can still be written, and where it ends | look at that file system |
//! | a disk makes errors | how many | nothing yet |

use labsan_api::Size;
use labsan_api::array::{Array, ArrayState, Member, MemberState, Step};

use crate::space::Shortage;

/// Sentences, the most important first, and steps.
pub(crate) fn advise(
    array: &Array,
    unsynced_regions: u64,
    notes: &[String],
    shortage: Option<&Shortage>,
) -> (Vec<String>, Vec<Step>) {
    let mut said = Vec::new();
    said.extend(whole(array, unsynced_regions));
    if array.lost_bytes > 0 {
        said.push(format!(
            "{} byte(s) cannot be known any more: they read as errors until they are written anew",
            array.lost_bytes
        ));
    }
    said.extend(shortage.map(space_sentence));
    said.extend(array.members.iter().filter_map(member_sentence));
    said.extend(notes.iter().filter(|note| !said.contains(note)).cloned().collect::<Vec<_>>());
    (said, steps(array).into_iter().chain(shortage.map(space_step)).collect())
}

fn space_sentence(shortage: &Shortage) -> String {
    let place = shortage.first_full.display();
    match shortage.available_bytes {
        0 => format!(
            "the file system of {place} is full: writes to what was never written end in \"space allocation failed\""
        ),
        bytes => format!(
            "space runs short: {} more can be written before the file system of {place} is full; then writes end in \
             \"space allocation failed\"",
            Size(bytes)
        ),
    }
}

fn space_step(shortage: &Shortage) -> Step {
    let why = "make room in this file system, or have initiators unmap what they do not need (fstrim)";
    Step { why: why.into(), command: format!("df -h {}", shortage.first_full.display()) }
}

fn whole(array: &Array, unsynced_regions: u64) -> Option<String> {
    let missing = array.members.iter().filter(|member| member.state == MemberState::Missing).count();
    match array.state {
        ArrayState::Optimal | ArrayState::Stopped => None,
        ArrayState::Degraded => {
            Some(format!("{missing} disk(s) are missing; all data is there, but redundancy is not whole"))
        }
        ArrayState::Rebuilding => Some("a disk is being rebuilt; until then redundancy is not whole".into()),
        ArrayState::Resyncing => Some(format!(
            "{unsynced_regions} region(s) are being made consistent after an unclean stop; this ends by itself"
        )),
        ArrayState::Failed => Some(format!(
            "more disks are lost than RAID {} can do without; nothing is written any more, and only what is left can be read",
            array.level
        )),
    }
}

fn member_sentence(member: &Member) -> Option<String> {
    let path = member.path.as_deref().map(|path| path.display().to_string());
    let because = member.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
    let errors = member.read_errors + member.write_errors;
    match (member.state, path) {
        (MemberState::Failed, Some(path)) => Some(format!("{path} failed{because}")),
        (MemberState::Missing, Some(path)) => Some(format!("{path} is here but was not taken{because}")),
        (MemberState::InSync | MemberState::Rebuilding, Some(path)) if errors > 0 => Some(format!(
            "{path} made {errors} error(s), {} of them repaired from redundancy; think of replacing it",
            member.corrected_errors
        )),
        _ => None,
    }
}

fn steps(array: &Array) -> Vec<Step> {
    let name = &array.name;
    let step = |why: &str, command: String| Step { why: why.to_owned(), command };
    let of = |state| array.members.iter().filter(move |member: &&Member| member.state == state);
    if array.state == ArrayState::Failed {
        return vec![
            step(
                "connect the lost disks again, then stop the array",
                format!("raidctl array stop {name} --yes"),
            ),
            step("and start it", "raidctl array start --scan".into()),
        ];
    }
    let mut steps = Vec::new();
    for path in of(MemberState::Failed).filter_map(|member| member.path.as_deref()) {
        steps.push(step(
            "take the failed disk off",
            format!("raidctl array remove {name} {}", path.display()),
        ));
    }
    let helped = of(MemberState::Rebuilding).count() + of(MemberState::Spare).count();
    let empty: Vec<&Member> = of(MemberState::Missing).collect();
    if let Some(member) = empty.get(helped..).and_then(|left| left.first()) {
        steps.push(match &member.path {
            Some(path) => step(
                "put its disk back, to be rebuilt",
                format!("raidctl array add {name} {}", path.display()),
            ),
            None => step("give it a new disk", format!("raidctl array add {name} NEW-DISK")),
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn array(state: ArrayState, members: &[(MemberState, Option<&str>)]) -> Array {
        let member = |(slot, (state, path)): (usize, &(MemberState, Option<&str>))| Member {
            slot: Some(slot as u32),
            path: path.map(Into::into),
            state: *state,
            read_errors: 0,
            write_errors: 0,
            corrected_errors: 0,
            reason: None,
        };
        Array {
            name: "demo".into(),
            uuid: Uuid::nil(),
            level: 5,
            state,
            chunk_bytes: 65536,
            policy: "bitmap".into(),
            size_bytes: 0,
            used_bytes: 0,
            members: members.iter().enumerate().map(member).collect(),
            activity: None,
            events: 0,
            dirty_regions: 0,
            journal_bytes: 0,
            lost_bytes: 0,
            what_happened: Vec::new(),
            next: Vec::new(),
        }
    }

    fn commands(array: &Array) -> Vec<String> {
        advise(array, 0, &[], None).1.into_iter().map(|step| step.command).collect()
    }

    #[test]
    fn a_healthy_array_says_nothing_but_its_notes() {
        let array = array(ArrayState::Optimal, &[(MemberState::InSync, Some("/a"))]);
        assert_eq!(
            advise(&array, 0, &["made by mdadm".into()], None),
            (vec!["made by mdadm".into()], Vec::new())
        );
    }

    #[test]
    fn a_failed_disk_is_taken_off_and_replaced() {
        let mut array = array(
            ArrayState::Degraded,
            &[
                (MemberState::InSync, Some("/a")),
                (MemberState::Missing, None),
                (MemberState::Failed, Some("/b")),
            ],
        );
        array.members[2].reason = Some("input/output error".into());
        let (said, _) = advise(&array, 0, &[], None);
        assert!(said[0].contains("1 disk(s) are missing"), "{said:?}");
        assert_eq!(said[1], "/b failed: input/output error");
        assert_eq!(commands(&array), ["raidctl array remove demo /b", "raidctl array add demo NEW-DISK"]);
    }

    #[test]
    fn a_spare_that_takes_over_needs_no_new_disk() {
        let rebuilding = array(
            ArrayState::Rebuilding,
            &[(MemberState::Rebuilding, Some("/s")), (MemberState::Failed, Some("/b"))],
        );
        assert_eq!(commands(&rebuilding), ["raidctl array remove demo /b"]);
    }

    #[test]
    fn a_disk_that_came_back_is_named() {
        let array = array(
            ArrayState::Degraded,
            &[(MemberState::InSync, Some("/a")), (MemberState::Missing, Some("/b"))],
        );
        assert_eq!(commands(&array), ["raidctl array add demo /b"]);
    }

    #[test]
    fn a_failed_array_is_never_told_to_take_new_disks() {
        let array =
            array(ArrayState::Failed, &[(MemberState::Missing, None), (MemberState::Failed, Some("/b"))]);
        assert!(
            commands(&array).iter().all(|command| !command.contains("add") && !command.contains("remove"))
        );
    }

    #[test]
    fn errors_of_a_working_disk_are_told() {
        let mut array = array(ArrayState::Optimal, &[(MemberState::InSync, Some("/a"))]);
        array.members[0].read_errors = 2;
        assert!(advise(&array, 0, &[], None).0[0].contains("/a made 2 error(s)"));
    }

    #[test]
    fn a_shortage_of_space_is_told_with_where_to_look() {
        let array = array(ArrayState::Optimal, &[(MemberState::InSync, Some("/a"))]);
        let shortage = |available_bytes| Shortage { available_bytes, first_full: "/mnt/a".into() };
        let (said, steps) = advise(&array, 0, &[], Some(&shortage(5 << 20)));
        assert!(
            said[0].contains("5 MiB more can be written before the file system of /mnt/a is full"),
            "{said:?}"
        );
        assert_eq!(steps.iter().map(|step| step.command.as_str()).collect::<Vec<_>>(), ["df -h /mnt/a"]);
        assert!(advise(&array, 0, &[], Some(&shortage(0))).0[0].contains("of /mnt/a is full:"));
    }
}

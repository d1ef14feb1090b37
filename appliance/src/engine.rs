//! How do raid-core's values look in the API? Pure conversions, so that a change there costs little here.

use labsan_api::array::{Activity, ActivityKind, Array, ArrayState, Member, MemberState, Policy};
use raid_core::array as core;

use crate::advice;
use crate::events::News;
use crate::space::Shortage;

/// One array as the API shows it, under the name it has here.
pub(crate) fn array(name: &str, status: &core::ArrayStatus, shortage: Option<&Shortage>) -> Array {
    let mut array = Array {
        name: name.to_owned(),
        uuid: status.uuid,
        level: status.level,
        state: array_state(status.state),
        chunk_bytes: status.chunk_bytes,
        policy: status.policy.clone(),
        size_bytes: status.size_bytes,
        used_bytes: status.used_bytes,
        members: status.members.iter().map(member).collect(),
        activity: status.activity.as_ref().map(activity),
        events: status.events,
        dirty_regions: status.dirty_regions,
        journal_bytes: status.journal_bytes,
        lost_bytes: status.lost_bytes,
        what_happened: Vec::new(),
        next: Vec::new(),
    };
    (array.what_happened, array.next) =
        advice::advise(&array, status.unsynced_regions, &status.notes, shortage);
    array
}

fn array_state(state: core::ArrayState) -> ArrayState {
    match state {
        core::ArrayState::Optimal => ArrayState::Optimal,
        core::ArrayState::Degraded => ArrayState::Degraded,
        core::ArrayState::Rebuilding => ArrayState::Rebuilding,
        core::ArrayState::Resyncing => ArrayState::Resyncing,
        core::ArrayState::Failed => ArrayState::Failed,
        core::ArrayState::Stopped => ArrayState::Stopped,
    }
}

fn member(status: &core::MemberStatus) -> Member {
    Member {
        slot: status.slot.map(u32::from),
        path: status.path.clone(),
        state: match status.state {
            core::MemberState::InSync => MemberState::InSync,
            core::MemberState::Rebuilding => MemberState::Rebuilding,
            core::MemberState::Spare => MemberState::Spare,
            core::MemberState::Failed => MemberState::Failed,
            core::MemberState::Missing => MemberState::Missing,
        },
        read_errors: status.read_errors,
        write_errors: status.write_errors,
        corrected_errors: status.corrected_errors,
        reason: status.reason.clone(),
    }
}

fn activity(status: &core::Activity) -> Activity {
    Activity {
        kind: activity_kind(status.kind),
        done_bytes: status.done_bytes,
        total_bytes: status.total_bytes,
        bytes_per_second: status.bytes_per_second,
    }
}

fn activity_kind(kind: core::ActivityKind) -> ActivityKind {
    match kind {
        core::ActivityKind::Rebuild => ActivityKind::Rebuild,
        core::ActivityKind::Resync => ActivityKind::Resync,
        core::ActivityKind::InitialSync => ActivityKind::InitialSync,
    }
}

/// The policy raid-core is asked for.
pub(crate) fn policy(wanted: Policy) -> core::Policy {
    match wanted {
        Policy::Journal => core::Policy::Journal,
        Policy::Bitmap => core::Policy::Bitmap,
        Policy::None => core::Policy::None,
    }
}

/// An array's event as the log keeps it.
pub(crate) fn news(array: &str, event: core::ArrayEvent) -> News {
    use core::ArrayEvent as Event;
    let (event, disk, message) = match event {
        Event::NewArray => ("NewArray", None, format!("array {array} is in service")),
        Event::DegradedArray => {
            ("DegradedArray", None, format!("array {array} was started with members missing"))
        }
        Event::Fail { path, reason } => {
            let message = format!("{} failed: {reason}", path.display());
            ("Fail", Some(path), message)
        }
        Event::RebuildStarted { kind } => {
            ("RebuildStarted", None, format!("{} started", activity_kind(kind).word()))
        }
        Event::RebuildFinished { kind, completed } => {
            let how = if completed { "finished" } else { "was cut short" };
            ("RebuildFinished", None, format!("{} {how}", activity_kind(kind).word()))
        }
        Event::SpareActive { path } => {
            let message = format!("{} is in sync now", path.display());
            ("SpareActive", Some(path), message)
        }
        Event::DeviceAdded { path } => {
            let message = format!("{} was added", path.display());
            ("DeviceAdded", Some(path), message)
        }
        Event::DeviceRemoved { path } => {
            let message = format!("{} was removed", path.display());
            ("DeviceRemoved", Some(path), message)
        }
        Event::ReadErrorCorrected { path } => {
            let message = format!("a bad block of {} was rewritten from redundancy", path.display());
            ("ReadErrorCorrected", Some(path), message)
        }
        Event::DataLost { bytes } => {
            ("DataLost", None, format!("{bytes} bytes of array {array} cannot be known any more"))
        }
        Event::ArrayFailed { reason } => ("ArrayFailed", None, format!("array {array} failed: {reason}")),
        Event::DeviceDisappeared => ("DeviceDisappeared", None, format!("array {array} was stopped")),
    };
    News { event, array: Some(array.to_owned()), disk, message }
}

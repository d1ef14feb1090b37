//! Who owns the memory of an operation that the kernel is working on? Its slot.
//!
//! | state       | future            | kernel           | leaves by                          |
//! |-------------|-------------------|------------------|------------------------------------|
//! | `Waiting`   | polls, may wait   | owns the memory  | completion -> `Done`               |
//! | `Abandoned` | was dropped       | owns the memory  | completion -> free                 |
//! | `Done`      | has been woken    | is finished      | future takes it or is dropped -> free |
//!
//! A slot's number is the completion's user data and is given out again only when it is free.

use std::task::Waker;

use crate::reactor::Operation;

enum State {
    Waiting(Option<Waker>),
    Abandoned,
    Done(i32),
}

struct Slot {
    operation: Operation,
    state: State,
}

/// What a completion set free.
pub(super) enum Completed {
    /// The future that waits for it.
    Wake(Option<Waker>),
    /// Nobody waits; the memory of the operation can go.
    Orphan(Operation),
    /// The kernel named a slot that has nothing in flight: its mistake, nothing changes.
    Unknown,
}

#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    in_flight: usize,
}

impl Slots {
    /// Operations whose completion has not been seen.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn insert(&mut self, operation: Operation) -> (u32, &mut Operation) {
        self.in_flight += 1;
        let slot = Slot { operation, state: State::Waiting(None) };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // The ring's room bounds the number of slots far below 2^32.
            (self.slots.len() - 1) as u32
        });
        let slot = self.slots[index as usize].insert(slot);
        (index, &mut slot.operation)
    }

    /// Undo an insert that never reached the kernel.
    pub(super) fn withdraw(&mut self, index: u32) -> Option<Operation> {
        self.in_flight -= 1;
        self.release(index)
    }

    pub(super) fn complete(&mut self, index: u64, result: i32) -> Completed {
        let Some(Some(slot)) = usize::try_from(index).ok().and_then(|index| self.slots.get_mut(index)) else {
            return Completed::Unknown;
        };
        match &mut slot.state {
            State::Waiting(waker) => {
                let waker = waker.take();
                slot.state = State::Done(result);
                self.in_flight -= 1;
                Completed::Wake(waker)
            }
            State::Abandoned => {
                self.in_flight -= 1;
                self.release(index as u32).map_or(Completed::Unknown, Completed::Orphan)
            }
            State::Done(_) => Completed::Unknown,
        }
    }

    /// The finished operation and its result, or remember whom to wake. The slot must be in use.
    pub(super) fn poll(&mut self, index: u32, waker: &Waker) -> Option<(Operation, i32)> {
        let slot = self.slots.get_mut(index as usize)?.as_mut()?;
        match &mut slot.state {
            State::Done(result) => {
                let result = *result;
                self.release(index).map(|operation| (operation, result))
            }
            State::Waiting(known) => {
                match known {
                    Some(known) => known.clone_from(waker),
                    None => *known = Some(waker.clone()),
                }
                None
            }
            State::Abandoned => None,
        }
    }

    /// The future is gone. Returns the operation if the kernel is finished with it.
    pub(super) fn abandon(&mut self, index: u32) -> Option<Operation> {
        let slot = self.slots.get_mut(index as usize)?.as_mut()?;
        if matches!(slot.state, State::Done(_)) {
            return self.release(index);
        }
        slot.state = State::Abandoned;
        None
    }

    fn release(&mut self, index: u32) -> Option<Operation> {
        let slot = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(slot.operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Request;
    use std::fs::File;
    use std::sync::Arc;

    fn operation(offset: u64) -> Operation {
        Operation::new(&Arc::new(File::open("/dev/null").unwrap()), offset, Request::Sync)
    }

    #[test]
    fn a_result_waits_for_its_future() {
        let mut slots = Slots::default();
        let (index, _) = slots.insert(operation(7));
        assert!(slots.poll(index, Waker::noop()).is_none());
        assert!(matches!(slots.complete(u64::from(index), 42), Completed::Wake(Some(_))));
        assert_eq!(slots.in_flight(), 0);
        let (finished, result) = slots.poll(index, Waker::noop()).unwrap();
        assert_eq!((finished.offset, result), (7, 42));
    }

    #[test]
    fn an_abandoned_slot_is_not_used_again_before_its_completion() {
        let mut slots = Slots::default();
        let (first, _) = slots.insert(operation(1));
        assert!(slots.abandon(first).is_none());
        let (second, _) = slots.insert(operation(2));
        assert_ne!(first, second);
        assert_eq!(slots.in_flight(), 2);
        assert!(matches!(slots.complete(u64::from(first), -5), Completed::Orphan(gone) if gone.offset == 1));
        assert_eq!(slots.in_flight(), 1);
        let (third, _) = slots.insert(operation(3));
        assert_eq!(third, first);
    }

    #[test]
    fn a_future_dropped_after_its_completion_frees_the_slot() {
        let mut slots = Slots::default();
        let (index, _) = slots.insert(operation(1));
        assert!(matches!(slots.complete(u64::from(index), 0), Completed::Wake(None)));
        assert!(slots.abandon(index).is_some());
        assert_eq!(slots.insert(operation(2)).0, index);
    }

    #[test]
    fn completions_that_nobody_asked_for_change_nothing() {
        let mut slots = Slots::default();
        let (index, _) = slots.insert(operation(1));
        for stranger in [u64::MAX, 1 << 32, 1] {
            assert!(matches!(slots.complete(stranger, 0), Completed::Unknown));
        }
        assert!(matches!(slots.complete(u64::from(index), 0), Completed::Wake(None)));
        assert!(matches!(slots.complete(u64::from(index), 0), Completed::Unknown));
        assert_eq!(slots.in_flight(), 0);
    }
}

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

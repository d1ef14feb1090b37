//! Which command is next? CmdSN, ExpCmdSN and MaxCmdSN (RFC 7143 section 4.2.2.1).
//!
//! | CmdSN is | the command is |
//! |---|---|
//! | ExpCmdSN | taken, and those that waited for it |
//! | after it, up to MaxCmdSN | kept until its turn |
//! | anything else | ignored |
//!
//! MaxCmdSN never moves backwards. Immediate commands carry ExpCmdSN and do not move it.

use std::collections::BTreeMap;

use crate::limits::QUEUE_DEPTH;
use crate::pdu::serial_before;

/// The window of one session; `T` is what is kept for later.
#[derive(Debug)]
pub struct Window<T> {
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    early: BTreeMap<u32, T>,
}

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// Its turn: carry it out, then ask [`Window::next_early`].
    Now(T),
    /// Kept, or ignored.
    Nothing,
}

impl<T> Window<T> {
    /// A window that begins at the login's CmdSN.
    pub fn new(cmd_sn: u32) -> Self {
        Self { exp_cmd_sn: cmd_sn, max_cmd_sn: cmd_sn.wrapping_add(QUEUE_DEPTH - 1), early: BTreeMap::new() }
    }

    /// ExpCmdSN.
    pub fn exp_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn
    }

    /// MaxCmdSN.
    pub fn max_cmd_sn(&self) -> u32 {
        self.max_cmd_sn
    }

    /// Is this number one that may come now?
    pub fn admits(&self, cmd_sn: u32) -> bool {
        let old = serial_before(cmd_sn, self.exp_cmd_sn);
        !old && !serial_before(self.max_cmd_sn, cmd_sn)
    }

    /// Is a command of this number kept already?
    pub fn keeps(&self, cmd_sn: u32) -> bool {
        self.early.contains_key(&cmd_sn)
    }

    /// Would a command of this number be kept for later?
    pub fn would_keep(&self, cmd_sn: u32) -> bool {
        cmd_sn != self.exp_cmd_sn && self.admits(cmd_sn) && !self.keeps(cmd_sn)
    }

    /// A command that is not immediate has arrived.
    pub fn arrive(&mut self, cmd_sn: u32, command: T) -> Arrival<T> {
        if cmd_sn == self.exp_cmd_sn && self.admits(cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
            return Arrival::Now(command);
        }
        if self.admits(cmd_sn) {
            // A number twice: the first one counts.
            self.early.entry(cmd_sn).or_insert(command);
        }
        Arrival::Nothing
    }

    /// The next command that waited for its turn, if it has come.
    pub fn next_early(&mut self) -> Option<T> {
        let command = self.early.remove(&self.exp_cmd_sn)?;
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        Some(command)
    }

    /// Open the window as far as the commands under way leave room.
    pub fn open(&mut self, under_way: usize) {
        let under_way = u32::try_from(under_way).unwrap_or(QUEUE_DEPTH).min(QUEUE_DEPTH);
        let room = self.exp_cmd_sn.wrapping_add(QUEUE_DEPTH - under_way).wrapping_sub(1);
        if serial_before(self.max_cmd_sn, room) {
            self.max_cmd_sn = room;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_in_order_across_the_wrap() {
        let mut window = Window::new(u32::MAX);
        assert_eq!(window.arrive(0, 'b'), Arrival::Nothing);
        assert!(
            window.keeps(0) && !window.would_keep(0) && window.would_keep(1) && !window.would_keep(u32::MAX)
        );
        assert_eq!(window.arrive(0, 'x'), Arrival::Nothing);
        assert_eq!(window.next_early(), None);
        assert_eq!(window.arrive(u32::MAX, 'a'), Arrival::Now('a'));
        assert_eq!(window.next_early(), Some('b'));
        assert_eq!(window.exp_cmd_sn(), 1);
    }

    #[test]
    fn what_lies_outside_is_ignored() {
        let mut window = Window::new(10);
        assert_eq!(window.arrive(9, 'o'), Arrival::Nothing);
        assert_eq!(window.arrive(10 + QUEUE_DEPTH, 'f'), Arrival::Nothing);
        assert!(!window.admits(9) && !window.admits(10 + QUEUE_DEPTH));
        assert!(window.admits(10) && window.admits(9 + QUEUE_DEPTH));
        assert!(window.early.is_empty());
    }

    #[test]
    fn the_window_follows_what_is_under_way_and_never_shrinks() {
        let mut window = Window::new(0);
        for sn in 0..QUEUE_DEPTH {
            assert_eq!(window.arrive(sn, ()), Arrival::Now(()));
            window.open(sn as usize + 1);
        }
        assert_eq!(window.max_cmd_sn(), QUEUE_DEPTH - 1);
        assert_eq!(window.arrive(QUEUE_DEPTH, ()), Arrival::Nothing, "the window is closed");
        window.open(QUEUE_DEPTH as usize - 3);
        assert_eq!(window.max_cmd_sn(), QUEUE_DEPTH + 2);
        window.open(QUEUE_DEPTH as usize);
        assert_eq!(window.max_cmd_sn(), QUEUE_DEPTH + 2);
    }
}

//! One member's ring: commits lie one behind the other, none across the end.

use std::collections::VecDeque;

/// A commit on this ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    sequence: u64,
    start: u64,
}

/// What is in use runs from the oldest segment's start to `head`, around the end if need be.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    length: u64,
    head: u64,
    segments: VecDeque<Segment>,
}

impl Ring {
    pub(crate) fn new(length: u64) -> Self {
        Self { length, head: 0, segments: VecDeque::new() }
    }

    /// Bytes not in use. A commit may need a little more than its size: it never lies across the end.
    pub(crate) fn free_bytes(&self) -> u64 {
        match self.segments.front() {
            None => self.length,
            Some(front) if self.head > front.start => self.length - (self.head - front.start),
            // Equal with something in use: full.
            Some(front) => front.start - self.head,
        }
    }

    /// Take a place for a commit; `None` if there is no room in one piece.
    pub(crate) fn allocate(&mut self, sequence: u64, bytes: u64) -> Option<u64> {
        let start = match self.segments.front() {
            None if bytes > self.length => return None,
            None if self.head + bytes <= self.length => self.head,
            None => 0,
            Some(front) if self.head > front.start => {
                if self.head + bytes <= self.length {
                    self.head
                } else if bytes <= front.start {
                    0
                } else {
                    return None;
                }
            }
            Some(front) if self.head + bytes <= front.start => self.head,
            Some(_) => return None,
        };
        self.segments.push_back(Segment { sequence, start });
        self.head = start + bytes;
        Some(start)
    }

    /// At a start: this commit was found here. Called in the order of sequence numbers.
    pub(crate) fn adopt(&mut self, sequence: u64, start: u64, bytes: u64) {
        self.segments.push_back(Segment { sequence, start });
        self.head = start + bytes;
    }

    /// Commits before `tail` are dead.
    pub(crate) fn free_before(&mut self, tail: u64) {
        while self.segments.front().is_some_and(|segment| segment.sequence < tail) {
            self.segments.pop_front();
        }
    }
}

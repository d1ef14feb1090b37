//! May this task start now? Task attributes (SAM-5 clause 8.8), per logical unit.
//!
//! | arrives | starts |
//! |---|---|
//! | SIMPLE, no ORDERED before it and no HEAD OF QUEUE that runs | at once |
//! | SIMPLE behind an ORDERED, or while a HEAD OF QUEUE runs | when that has ended |
//! | ORDERED | when everything before it has ended |
//! | HEAD OF QUEUE | at once |

use std::collections::VecDeque;

/// The attribute bits of a SCSI command (RFC 7143 section 11.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// 0 (untagged) and 1.
    Simple,
    /// 2.
    Ordered,
    /// 3, and 4 (ACA) for want of an ACA.
    HeadOfQueue,
}

impl Attribute {
    /// From the flags of a command.
    pub fn from_flags(flags: u8) -> Self {
        match flags & 7 {
            2 => Self::Ordered,
            3 | 4 => Self::HeadOfQueue,
            _ => Self::Simple,
        }
    }
}

/// The tasks of one logical unit; `T` is what waits.
#[derive(Debug)]
pub struct Order<T> {
    running: usize,
    heads_running: usize,
    ordered_running: bool,
    dormant: VecDeque<(Attribute, T)>,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { running: 0, heads_running: 0, ordered_running: false, dormant: VecDeque::new() }
    }
}

impl<T> Order<T> {
    /// A task arrives. `Some`: start it now.
    pub fn arrive(&mut self, attribute: Attribute, task: T) -> Option<T> {
        let free = self.dormant.is_empty() && self.may_go_on();
        let starts = match attribute {
            Attribute::HeadOfQueue => true,
            Attribute::Simple => free,
            Attribute::Ordered => free && self.running == 0,
        };
        if !starts {
            self.dormant.push_back((attribute, task));
            return None;
        }
        self.start(attribute);
        Some(task)
    }

    /// May a SIMPLE task start that waits for no other one that waits?
    fn may_go_on(&self) -> bool {
        !self.ordered_running && self.heads_running == 0
    }

    fn start(&mut self, attribute: Attribute) {
        self.running += 1;
        self.heads_running += usize::from(attribute == Attribute::HeadOfQueue);
        self.ordered_running |= attribute == Attribute::Ordered;
    }

    /// A task has ended; give those that may start now. An ORDERED task runs with nothing but HEAD OF QUEUE tasks
    /// beside it, so when nothing runs any more it has ended too.
    pub fn ended(&mut self, attribute: Attribute) -> Vec<T> {
        self.running -= 1;
        match attribute {
            Attribute::Ordered => self.ordered_running = false,
            Attribute::HeadOfQueue => self.heads_running -= 1,
            Attribute::Simple => {}
        }
        let mut starting = Vec::new();
        while let Some((attribute, _)) = self.dormant.front() {
            let attribute = *attribute;
            let may = self.may_go_on() && (attribute != Attribute::Ordered || self.running == 0);
            if !may {
                break;
            }
            if let Some((_, task)) = self.dormant.pop_front() {
                self.start(attribute);
                starting.push(task);
            }
        }
        starting
    }

    /// Take out dormant tasks for which `gone` holds (aborted ones).
    pub fn remove(&mut self, gone: impl Fn(&T) -> bool) {
        self.dormant.retain(|(_, task)| !gone(task));
    }

    /// Nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.running == 0 && self.dormant.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Attribute::{HeadOfQueue, Ordered, Simple};
    use super::*;

    #[test]
    fn ordered_tasks_split_the_simple_ones() {
        let mut order = Order::default();
        assert_eq!(order.arrive(Simple, 1), Some(1));
        assert_eq!(order.arrive(Simple, 2), Some(2));
        assert_eq!(order.arrive(Ordered, 3), None);
        assert_eq!(order.arrive(Simple, 4), None);
        assert_eq!(order.arrive(HeadOfQueue, 5), Some(5));
        assert_eq!(order.ended(Simple), [0; 0]);
        assert_eq!(order.ended(HeadOfQueue), [0; 0]);
        assert_eq!(order.ended(Simple), [3]);
        assert_eq!(order.arrive(Ordered, 6), None);
        assert_eq!(order.ended(Ordered), [4]);
        assert_eq!(order.ended(Simple), [6]);
        assert_eq!(order.ended(Ordered), [0; 0]);
        assert!(order.is_idle());
    }

    #[test]
    fn simple_tasks_wait_for_a_head_of_queue_that_came_before_them() {
        let mut order = Order::default();
        assert_eq!(order.arrive(HeadOfQueue, 1), Some(1));
        assert_eq!(order.arrive(Simple, 2), None);
        assert_eq!(order.arrive(HeadOfQueue, 3), Some(3));
        assert_eq!(order.ended(HeadOfQueue), [0; 0]);
        assert_eq!(order.ended(HeadOfQueue), [2]);
        assert_eq!(order.arrive(HeadOfQueue, 4), Some(4), "nor is one held up by what runs");
        assert_eq!(order.ended(Simple), [0; 0]);
        assert_eq!(order.ended(HeadOfQueue), [0; 0]);
        assert!(order.is_idle());
    }

    #[test]
    fn an_aborted_dormant_task_lets_the_next_pass() {
        let mut order = Order::default();
        assert_eq!(order.arrive(Simple, 1), Some(1));
        assert_eq!(order.arrive(Ordered, 2), None);
        assert_eq!(order.arrive(Simple, 3), None);
        order.remove(|task| *task == 2);
        assert_eq!(order.ended(Simple), [3]);
    }
}

//! A small set of members.

use super::MemberIndex;
use crate::limits::MAX_MEMBERS;

const WORDS: usize = (MAX_MEMBERS as usize).div_ceil(64);

/// A set of member indices; as large as the largest array, no allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSet {
    words: [u64; WORDS],
}

impl MemberSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a member. Indices beyond the largest array are a bug and panic.
    pub fn insert(&mut self, member: MemberIndex) {
        self.words[usize::from(member.0) / 64] |= 1 << (member.0 % 64);
    }

    /// Take a member out.
    pub fn remove(&mut self, member: MemberIndex) {
        self.words[usize::from(member.0) / 64] &= !(1 << (member.0 % 64));
    }

    /// Is it in?
    pub fn contains(&self, member: MemberIndex) -> bool {
        self.words.get(usize::from(member.0) / 64).is_some_and(|word| word & (1 << (member.0 % 64)) != 0)
    }

    /// How many are in.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Those in, ascending.
    pub fn iter(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        (0..MAX_MEMBERS).map(MemberIndex).filter(|&member| self.contains(member))
    }
}

impl FromIterator<MemberIndex> for MemberSet {
    fn from_iter<I: IntoIterator<Item = MemberIndex>>(members: I) -> Self {
        let mut set = Self::new();
        for member in members {
            set.insert(member);
        }
        set
    }
}

//! How much more can be mapped before the host runs out of space? Where members are thin, an array promises more than it has.
//!
//! Members grow together: what is written to an array goes to all of them alike, or nearly so. So the question is by how many bytes each
//! thin member can grow before one of the pools (file systems) below them is full. Members in one pool share what it has left,
//! and one that needs no more takes no more. Members that are not thin have all their space and limit nothing.
//!
//! What a member has not allocated is what somebody may still write to it. Where the members of one pool may ask for more than it
//! has left, it is overcommitted: writes can end in `NoSpace`. Spares count once they are filled.

use std::path::{Path, PathBuf};

use block_io::ThinSpace;

use super::Array;
use super::core::Core;

/// A member that is given space as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinMember {
    /// The path it was opened by.
    pub path: PathBuf,
    /// What it still needs, and what is left of that.
    pub space: ThinSpace,
}

/// How an array fares with space. Bytes of user data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArraySpace {
    /// What can be mapped, beside all that is, before the first pool is full. More than the array has unmapped where there is
    /// plenty.
    pub available_bytes: u64,
    /// A pool has less left than may be asked of it.
    pub overcommitted: bool,
    /// A member in the pool that is full first.
    pub first_full: PathBuf,
}

/// By how much each of `wants` can grow until together they have taken `free`: each takes the same, or all that it wants if that is less.
/// What is left over when all have what they want is shared as well, beyond `most`.
fn growth(wants: &mut [u64], free: u64, most: u64) -> u64 {
    wants.sort_unstable();
    let (mut left, mut reached) = (free, 0);
    for (done, want) in wants.iter().enumerate() {
        let sharing = (wants.len() - done) as u64;
        let step = want - reached;
        if step.saturating_mul(sharing) > left {
            return reached + left / sharing;
        }
        left -= step * sharing;
        reached = *want;
    }
    most.saturating_add(left / wants.len().max(1) as u64)
}

/// What can be mapped on `own` members, in bytes of each, whether there is too little, and which member is in the pool that is
/// full first. `all` are the thin members of every array, `own` among them.
fn room<'a>(own: &'a [ThinMember], all: &[ThinMember]) -> Option<(u64, bool, &'a Path)> {
    let most = own.iter().map(|member| member.space.unallocated_bytes).max()?;
    let in_pool = |members: &[ThinMember], pool| -> Vec<u64> {
        let there = members.iter().filter(|member| member.space.pool == pool);
        there.map(|member| member.space.unallocated_bytes).collect()
    };
    let of = |member: &ThinMember| {
        let ThinSpace { pool, free_bytes, .. } = member.space;
        let asked = in_pool(all, pool).into_iter().fold(0u64, u64::saturating_add);
        (growth(&mut in_pool(own, pool), free_bytes, most), asked > free_bytes)
    };
    let (first, (least, _)) =
        own.iter().map(|member| (member, of(member))).min_by_key(|(_, (growth, _))| *growth)?;
    Some((least, own.iter().any(|member| of(member).1), &first.path))
}

impl Core {
    /// User data that so many bytes of each member hold.
    fn data_in(&self, member_bytes: u64) -> u64 {
        let (data, member) = (self.geometry.size_bytes(), self.geometry.member_bytes().max(1));
        let bytes = u128::from(member_bytes) * u128::from(data) / u128::from(member);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// User data in this range of the array that takes space, as far as the written map tells: what is only in the journal counts
    /// when it is in its place. In time that follows the array's size only.
    pub(crate) fn mapped_bytes(&self, offset: u64, length: u64) -> u64 {
        let unit_bytes = u64::from(self.geometry.unit_data_bytes());
        let units = offset / unit_bytes..(offset + length).div_ceil(unit_bytes);
        self.data_in(self.written_bytes(&self.geometry.touched_by(&units))).min(length)
    }
}

impl Array {
    /// The members with a role that are thin, and how their pools fare now. A member that cannot say is passed over. It may block
    /// for as long as a file system takes to answer.
    pub async fn thin_members(&self) -> Vec<ThinMember> {
        let table = self.core.table();
        let mut thin = Vec::new();
        for member in table.slots.iter().filter_map(|slot| slot.member()) {
            match member.device.device().thin_space().await {
                Ok(Some(space)) => thin.push(ThinMember { path: member.path.clone(), space }),
                Ok(None) => {}
                Err(error) => tracing::debug!("how much space is left is not known: {error}"),
            }
        }
        thin
    }

    /// How the array fares with space, from its own thin members and those of every array of this host, its own among them. None
    /// where no member is thin.
    pub fn space(&self, own: &[ThinMember], all: &[ThinMember]) -> Option<ArraySpace> {
        let (member_bytes, overcommitted, first_full) = room(own, all)?;
        let available_bytes = self.core.data_in(member_bytes);
        Some(ArraySpace { available_bytes, overcommitted, first_full: first_full.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(number: usize, pool: u64, unallocated_bytes: u64, free_bytes: u64) -> ThinMember {
        let space = ThinSpace { unallocated_bytes, pool, free_bytes };
        ThinMember { path: format!("/m{number}").into(), space }
    }

    /// Members as (pool, unallocated, free).
    fn members(given: &[(u64, u64, u64)]) -> Vec<ThinMember> {
        given.iter().enumerate().map(|(n, (pool, wants, free))| member(n, *pool, *wants, *free)).collect()
    }

    fn alone(given: &[(u64, u64, u64)]) -> Option<(u64, bool, String)> {
        let own = members(given);
        room(&own, &own).map(|(bytes, short, path)| (bytes, short, path.display().to_string()))
    }

    #[test]
    fn members_of_one_pool_share_what_is_left() {
        let says = |bytes, short, path: &str| Some((bytes, short, path.to_owned()));
        assert_eq!(alone(&[]), None, "no member is thin");
        assert_eq!(alone(&[(1, 100, 90); 3]), says(30, true, "/m0"));
        assert_eq!(alone(&[(1, 100, 90), (1, 100, 90), (2, 100, 20)]), says(20, true, "/m2"));
        assert_eq!(alone(&[(1, 100, 0); 2]), says(0, true, "/m0"), "it is full");
        // One wants only 10: the others get what it leaves.
        assert_eq!(alone(&[(1, 10, 90), (1, 100, 90), (1, 100, 90)]), says(40, true, "/m0"));
        // Enough for all, to the byte, and beyond.
        assert_eq!(alone(&[(1, 100, 200); 2]), says(100, false, "/m0"));
        assert_eq!(alone(&[(1, 100, 260); 2]), says(130, false, "/m0"));
        // A pool that has enough for the little that is asked of it does not limit what another pool can take.
        assert_eq!(alone(&[(1, 10, 12), (2, 100, 1000)]), says(102, false, "/m0"));
    }

    #[test]
    fn what_other_arrays_may_ask_for_counts_as_asked() {
        let own = members(&[(1, 60, 100)]);
        assert_eq!(room(&own, &own), Some((100, false, Path::new("/m0"))));
        let both = [own.clone(), vec![member(7, 1, 60, 100)]].concat();
        assert_eq!(room(&own, &both).map(|(bytes, short, _)| (bytes, short)), Some((100, true)));
        let elsewhere = [own.clone(), vec![member(7, 2, 60, 1)]].concat();
        assert_eq!(room(&own, &elsewhere).map(|(_, short, _)| short), Some(false));
    }

    proptest! {
        /// Growing by what is told fits, and growing by one byte more does not.
        #[test]
        fn no_pool_is_overdrawn_and_none_is_left_unused(
            wants in prop::collection::vec((0u64..3, 0u64..1000), 1..8),
            free in prop::collection::vec(0u64..3000, 3),
        ) {
            let given: Vec<_> = wants.iter().map(|(pool, want)| (*pool, *want, free[*pool as usize])).collect();
            let own = members(&given);
            let (bytes, short, _) = room(&own, &own).unwrap();
            let most = wants.iter().map(|(_, want)| *want).max().unwrap();
            let fits = |bytes: u64| (0..3u64).all(|pool| {
                let there = wants.iter().filter(|(of, _)| *of == pool);
                there.map(|(_, want)| bytes.min(*want)).sum::<u64>() <= free[pool as usize]
            });
            prop_assert!(fits(bytes.min(most)));
            prop_assert_eq!(short, !fits(most));
            prop_assert_eq!(short, bytes < most, "too little is left just where less than all can be mapped");
            if short {
                prop_assert!(!fits(bytes + 1));
            }
        }
    }
}

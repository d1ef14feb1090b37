//! Exhaustive: every level, member count, missing set and fragment set of a small world, carried out against
//! a stripe in memory.

use std::collections::BTreeMap;

use super::*;
use crate::geometry::{Level, MemberIndex};
use crate::parity;

const CHUNK: u32 = 4096;
const BLOCK: u32 = 2048;

fn byte(row: usize, at: usize, age: u8) -> u8 {
    (row as u8).wrapping_mul(31).wrapping_add(at as u8).wrapping_mul(7) ^ age
}

struct Stripe {
    geometry: Geometry,
    number: u64,
    rows: BTreeMap<Row, Vec<u8>>,
}

impl Stripe {
    fn new(level: Level, members: usize, number: u64) -> Self {
        let geometry = Geometry::new(level, members, CHUNK.into(), 1 << 20).unwrap();
        let rows = geometry
            .rows()
            .enumerate()
            .map(|(i, row)| (row, (0..CHUNK as usize).map(|at| byte(i, at, 0)).collect()))
            .collect();
        let mut stripe = Self { geometry, number, rows };
        stripe.make_parity();
        stripe
    }

    fn all_rows(&self, lost: &[usize]) -> Vec<Vec<u8>> {
        let mut rows: Vec<Vec<u8>> = self.geometry.rows().map(|row| self.rows[&row].clone()).collect();
        for &row in lost {
            rows[row].fill(0xee);
        }
        let mut views: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
        recover(parity::best(), &mut views, self.geometry.data_rows().into(), lost).unwrap();
        rows
    }

    fn make_parity(&mut self) {
        let lost: Vec<usize> = (usize::from(self.geometry.data_rows())..self.rows.len()).collect();
        let rows = self.all_rows(&lost);
        self.rows = self.geometry.rows().zip(rows).collect();
    }

    /// Carry a plan out as the engine does.
    fn execute(&mut self, plan: &SegmentPlan, new: &[u8], missing: &MemberSet) {
        let columns = plan.columns.start as usize..plan.columns.end as usize;
        for row in plan.reads.iter().chain(&plan.data_writes).chain(&plan.parity_writes) {
            let member = self.geometry.row_member(self.number, *row);
            assert!(!missing.contains(member), "{row:?} is missing: {plan:?}");
        }
        let new_of = |row| {
            let Row::Data(index) = row else { panic!("parity is not written by clients") };
            &new[usize::from(index) * CHUNK as usize..][columns.clone()]
        };
        let mut parity = vec![vec![0; columns.len()]; plan.parity_writes.len()];
        let mut views: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        let old = |row: Row| {
            assert!(plan.reads.contains(&row), "{row:?} was not read: {plan:?}");
            &self.rows[&row][columns.clone()]
        };
        compute_parity(parity::best(), &self.geometry, plan, new_of, old, &mut views).unwrap();
        for row in &plan.data_writes {
            self.rows.get_mut(row).unwrap()[columns.clone()].copy_from_slice(new_of(*row));
        }
        for (row, bytes) in plan.parity_writes.iter().zip(parity) {
            self.rows.get_mut(row).unwrap()[columns.clone()].copy_from_slice(&bytes);
        }
    }
}

fn missing_sets(geometry: &Geometry) -> Vec<MemberSet> {
    let members: Vec<MemberIndex> = geometry.member_indices().collect();
    let mut sets = vec![MemberSet::new()];
    for &a in &members {
        for &b in &members {
            let set: MemberSet = [a, b].into_iter().collect();
            if a <= b && geometry.tolerates(&set) {
                sets.push(set);
            }
        }
    }
    sets
}

/// Every set of written half-chunks.
fn fragment_sets(geometry: &Geometry) -> Vec<Vec<Range<u32>>> {
    let blocks = geometry.unit_data_bytes() / BLOCK;
    (1u32..1 << blocks)
        .map(|mask| {
            (0..blocks)
                .filter(|block| mask & (1 << block) != 0)
                .map(|block| block * BLOCK..(block + 1) * BLOCK)
                .collect()
        })
        .collect()
}

fn new_data(geometry: &Geometry) -> Vec<u8> {
    (0..geometry.unit_data_bytes() as usize).map(|at| byte(9, at, 0x5a)).collect()
}

#[test]
fn every_small_write_leaves_data_and_parity_right() {
    for (level, members) in
        [(Level::Raid5, 3), (Level::Raid5, 4), (Level::Raid5, 5), (Level::Raid6, 4), (Level::Raid6, 5)]
    {
        for number in 0..members as u64 {
            let fresh = Stripe::new(level, members, number);
            let geometry = fresh.geometry;
            let new = new_data(&geometry);
            for missing in missing_sets(&geometry) {
                for ranges in fragment_sets(&geometry) {
                    check_one(level, members, number, &missing, &ranges, &new);
                }
            }
        }
    }
}

fn check_one(
    level: Level,
    members: usize,
    number: u64,
    missing: &MemberSet,
    ranges: &[Range<u32>],
    new: &[u8],
) {
    let mut stripe = Stripe::new(level, members, number);
    let geometry = stripe.geometry;
    let mut expected: Vec<u8> =
        (0..geometry.data_rows()).flat_map(|row| stripe.rows[&Row::Data(row)].clone()).collect();
    for range in ranges {
        let range = range.start as usize..range.end as usize;
        expected[range.clone()].copy_from_slice(&new[range]);
    }
    for (columns, written) in segments(CHUNK, ranges) {
        let plan = plan_segment(&geometry, number, missing, true, columns, &written).unwrap();
        stripe.execute(&plan, new, missing);
    }
    let lost: Vec<usize> = geometry
        .rows()
        .enumerate()
        .filter(|(_, row)| missing.contains(geometry.row_member(number, *row)))
        .map(|(index, _)| index)
        .collect();
    let rows = stripe.all_rows(&lost);
    let data: Vec<u8> = rows[..usize::from(geometry.data_rows())].concat();
    assert_eq!(data, expected, "{level} of {members}, stripe {number}, {missing:?}, {ranges:?}");
    // Every surviving parity row agrees with the data as well.
    for parity_row in usize::from(geometry.data_rows())..rows.len() {
        if !lost.contains(&parity_row) && lost.len() < 2 {
            let mut also = lost.clone();
            also.push(parity_row);
            if also.len() <= rows.len() - usize::from(geometry.data_rows()) {
                assert_eq!(stripe.all_rows(&also), rows, "parity row {parity_row} disagrees");
            }
        }
    }
}

#[test]
fn a_stripe_out_of_sync_is_never_modified_in_place_or_recovered_from() {
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        let geometry = Geometry::new(level, members, CHUNK.into(), 1 << 20).unwrap();
        for missing in missing_sets(&geometry) {
            for ranges in fragment_sets(&geometry) {
                for (columns, written) in segments(CHUNK, &ranges) {
                    match plan_segment(&geometry, 1, &missing, false, columns, &written) {
                        Ok(plan) => assert!(
                            matches!(plan.method, Method::Reconstruct | Method::DataOnly),
                            "{plan:?} with {missing:?}"
                        ),
                        Err(CannotPlan) => {
                            let kept_is_missing = geometry.rows().any(|row| {
                                matches!(row, Row::Data(_))
                                    && !written.contains(&row)
                                    && missing.contains(geometry.row_member(1, row))
                            });
                            assert!(kept_is_missing, "refused without need: {written:?}, {missing:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_method_that_reads_least_is_chosen() {
    let geometry = Geometry::new(Level::Raid5, 9, CHUNK.into(), 1 << 20).unwrap();
    let none = MemberSet::new();
    let plan = |rows: Range<u16>| {
        plan_segment(&geometry, 0, &none, true, 0..CHUNK, &rows.map(Row::Data).collect()).unwrap()
    };
    assert_eq!((plan(0..1).method, plan(0..1).reads.len()), (Method::ReadModify, 2));
    assert_eq!((plan(0..3).method, plan(0..3).reads.len()), (Method::ReadModify, 4));
    assert_eq!((plan(0..4).method, plan(0..4).reads.len()), (Method::Reconstruct, 4));
    assert_eq!((plan(0..8).method, plan(0..8).reads.len()), (Method::Reconstruct, 0));
}

#[test]
fn segments_cut_where_the_written_rows_change() {
    // The last half of row 0 and the first half of row 1, as a write across a chunk boundary gives.
    let cut = segments(CHUNK, std::slice::from_ref(&(BLOCK..CHUNK + BLOCK)));
    let rows = |indices: &[u16]| indices.iter().copied().map(Row::Data).collect::<Rows>();
    assert_eq!(cut, [(0..BLOCK, rows(&[1])), (BLOCK..CHUNK, rows(&[0]))]);
    assert_eq!(segments(CHUNK, std::slice::from_ref(&(0..2 * CHUNK))), [(0..CHUNK, rows(&[0, 1]))]);
    assert_eq!(segments(CHUNK, &[]), []);
}

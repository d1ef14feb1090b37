//! The map is a bijection at every level, copies and parity never share a member, and sizes are md's.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const CHUNK: u64 = 4096;

fn small(level: Level, members: usize, rows: u64) -> Geometry {
    let row_bytes = if level == Level::Raid1 { limits::MIRROR_UNIT_BYTES.into() } else { CHUNK };
    Geometry::new(level, members, CHUNK, rows * row_bytes).unwrap()
}

/// Every place of the first byte of every chunk of every unit.
fn places(geometry: &Geometry, unit: u64) -> Vec<(u64, Place)> {
    let chunk = u64::from(geometry.chunk_bytes());
    let first = unit * u64::from(geometry.unit_data_bytes());
    if !geometry.level().has_parity() {
        return geometry.copies(unit).into_iter().map(|place| (first, place)).collect();
    }
    (0..geometry.data_rows())
        .map(|row| {
            let member = geometry.row_member(unit, Row::Data(row));
            (first + u64::from(row) * chunk, Place { member, offset: geometry.stripe_offset(unit) })
        })
        .collect()
}

#[test]
fn the_map_is_a_bijection_at_every_level() {
    for level in Level::ALL {
        for members in usize::from(level.minimum_members())..=9 {
            let geometry = small(level, members, 12);
            let mut seen = HashMap::new();
            for unit in 0..geometry.units() {
                for (logical, place) in places(&geometry, unit) {
                    assert!(place.offset + u64::from(geometry.chunk_bytes()) <= geometry.member_bytes());
                    assert!(
                        seen.insert((place.member, place.offset), logical).is_none(),
                        "{level} {place:?}"
                    );
                    let inside = Place { offset: place.offset + 512, ..place };
                    assert_eq!(geometry.logical(inside), Some(logical + 512), "{level} of {members}");
                }
            }
            let logicals: HashSet<u64> = seen.values().copied().collect();
            assert_eq!(logicals.len() as u64 * u64::from(geometry.chunk_bytes()), geometry.size_bytes());
        }
    }
}

#[test]
fn rows_of_a_stripe_are_on_different_members_and_turn_round() {
    for (level, members) in [(Level::Raid5, 3), (Level::Raid5, 6), (Level::Raid6, 4), (Level::Raid6, 7)] {
        let geometry = small(level, members, 20);
        let mut parity_on = HashSet::new();
        for stripe in 0..geometry.units() {
            let on: HashSet<MemberIndex> =
                geometry.rows().map(|row| geometry.row_member(stripe, row)).collect();
            assert_eq!(on.len(), members);
            for row in geometry.rows() {
                assert_eq!(geometry.member_row(stripe, geometry.row_member(stripe, row)), row);
            }
            parity_on.insert(geometry.row_member(stripe, Row::P));
        }
        assert_eq!(parity_on.len(), members);
    }
}

#[test]
fn left_symmetric_is_as_md_lays_it_out() {
    // RAID 5 of 4, first stripes:  D0 D1 D2 P | D4' D3'.. from md's documentation of left-symmetric:
    //   0 1 2 P / 4 5 P 3 / 8 P 6 7 / P 9 10 11
    let geometry = small(Level::Raid5, 4, 8);
    let on = |stripe, row| geometry.row_member(stripe, row).0;
    assert_eq!([0, 1, 2].map(|d| on(0, Row::Data(d))), [0, 1, 2]);
    assert_eq!([0, 1, 2].map(|d| on(1, Row::Data(d))), [3, 0, 1]);
    assert_eq!([0, 1, 2].map(|d| on(3, Row::Data(d))), [1, 2, 3]);
    assert_eq!([0, 1, 2, 3].map(|stripe| on(stripe, Row::P)), [3, 2, 1, 0]);
    // RAID 6 of 4: P before Q, data after Q:  0 1 P Q? md: pd = 3, qd = 0, data from 1.
    let geometry = small(Level::Raid6, 4, 8);
    let on = |stripe, row| geometry.row_member(stripe, row).0;
    assert_eq!([on(0, Row::P), on(0, Row::Q), on(0, Row::Data(0)), on(0, Row::Data(1))], [3, 0, 1, 2]);
    assert_eq!([on(1, Row::P), on(1, Row::Q), on(1, Row::Data(0)), on(1, Row::Data(1))], [2, 3, 0, 1]);
}

#[test]
fn near_2_survives_what_it_can() {
    let set = |members: &[u16]| members.iter().copied().map(MemberIndex).collect::<MemberSet>();
    let even = small(Level::Raid10, 4, 4);
    assert!(even.tolerates(&set(&[0, 2])) && even.tolerates(&set(&[1, 2])));
    assert!(!even.tolerates(&set(&[0, 1])) && !even.tolerates(&set(&[2, 3])));
    let odd = small(Level::Raid10, 5, 4);
    assert!(odd.tolerates(&set(&[0, 2])));
    for first in 0..5 {
        assert!(!odd.tolerates(&set(&[first, (first + 1) % 5])));
    }
    // And the map agrees: a set is tolerated exactly if every chunk keeps a copy.
    for members in 2..=6 {
        let geometry = small(Level::Raid10, members, 12);
        for mask in 0..1u16 << members {
            let missing = set(&(0..members as u16).filter(|m| mask & (1 << m) != 0).collect::<Vec<_>>());
            let all_left = (0..geometry.units())
                .all(|unit| geometry.copies(unit).iter().any(|place| !missing.contains(place.member)));
            assert_eq!(geometry.tolerates(&missing), all_left, "{members} members, {missing:?}");
        }
    }
}

#[test]
fn a_rebuild_goes_on_where_it_stopped_and_skips_nothing() {
    for level in [Level::Raid1, Level::Raid5, Level::Raid6, Level::Raid10] {
        for members in usize::from(level.minimum_members())..=7 {
            let geometry = small(level, members, 9);
            for member in geometry.member_indices() {
                for unit in 0..=geometry.units() {
                    let recorded = geometry.member_offset_before(member, unit);
                    let resumed = geometry.first_unit_at(member, recorded);
                    assert!(resumed >= unit.min(resumed) && recorded <= geometry.member_bytes());
                    // Nothing below what is recorded belongs to a unit that was not done.
                    for at in (0..recorded).step_by(geometry.chunk_bytes() as usize) {
                        let unused = geometry.logical(Place { member, offset: at }).is_none();
                        let below = geometry.first_unit_at(member, at) < unit;
                        assert!(below || (unused && !level.has_parity()), "{level} {member:?} {unit}");
                    }
                    // Nothing that was not done lies below where it resumes.
                    for undone in unit..geometry.units() {
                        let on_member = geometry.copies(undone).iter().any(|p| p.member == member);
                        assert!(undone >= resumed || !(level.has_parity() || on_member), "{level} {unit}");
                    }
                }
            }
        }
    }
}

#[test]
fn bad_shapes_are_refused() {
    use GeometryError as E;
    let new = |level, members, chunk, bytes| Geometry::new(level, members, chunk, bytes).unwrap_err();
    assert!(matches!(new(Level::Raid5, 2, CHUNK, 1 << 20), E::TooFewMembers { minimum: 3, given: 2, .. }));
    assert!(matches!(new(Level::Raid6, 3, CHUNK, 1 << 20), E::TooFewMembers { minimum: 4, .. }));
    assert!(matches!(new(Level::Raid1, 385, CHUNK, 1 << 20), E::TooManyMembers { .. }));
    for chunk in [0, 1, 2048, 4097, 12288, 2 << 20, u64::MAX] {
        assert_eq!(new(Level::Raid0, 2, chunk, 1 << 30), E::BadChunk { given_bytes: chunk });
    }
    assert!(matches!(new(Level::Raid5, 3, CHUNK, CHUNK - 1), E::MembersTooSmall { .. }));
    assert!(matches!(new(Level::Raid5, 3, CHUNK, u64::MAX), E::MembersTooLarge { .. }));
    assert_eq!("raid10".parse(), Ok(Level::Raid10));
    assert_eq!("5".parse(), Ok(Level::Raid5));
    assert!("4".parse::<Level>().is_err() && "".parse::<Level>().is_err());
}

#[test]
fn spans_of_units_are_those_of_their_places() {
    for level in Level::ALL {
        for members in usize::from(level.minimum_members())..8 {
            let geometry = Geometry::new(level, members, 4096, 13 * 65536).unwrap();
            let (units, chunk) = (geometry.units(), u64::from(geometry.chunk_bytes()));
            let rows = |unit: u64| -> Vec<u64> {
                if level.has_parity() {
                    return vec![geometry.stripe_offset(unit)];
                }
                geometry.copies(unit).into_iter().map(|place| place.offset).collect()
            };
            for start in (0..units).step_by(3) {
                for end in [start + 1, start + 2, start + 7, start + 16, units] {
                    let range = start..end.min(units).max(start + 1);
                    let touched: Vec<u64> = range.clone().flat_map(rows).collect();
                    let span = *touched.iter().min().unwrap()..touched.iter().max().unwrap() + chunk;
                    assert_eq!(geometry.touched_by(&range), span, "{level} of {members}, {range:?}");
                    let others: Vec<u64> =
                        (0..units).filter(|unit| !range.contains(unit)).flat_map(rows).collect();
                    let owned = geometry.owned_by(&range);
                    for row in (0..geometry.member_bytes()).step_by(chunk as usize) {
                        let mine = touched.contains(&row) && !others.contains(&row);
                        assert_eq!(owned.contains(&row), mine, "{level} of {members}, {range:?} at {row}");
                    }
                    let touching = geometry.units_touching(&span);
                    let expected: Vec<u64> =
                        (0..units).filter(|unit| rows(*unit).iter().any(|row| span.contains(row))).collect();
                    assert_eq!(touching.collect::<Vec<_>>(), expected, "{level} of {members}, {range:?}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn pieces_cover_a_request_without_gap(
        level in prop::sample::select(&Level::ALL[..]), members in 4usize..20, offset in 0u64..1 << 22, length in 1u64..1 << 21,
    ) {
        let geometry = Geometry::new(level, members, CHUNK, 64 << 20).unwrap();
        let mut at = offset;
        for piece in geometry.pieces(offset, length) {
            prop_assert_eq!(piece.unit * u64::from(geometry.unit_data_bytes()) + u64::from(piece.start), at);
            prop_assert!(piece.length > 0 && piece.start + piece.length <= geometry.unit_data_bytes());
            at += u64::from(piece.length);
        }
        prop_assert_eq!(at, offset + length);
    }

    #[test]
    fn huge_arrays_stay_inside_64_bits(
        level in prop::sample::select(&Level::ALL[..]), members in 4usize..=384, bytes in 1u64 << 30..=limits::MAX_MEMBER_BYTES,
    ) {
        let geometry = Geometry::new(level, members, 1 << 20, bytes).unwrap();
        let last = geometry.units() - 1;
        for (logical, place) in places(&geometry, last) {
            prop_assert_eq!(geometry.logical(place), Some(logical));
            prop_assert!(place.offset < geometry.member_bytes() && logical < geometry.size_bytes());
        }
    }
}

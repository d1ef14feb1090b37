//! Each policy by what it promises, whichever addresses come and go.

use proptest::prelude::*;

use super::*;

fn address(index: usize) -> SocketAddr {
    format!("192.0.2.{}:3260", index + 1).parse().unwrap()
}

/// The addresses of these indexes, of equal weight and without sessions.
fn plain(indexes: &[usize]) -> Vec<Candidate> {
    let one = |index: &usize| Candidate { index: *index, address: address(*index), weight: 1, sessions: 0 };
    indexes.iter().map(one).collect()
}

fn initiator(number: usize) -> String {
    format!("iqn.2026-11.com.example:node{number}")
}

const POLICIES: [Policy; 5] =
    [Policy::Fixed, Policy::RoundRobin, Policy::Weighted, Policy::InitiatorHash, Policy::LeastSessions];

#[test]
fn fixed_is_the_first_that_is_there() {
    let mut chooser = Chooser::default();
    let mut choose = |indexes: &[usize]| chooser.choose(Policy::Fixed, "x", &plain(indexes));
    assert_eq!([choose(&[0, 1, 2]), choose(&[1, 2]), choose(&[0, 1, 2])], [Some(0), Some(1), Some(0)]);
}

#[test]
fn round_robin_passes_over_whoever_is_gone_and_begins_anew_at_the_end() {
    let mut chooser = Chooser::default();
    let mut choose = |indexes: &[usize]| chooser.choose(Policy::RoundRobin, "x", &plain(indexes)).unwrap();
    assert_eq!(
        [choose(&[0, 1, 2]), choose(&[0, 1, 2]), choose(&[0, 1, 2]), choose(&[0, 1, 2])],
        [0, 1, 2, 0]
    );
    assert_eq!([choose(&[0, 2]), choose(&[0, 2])], [2, 0]);
    assert_eq!([choose(&[0, 1, 2]), choose(&[0]), choose(&[0])], [1, 0, 0]);
}

#[test]
fn weights_are_served_smoothly() {
    let mut chooser = Chooser::default();
    let field: Vec<Candidate> = [5, 1, 1]
        .iter()
        .zip(plain(&[0, 1, 2]))
        .map(|(weight, one)| Candidate { weight: *weight, ..one })
        .collect();
    let turns: Vec<usize> = (0..7).map(|_| chooser.choose(Policy::Weighted, "x", &field).unwrap()).collect();
    assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0], "not five in a row");
}

#[test]
fn the_hash_is_the_documented_one() {
    // printf 'iqn.2026-11.com.example:node1\0192.0.2.1:3260' | sha256sum | cut -c1-16
    let name = "iqn.2026-11.com.example:node1";
    assert_eq!(score(name, "192.0.2.1:3260".parse().unwrap()), SCORE_V4);
    assert_eq!(score("IQN.2026-11.com.Example:Node1", "[2001:db8::1]:3260".parse().unwrap()), SCORE_V6);
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md");
    let document = std::fs::read_to_string(document).unwrap();
    assert!(document.contains(&format!("`{SCORE_V4:016x}`")), "docs/operating.md shows another score");
}

const SCORE_V4: u64 = 0x67bd_c097_7442_6bd8;
const SCORE_V6: u64 = 0x3c89_d9d6_ba0b_ab72;

#[test]
fn initiators_are_spread_evenly_by_their_names() {
    let field = plain(&[0, 1, 2, 3]);
    let mut counts = [0; 4];
    for number in 0..4000 {
        let chosen = Chooser::default().choose(Policy::InitiatorHash, &initiator(number), &field);
        counts[chosen.unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
}

#[test]
fn the_fewest_sessions_win_and_of_equals_the_first() {
    let with = |sessions: [u64; 3]| {
        let field = plain(&[0, 1, 2]).into_iter().zip(sessions);
        let field: Vec<Candidate> = field.map(|(one, sessions)| Candidate { sessions, ..one }).collect();
        Chooser::default().choose(Policy::LeastSessions, "x", &field)
    };
    assert_eq!([with([3, 2, 4]), with([2, 2, 2]), with([5, 1, 1])], [Some(1), Some(0), Some(1)]);
}

proptest! {
    #[test]
    fn only_a_candidate_is_chosen_and_always_one_if_there_is_any(
        rounds in prop::collection::vec(prop::collection::btree_set(0usize..6, 0..6), 1..40),
    ) {
        for policy in POLICIES {
            let (mut chooser, mut again) = (Chooser::default(), Chooser::default());
            for (number, round) in rounds.iter().enumerate() {
                let field = plain(&round.iter().copied().collect::<Vec<_>>());
                let chosen = chooser.choose(policy, &initiator(number), &field);
                prop_assert_eq!(chosen.is_some(), !round.is_empty());
                prop_assert!(chosen.is_none_or(|index| round.contains(&index)));
                prop_assert_eq!(chosen, again.choose(policy, &initiator(number), &field));
            }
        }
    }

    #[test]
    fn an_initiator_moves_only_when_its_address_goes_and_comes_back_with_it(
        name in "[a-z0-9]{1,12}", all in prop::collection::btree_set(0usize..40, 2..12), gone in any::<prop::sample::Index>(),
    ) {
        let name = format!("iqn.2026-11.com.example:{name}");
        let all: Vec<usize> = all.into_iter().collect();
        let choose = |indexes: &[usize]| {
            Chooser::default().choose(Policy::InitiatorHash, &name, &plain(indexes)).unwrap()
        };
        let home = choose(&all);
        let gone = *gone.get(&all);
        let left: Vec<usize> = all.iter().copied().filter(|index| *index != gone).collect();
        if gone == home {
            prop_assert_ne!(choose(&left), home);
        } else {
            prop_assert_eq!(choose(&left), home);
        }
        // The order in which they are written does not count.
        let mut turned = plain(&all);
        turned.reverse();
        prop_assert_eq!(Chooser::default().choose(Policy::InitiatorHash, &name, &turned), Some(home));
    }

    #[test]
    fn every_weight_is_met_exactly_in_each_full_round(weights in prop::collection::vec(1u16..20, 1..6), rounds in 1usize..4) {
        let indexes: Vec<usize> = (0..weights.len()).collect();
        let field: Vec<Candidate> = plain(&indexes).into_iter().zip(&weights)
            .map(|(one, weight)| Candidate { weight: *weight, ..one }).collect();
        let mut chooser = Chooser::default();
        let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        for _ in 0..rounds {
            let mut counts = vec![0u16; weights.len()];
            for _ in 0..total {
                counts[chooser.choose(Policy::Weighted, "x", &field).unwrap()] += 1;
            }
            prop_assert_eq!(&counts, &weights);
        }
    }

    #[test]
    fn what_is_gained_stays_bounded_whoever_comes_and_goes(
        weights in prop::collection::vec(1u16..20, 4), rounds in prop::collection::vec(prop::collection::btree_set(0usize..4, 1..5), 1..200),
    ) {
        let mut chooser = Chooser::default();
        for round in rounds {
            let field: Vec<Candidate> = plain(&round.iter().copied().collect::<Vec<_>>()).into_iter()
                .map(|one| Candidate { weight: weights[one.index], ..one }).collect();
            chooser.choose(Policy::Weighted, "x", &field);
            let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
            prop_assert_eq!(chooser.gained.values().sum::<i64>(), 0);
            prop_assert!(chooser.gained.values().all(|gained| gained.abs() <= 4 * total), "{:?}", chooser.gained);
        }
    }
}

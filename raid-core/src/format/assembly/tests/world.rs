//! Random histories: members fail, return, are added and rebuilt, updates are cut short, hosts see only some
//! of the disks, halves run apart. The model knows which disk holds which acknowledged write; the chooser must
//! never trust one that lacks a write which another disk that is there has.
//!
//! The history follows the rules that the engine follows: what an update missed is repeated before the next one
//! begins, nothing is acknowledged before the last update is everywhere, and a start writes the freshest
//! superblock to the laggards first.

use proptest::prelude::*;

use super::*;

/// What a disk holds, besides its superblock: the acknowledged writes of each slot's content.
#[derive(Clone)]
struct Disk {
    candidate: Candidate,
    writes: BTreeSet<u32>,
}

struct World {
    disks: Vec<Disk>,
    /// The running array: its superblock and the disks that are in sync and rebuilding in it.
    running: Option<Running>,
    next_write: u32,
    next_disk: u16,
}

#[derive(Clone)]
struct Running {
    table: Superblock,
    in_sync: Vec<usize>,
    rebuilding: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Acknowledge a write.
    Write,
    /// A member fails; the update that says so reaches only so many of the others before a power cut, or all.
    Fail { which: usize, reach: Option<usize> },
    /// A new disk is added and rebuilt, finished or not.
    Replace { finish: bool, reach: Option<usize> },
    /// An update without a cause, perhaps cut short.
    Update { reach: Option<usize> },
    /// Power cut, then a start that sees only the disks of this mask.
    Restart { visible: u8, reverse: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let reach = prop_oneof![2 => Just(None), 1 => (0usize..4).prop_map(Some)];
    prop_oneof![
        4 => Just(Step::Write),
        2 => (0usize..4, reach.clone()).prop_map(|(which, reach)| Step::Fail { which, reach }),
        2 => (any::<bool>(), reach.clone()).prop_map(|(finish, reach)| Step::Replace { finish, reach }),
        1 => reach.prop_map(|reach| Step::Update { reach }),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(visible, reverse)| Step::Restart { visible, reverse }),
    ]
}

impl World {
    fn new(level: i32, disks: u16) -> Self {
        let members = without_headers(array(level, disks, 0));
        let mut world = Self {
            disks: members.into_iter().map(|candidate| Disk { candidate, writes: BTreeSet::new() }).collect(),
            running: None,
            next_write: 0,
            next_disk: disks,
        };
        world.restart(0xff, false);
        world
    }

    /// Write the running table to its members; `reach` of them only, then the power fails.
    fn update(&mut self, reach: Option<usize>) {
        let Some(running) = &mut self.running else { return };
        running.table.events += 1;
        let members: Vec<usize> = running.in_sync.iter().chain(&running.rebuilding).copied().collect();
        let count = reach.unwrap_or(members.len());
        for index in members.iter().take(count) {
            let own = self.disks[*index].candidate.superblock.as_mut().unwrap();
            let mut fresh = running.table.clone();
            (fresh.dev_number, fresh.device_uuid) = (own.dev_number, own.device_uuid);
            fresh.recovery_offset = running.rebuilding.contains(index).then_some(8);
            *own = fresh;
        }
        if count < members.len() {
            self.running = None;
        }
    }

    fn write(&mut self) {
        let Some(running) = &self.running else { return };
        for index in running.in_sync.iter().chain(&running.rebuilding) {
            self.disks[*index].writes.insert(self.next_write);
        }
        self.next_write += 1;
    }

    fn fail(&mut self, which: usize, reach: Option<usize>) {
        let Some(running) = &mut self.running else { return };
        let position = which % running.in_sync.len();
        let mut present: Vec<bool> = vec![false; running.table.raid_disks as usize];
        for index in running.in_sync.iter().filter(|index| **index != running.in_sync[position]) {
            let own = self.disks[*index].candidate.superblock.as_ref().unwrap();
            present[usize::from(running.table.role_of(own.dev_number).slot().unwrap())] = true;
        }
        if survives(running.table.level, running.table.layout, &present) != Some(true) {
            // The array stops; it does not write down that it has too few members.
            self.running = None;
            return;
        }
        let index = running.in_sync.remove(position);
        let number = self.disks[index].candidate.superblock.as_ref().unwrap().dev_number;
        assert!(running.table.set_role(number, Role::Faulty));
        self.update(reach);
    }

    fn replace(&mut self, finish: bool, reach: Option<usize>) {
        let Some(running) = &mut self.running else { return };
        let taken: Vec<u16> = running.table.roles.iter().filter_map(|role| role.slot()).collect();
        let free = (0..running.table.raid_disks as u16).find(|slot| !taken.contains(slot));
        if let Some(slot) = free.filter(|_| self.disks.len() < 8) {
            let number = self.next_disk;
            self.next_disk += 1;
            let mut superblock = running.table.clone();
            superblock.dev_number = number.into();
            superblock.device_uuid = Uuid::from_u128(0x100 + u128::from(number));
            assert!(superblock.set_role(number.into(), Role::Spare));
            assert!(running.table.set_role(number.into(), Role::Active(slot)));
            let mut candidate = self.disks[0].candidate.clone();
            (candidate.id, candidate.superblock) = (format!("disk{number}"), Ok(superblock));
            running.rebuilding.push(self.disks.len());
            self.disks.push(Disk { candidate, writes: BTreeSet::new() });
            self.update(reach);
        } else if finish && !running.rebuilding.is_empty() {
            let done = running.rebuilding.remove(0);
            self.disks[done].writes = self.disks[running.in_sync[0]].writes.clone();
            running.in_sync.push(done);
            self.update(reach);
        }
    }

    /// A start with some of the disks. Checks the choice, then goes on with it.
    fn restart(&mut self, visible: u8, reverse: bool) {
        self.running = None;
        let mut seen: Vec<usize> = (0..self.disks.len()).filter(|i| visible & 1 << i != 0).collect();
        if reverse {
            seen.reverse();
        }
        let candidates: Vec<Candidate> = seen.iter().map(|i| self.disks[*i].candidate.clone()).collect();
        let choice = choose(ARRAY, &candidates, false);
        self.check_order(&seen, &choice);
        let Ok(plan) = choice else { return };
        let table = candidates[plan.freshest].superblock.clone().unwrap();
        let in_sync: Vec<usize> = plan.in_sync().map(|c| seen[c]).collect();
        // What no disk that is here ever saw, nobody can know of: a start with other disks only makes a second
        // half, which must be told apart when the halves meet.
        let known: BTreeSet<u32> = seen.iter().flat_map(|i| self.disks[*i].writes.iter().copied()).collect();
        for index in &in_sync {
            let lacks: Vec<_> = known.difference(&self.disks[*index].writes).collect();
            assert!(lacks.is_empty(), "disk{index} is trusted but lacks writes {lacks:?}");
        }
        let rebuilding: Vec<usize> = plan
            .slots
            .iter()
            .filter_map(|slot| match slot {
                SlotState::Rebuilding { candidate, .. } => Some(seen[*candidate]),
                _ => None,
            })
            .collect();
        self.go_on(table, in_sync, rebuilding);
    }

    /// Bring the laggards up, then drop who is not here.
    fn go_on(&mut self, mut table: Superblock, in_sync: Vec<usize>, rebuilding: Vec<usize>) {
        table.events -= 1;
        self.running = Some(Running { table, in_sync, rebuilding });
        self.update(None);
        let Some(running) = &mut self.running else { return };
        let here: Vec<u32> = running
            .in_sync
            .iter()
            .chain(&running.rebuilding)
            .map(|index| self.disks[*index].candidate.superblock.as_ref().unwrap().dev_number)
            .collect();
        for (number, role) in (0u32..).zip(&mut running.table.roles) {
            if role.slot().is_some() && !here.contains(&number) {
                *role = Role::Faulty;
            }
        }
        self.update(None);
    }

    /// The same disks in any order give the same choice.
    fn check_order(&self, seen: &[usize], choice: &Result<AssemblyPlan, AssemblyRefusal>) {
        let mut turned = seen.to_vec();
        turned.rotate_left(seen.len() / 2);
        turned.reverse();
        let candidates: Vec<Candidate> = turned.iter().map(|i| self.disks[*i].candidate.clone()).collect();
        let other = choose(ARRAY, &candidates, false);
        match (choice, &other) {
            (Ok(one), Ok(two)) => assert_eq!(named(one, seen), named(two, &turned)),
            (one, two) => assert_eq!(one.is_err(), two.is_err(), "{one:?} {two:?}"),
        }
    }
}

/// A plan's slots in terms of disks, not of candidates.
fn named(plan: &AssemblyPlan, seen: &[usize]) -> (usize, Vec<SlotState>) {
    let slots = plan.slots.iter().map(|slot| match *slot {
        SlotState::InSync(c) => SlotState::InSync(seen[c]),
        SlotState::Stale(c) => SlotState::Stale(seen[c]),
        SlotState::Rebuilding { candidate, recovery_offset, by_bitmap } => {
            SlotState::Rebuilding { candidate: seen[candidate], recovery_offset, by_bitmap }
        }
        SlotState::Missing => SlotState::Missing,
    });
    (seen[plan.freshest], slots.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_member_that_lacks_an_acknowledged_write_is_ever_trusted(
        (level, disks) in prop::sample::select(vec![(1, 2u16), (1, 3), (5, 3), (6, 4), (10, 4)]),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mut world = World::new(level, disks);
        for step in steps {
            match step {
                Step::Write => world.write(),
                Step::Fail { which, reach } => world.fail(which, reach),
                Step::Replace { finish, reach } => world.replace(finish, reach),
                Step::Update { reach } => world.update(reach),
                Step::Restart { visible, reverse } => world.restart(visible, reverse),
            }
        }
        // In the end all disks are there.
        world.restart(0xff, false);
    }
}

//! Atomic writes over many stripes, with power cuts and lost members: one of them is there, whole.

use super::*;

/// Not on a boundary of anything but a block.
const AT: u64 = 4096;

struct Window {
    world: World,
    length: u64,
    /// Acknowledged last, and begun last.
    acknowledged: std::cell::Cell<u64>,
    begun: std::cell::Cell<u64>,
}

impl Window {
    fn new(level: Level, members: usize, seed: u64) -> Self {
        let world = World::new(level, members, seed);
        let length = run(async {
            let array = world.start().await;
            let limit = u64::from(array.atomic_limit_bytes());
            array.stop().await.unwrap();
            limit
        });
        assert!(length >= 64 << 10, "{length}");
        Self { world, length, acknowledged: std::cell::Cell::new(0), begun: std::cell::Cell::new(0) }
    }

    async fn check(&self, array: &Array) {
        let (buffer, result) = array.read(AT, Buffer::zeroed(self.length as usize)).await;
        result.unwrap();
        let found = id_of(&buffer[..SECTOR as usize]);
        assert!(buffer.chunks(SECTOR as usize).all(|sector| id_of(sector) == found), "torn");
        let possible = self.acknowledged.get()..=self.begun.get();
        assert!(possible.contains(&found), "{found}, may only be {possible:?}");
        self.acknowledged.set(found);
        self.begun.set(found);
    }

    async fn write_atomically(&self, array: &Array) {
        loop {
            let id = self.begun.get() + 1;
            self.begun.set(id);
            let data = id.to_le_bytes().repeat(self.length as usize / 8);
            array.write_atomic(AT, data.into()).await.unwrap();
            self.acknowledged.set(id);
        }
    }

    /// Traffic in the same stripes and next to them.
    async fn disturb(&self, array: &Array, mut random: Random) {
        loop {
            let behind = AT + self.length + random.below(64) * 4096;
            let place = if random.below(4) == 0 { 0 } else { behind };
            array.write(place, vec![1; 4096].into(), Durability::Durable).await.unwrap();
        }
    }

    fn live(&mut self, operations: u64) {
        self.world.power_on(operations);
        let seed = self.world.random.next();
        let went_out = Arc::clone(&self.world.went_out);
        run(async {
            let life = async {
                let array = self.world.start().await;
                self.check(&array).await;
                let (one, two) = (self.disturb(&array, Random(seed)), self.disturb(&array, Random(!seed)));
                tokio::join!(self.write_atomically(&array), one, two);
            };
            tokio::select! {
                biased;
                () = went_out.notified() => {}
                () = life => {}
            }
        });
        for disk in &self.world.disks {
            disk.cut(&mut self.world.random);
        }
    }
}

#[test]
fn an_atomic_write_is_there_as_a_whole_or_not_at_all() {
    let mirrors = [(Level::Raid1, 2), (Level::Raid1, 3), (Level::Raid10, 4)];
    for (level, members) in [(Level::Raid5, 3), (Level::Raid6, 5)].into_iter().chain(mirrors) {
        for seed in 1..=2 {
            let mut window = Window::new(level, members, seed);
            for life in 0..10 {
                let operations = 1 + window.world.random.below(1500);
                window.live(operations);
                if life == 5 {
                    window.world.away = vec![seed as usize % members];
                }
            }
            assert!(window.begun.get() > 1, "nothing was ever written");
        }
    }
}

#[test]
fn without_copies_or_a_journal_or_beyond_the_limit_there_are_none() {
    for level in [Level::Raid1, Level::Raid5] {
        let world = World::new(level, 3, 7);
        run(async {
            let array = world.start().await;
            let long = vec![0; array.atomic_limit_bytes() as usize + 4096];
            let refused = array.write_atomic(0, long.into()).await.unwrap_err();
            assert_eq!(refused.kind, IoErrorKind::Unsupported, "{level}");
            array.stop().await.unwrap();
        });
    }
    for (level, policy) in [(Level::Raid0, Policy::None), (Level::Raid5, Policy::Bitmap)] {
        let world = World::with_policy(level, policy, 3, 7);
        run(async {
            let array = world.start().await;
            assert_eq!(array.atomic_limit_bytes(), 0, "{level}");
            let refused = array.write_atomic(0, vec![0; 4096].into()).await.unwrap_err();
            assert_eq!(refused.kind, IoErrorKind::Unsupported, "{level}");
            array.stop().await.unwrap();
        });
    }
}

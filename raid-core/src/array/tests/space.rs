//! How much can still be mapped, of arrays and of volumes.

use block_io::ThinSpace;

use super::*;

const MIB: u64 = 1 << 20;

fn sparse(disk: &Faulty, pool: u64, unallocated_bytes: u64, free_bytes: u64) {
    *disk.room.lock().unwrap() = Some(ThinSpace { unallocated_bytes, pool, free_bytes });
}

#[test]
fn thin_members_limit_an_array_by_what_their_file_systems_have_left() {
    run(async {
        let world = World::new(Level::Raid5, 5, 1).await;
        let array = &world.array;
        assert_eq!(array.thin_members().await, [], "none of them says that it is thin");
        assert_eq!(array.space(&[], &[]), None);
        let [one, two, three, .., spare] = &world.disks[..] else { panic!() };
        sparse(one, 1, 10 * MIB, 8 * MIB);
        sparse(two, 1, 10 * MIB, 8 * MIB);
        sparse(three, 2, 10 * MIB, 64 * MIB);
        // It has no role: nothing is written to it.
        sparse(spare, 1, 10 * MIB, 8 * MIB);
        let own = array.thin_members().await;
        let paths: Vec<_> = own.iter().map(|member| member.path.display().to_string()).collect();
        assert_eq!(paths, ["/disks/0", "/disks/1", "/disks/2"]);
        let space = array.space(&own, &own).unwrap();
        // 4 MiB more on each of five members, four of which hold data.
        assert_eq!((space.available_bytes, space.overcommitted), (16 * MIB, true));
        assert_eq!(space.first_full, std::path::Path::new("/disks/0"));
        sparse(one, 1, 10 * MIB, 20 * MIB);
        sparse(two, 1, 10 * MIB, 20 * MIB);
        let own = array.thin_members().await;
        let space = array.space(&own, &own).unwrap();
        assert_eq!((space.available_bytes, space.overcommitted), (40 * MIB, false));
        // Who cannot say is passed over.
        one.gone.store(true, Ordering::Relaxed);
        assert_eq!(array.thin_members().await.len(), 2);
    });
}

#[test]
fn a_volume_has_mapped_what_was_written_to_it() {
    for (level, members) in
        [(Level::Raid0, 3), (Level::Raid1, 2), (Level::Raid5, 4), (Level::Raid6, 5), (Level::Raid10, 4)]
    {
        run(async {
            let world = World::new(level, members, 0).await;
            let region = world.array.core.geometry.data_bytes_of_members(MIB);
            let spec = |name: &str| VolumeSpec {
                name: name.into(),
                size_bytes: 3 * region,
                write_cache: false,
                physical_block_bytes: None,
            };
            let volume = world.array.create_volume(spec("one")).await.unwrap();
            let other = world.array.create_volume(spec("other")).await.unwrap();
            assert_eq!((volume.mapped_bytes(), other.mapped_bytes()), (0, 0));
            let data = Bytes::from(vec![7; region as usize]);
            volume.write(region, data, Durability::Durable).await.unwrap();
            assert_eq!((volume.mapped_bytes(), other.mapped_bytes()), (region, 0), "{level}");
            volume.write(0, Bytes::from(vec![7; 4096]), Durability::Durable).await.unwrap();
            assert_eq!(volume.mapped_bytes(), 2 * region, "space comes by whole regions");
            volume.discard(region, region).await.unwrap();
            assert_eq!((volume.mapped_bytes(), other.mapped_bytes()), (region, 0), "{level}");
            world.array.stop().await.unwrap();
        });
    }
}

//! The disk in memory loses what it may lose and keeps what it must keep.

use super::*;

const FILE: &str = "/d/file";
const OTHER: &str = "/d/other";

fn disk() -> FaultDisk {
    let disk = FaultDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk
}

fn bytes(disk: &FaultDisk, path: &str) -> Option<Vec<u8>> {
    disk.bytes(Path::new(path))
}

/// Every outcome of a crash, over many seeds.
fn outcomes(disk: &FaultDisk, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let image = disk.image();
    (0..200)
        .map(|seed| bytes(&image.crash(seed), path))
        .collect()
}

#[test]
fn a_name_may_be_lost_until_its_directory_is_synced() {
    let disk = disk();
    disk.create(Path::new(FILE)).unwrap();
    assert_eq!(outcomes(&disk, FILE), [None, Some(vec![])].into());
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&disk, FILE), [Some(vec![])].into());
    disk.rename(Path::new(FILE), Path::new(OTHER)).unwrap();
    for seed in 0..200 {
        let after = disk.image().crash(seed);
        let there = (
            bytes(&after, FILE).is_some(),
            bytes(&after, OTHER).is_some(),
        );
        assert!(matches!(there, (true, false) | (false, true)), "{there:?}");
    }
}

#[test]
fn unsynced_blocks_survive_in_any_combination_and_synced_ones_always() {
    let disk = disk();
    let file = disk.create(Path::new(FILE)).unwrap();
    file.allocate(1536).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_all_at(&[1; 1536], 0).unwrap();
    let firsts = |disk: &FaultDisk| -> BTreeSet<[u8; 3]> {
        let all = outcomes(disk, FILE).into_iter().map(Option::unwrap);
        all.map(|bytes| [bytes[0], bytes[512], bytes[1024]])
            .collect()
    };
    assert_eq!(firsts(&disk).len(), 8, "each block survives or not");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, FILE), [Some(vec![1; 1536])].into());
    file.write_all_at(&[2], 512).unwrap();
    assert_eq!(firsts(&disk), [[1, 1, 1], [1, 2, 1]].into());
    let torn = outcomes(&disk, FILE).len();
    assert_eq!(torn, 2, "a tear within equal bytes shows nothing");
}

#[test]
fn what_a_failed_sync_was_to_cover_is_not_covered_by_the_next() {
    let disk = disk();
    let file = disk.create(Path::new(FILE)).unwrap();
    file.allocate(512).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.fail(Op::Sync, 1);
    file.write_all_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert!(outcomes(&disk, FILE).contains(&Some(vec![0; 512])));
    file.write_all_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, FILE), [Some(vec![1; 512])].into());

    disk.fail(Op::SyncDir, 1);
    disk.create(Path::new(OTHER)).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap_err();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert!(outcomes(&disk, OTHER).contains(&None));
}

#[test]
fn a_killed_process_loses_nothing_but_the_next_crash_may() {
    let disk = disk();
    let file = disk.create(Path::new(FILE)).unwrap();
    file.write_all_at(b"abc", 0).unwrap();
    let next = disk.image().kill();
    assert_eq!(bytes(&next, FILE).unwrap(), b"abc");
    let after = outcomes(&next, FILE);
    assert!(after.contains(&None) && after.contains(&Some(b"abc".to_vec())));
}

#[test]
fn a_full_disk_refuses_to_grow_and_says_why() {
    let disk = disk();
    disk.limit_space(Some(1000));
    let file = disk.create(Path::new(FILE)).unwrap();
    file.allocate(900).unwrap();
    file.write_all_at(&[1; 900], 0).unwrap();
    let refused = file.write_all_at(&[1; 200], 900).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    let other = disk.create(Path::new(OTHER)).unwrap();
    assert!(other.allocate(101).is_err());
    disk.remove(Path::new(FILE)).unwrap();
    other.allocate(101).unwrap();
    assert_eq!(disk.used_space(), 101);
}

#[test]
fn an_image_is_kept_from_before_each_step() {
    let disk = disk();
    let file = disk.create(Path::new(FILE)).unwrap();
    disk.record_steps();
    file.write_all_at(b"1", 0).unwrap();
    file.write_all_at(b"2", 0).unwrap();
    file.sync_data().unwrap();
    let images = disk.take_images();
    let lives: Vec<_> = images
        .iter()
        .map(|image| bytes(&image.kill(), FILE).unwrap())
        .collect();
    assert_eq!(lives, [&b""[..], b"1", b"2"]);
    assert_eq!(images[2].steps() + 1, disk.steps());
    assert_eq!((disk.count(Op::Write), disk.count(Op::Create)), (2, 1));
}

#[test]
fn what_is_stored_in_a_map_survives_a_kill_and_is_lost_with_the_power_unless_it_was_synced() {
    let disk = disk();
    let file = disk.create(Path::new(FILE)).unwrap();
    file.reserve(2_048).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    // A store into a shared map of it is a write to this file, as others see it.
    let map = file.to_map().unwrap();
    map.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    map.write_all_at(b"not synced", 1_024).unwrap();
    let image = disk.image();
    map.write_all_at(b"later", 512).unwrap();
    let killed = bytes(&image.kill(), FILE).unwrap();
    assert_eq!(
        (&killed[..6], &killed[512..517], &killed[1_024..1_034]),
        (&b"synced"[..], &[0; 5][..], &b"not synced"[..])
    );
    let mut lost = 0;
    for seed in 0..64 {
        let left = bytes(&image.crash(seed), FILE).unwrap();
        assert_eq!((left.len(), &left[..6]), (2_048, &b"synced"[..]));
        lost += u32::from(left[1_024..1_034] == [0; 10]);
    }
    assert!((10..60).contains(&lost), "{lost} of 64 power cuts took it");
    assert_eq!(&bytes(&disk, FILE).unwrap()[512..517], b"later");
}

//! A data directory through its life, and what it refuses.

use super::*;

const CLUSTER: ClusterId = [3; 16];

fn members() -> BTreeMap<u64, String> {
    BTreeMap::from([(1, "a:1".to_owned()), (2, "b:2".to_owned())])
}

fn reopened(path: &Path) -> NodeRecord {
    DataDir::open(path, 1).unwrap().record()
}

#[test]
fn every_step_is_on_disk_when_it_returns_and_may_be_repeated() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x").join("data");
    assert_eq!(reopened(&path).stage, Stage::Fresh);
    let step = |take: &dyn Fn(&DataDir)| {
        let dir = DataDir::open(&path, 1).unwrap();
        take(&dir);
        take(&dir);
    };
    step(&|dir| dir.begin_forming(CLUSTER, &members()).unwrap());
    assert_eq!(
        reopened(&path).stage,
        Stage::Forming {
            cluster_id: CLUSTER
        }
    );
    assert_eq!(reopened(&path).initial_cluster, members());
    step(&|dir| dir.become_member().unwrap());
    assert_eq!(
        reopened(&path).stage,
        Stage::Member {
            cluster_id: CLUSTER,
            log_started: false
        }
    );
    step(&|dir| dir.confirm_log().unwrap());
    let last = Stage::Member {
        cluster_id: CLUSTER,
        log_started: true,
    };
    assert_eq!(reopened(&path).stage, last);
    step(&|dir| dir.become_member().unwrap());
    assert_eq!(reopened(&path).stage, last);
}

#[test]
fn a_directory_of_another_node_another_cluster_or_a_newer_format_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path(), 1).unwrap();
    assert!(matches!(
        dir.confirm_log(),
        Err(DataDirError::NoCluster { .. })
    ));
    dir.begin_forming(CLUSTER, &members()).unwrap();
    let error = dir
        .begin_forming([4; 16], &members())
        .unwrap_err()
        .to_string();
    assert!(error.contains(&cluster_hex(&CLUSTER)) && error.contains(&cluster_hex(&[4; 16])));
    drop(dir);

    let error = DataDir::open(root.path(), 2).unwrap_err().to_string();
    assert!(
        error.contains("belongs to node 1, not to node 2"),
        "{error}"
    );
    let file = root.path().join(NODE_FILE);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("\"format\": 3", "\"format\": 4, \"more\": 1"),
    )
    .unwrap();
    let error = DataDir::open(root.path(), 1).unwrap_err().to_string();
    assert!(
        error.contains("node.json") && error.contains("format 4"),
        "{error}"
    );
}

#[test]
fn a_record_with_one_flipped_byte_says_what_was_written_or_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path(), 1).unwrap();
    dir.begin_forming(CLUSTER, &members()).unwrap();
    dir.confirm_log().unwrap();
    let written = dir.record();
    drop(dir);
    let file = root.path().join(NODE_FILE);
    let whole = std::fs::read(&file).unwrap();
    let mut refused = 0;
    for at in 0..whole.len() {
        for mask in (0..8).map(|bit| 1 << bit).chain([0x11, 0xff]) {
            let mut damaged = whole.clone();
            damaged[at] ^= mask;
            std::fs::write(&file, damaged).unwrap();
            match DataDir::peek(root.path()) {
                Ok(found) => assert_eq!(found.as_ref(), Some(&written), "byte {at} ^ {mask:#x}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(NODE_FILE), "byte {at} ^ {mask:#x}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > whole.len(), "only white space does not matter");
}

#[test]
fn a_record_of_an_earlier_format_has_no_checksum_and_gets_one_with_the_next_step() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join(NODE_FILE);
    let earlier = format!(
        "{{\"format\":1,\"state\":\"member\",\"cluster_id\":\"{}\",\"node_id\":1}}",
        cluster_hex(&CLUSTER)
    );
    std::fs::write(&file, earlier).unwrap();
    let dir = DataDir::open(root.path(), 1).unwrap();
    assert_eq!(dir.record().cluster_id(), Some(CLUSTER));
    dir.confirm_log().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("\"format\": 3") && text.contains("\"check\""),
        "{text}"
    );
}

#[test]
fn a_directory_is_one_processs_until_it_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path(), 1).unwrap();
    let clone = dir.clone();
    drop(dir);
    assert!(matches!(
        DataDir::open(root.path(), 1),
        Err(DataDirError::InUse { .. })
    ));
    drop(clone);
    assert!(DataDir::open(root.path(), 1).is_ok());
}

#[test]
fn a_damaged_or_lost_record_is_never_taken_for_a_fresh_directory() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join(NODE_FILE);
    for damaged in [
        "",
        "{",
        "{\"format\":1}",
        "{\"format\":1,\"node_id\":1,\"state\":\"fresh\",\"cluster_id\":\"00\"}",
        "{\"format\":1,\"node_id\":1,\"state\":\"member\"}",
        "{\"format\":1,\"node_id\":1,\"state\":\"fresh\",\"unknown\":1}",
    ] {
        std::fs::write(&file, damaged).unwrap();
        let error = DataDir::open(root.path(), 1).unwrap_err();
        assert!(
            matches!(error, DataDirError::Malformed { .. }),
            "{damaged}: {error}"
        );
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(root.path().join(WAL_DIR)).unwrap();
    let error = DataDir::open(root.path(), 1).unwrap_err();
    assert!(matches!(error, DataDirError::LostRecord { .. }));
}

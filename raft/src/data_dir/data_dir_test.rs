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
        text.replace("\"format\": 1", "\"format\": 3, \"more\": 1"),
    )
    .unwrap();
    let error = DataDir::open(root.path(), 1).unwrap_err().to_string();
    assert!(error.contains("format 3"), "{error}");
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

//! Formation between nodes in one process: real listeners on loopback, real mutual TLS, real directories.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::peer_server::{self, PeerServices};
use crate::secret::ClusterSecret;

/// Longer than any wait of a test takes; a test that hangs ends here.
const DEADLINE: Duration = Duration::from_secs(30);

/// The addresses and directories of a cluster; its nodes are started and stopped.
struct Site {
    root: TempDir,
    members: BTreeMap<u64, String>,
    listeners: BTreeMap<u64, TcpListener>,
}

/// A node whose formation runs, or has ended.
struct Node {
    phase: watch::Receiver<Phase>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    formed: JoinSet<Result<Formed, FormationError>>,
}

fn secret(byte: &str) -> ClusterSecret {
    ClusterSecret::parse(&byte.repeat(32)).unwrap()
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("waited 30 s for {what}"))
}

impl Site {
    fn new(nodes: u64) -> Self {
        let listeners: BTreeMap<_, _> = (1..=nodes)
            .map(|id| (id, TcpListener::bind("127.0.0.1:0").unwrap()))
            .collect();
        let address = |l: &TcpListener| l.local_addr().unwrap().to_string();
        Self {
            root: tempfile::tempdir().unwrap(),
            members: listeners.iter().map(|(id, l)| (*id, address(l))).collect(),
            listeners,
        }
    }

    fn dir(&self, node_id: u64) -> PathBuf {
        self.root.path().join(node_id.to_string())
    }

    fn start(&self, node_id: u64) -> Node {
        self.start_with(
            node_id,
            &self.dir(node_id),
            &secret("01"),
            self.members.clone(),
        )
    }

    fn start_with(
        &self,
        node_id: u64,
        dir: &Path,
        secret: &ClusterSecret,
        members: BTreeMap<u64, String>,
    ) -> Node {
        let data_dir = DataDir::open(dir, node_id).unwrap();
        let cluster_id = data_dir.record().cluster_id();
        let identity = Identity::new(secret, node_id, cluster_id, None).unwrap();
        let (former, service) = prepare(Setup {
            identity: Arc::clone(&identity),
            data_dir,
            advertise_peer: self.members[&node_id].clone(),
            initial_cluster: Some(members),
        })
        .unwrap();
        let cancel = CancellationToken::new();
        let listener = self.listeners[&node_id].try_clone().unwrap();
        let (sender, phase) = watch::channel(Phase::Starting);
        let mut tasks = JoinSet::new();
        let served = peer_server::serve(
            listener,
            identity,
            service,
            PeerServices::new(),
            cancel.clone(),
        );
        tasks.spawn(async move { served.await.unwrap() });
        let mut formed = JoinSet::new();
        let stop = cancel.clone();
        formed.spawn(async move { former.run(&sender, &stop).await });
        Node {
            phase,
            cancel,
            tasks,
            formed,
        }
    }
}

impl Node {
    async fn formed(&mut self) -> Result<Formed, FormationError> {
        in_time("formation", self.formed.join_next())
            .await
            .unwrap()
            .unwrap()
    }

    async fn stopped(mut self) {
        self.cancel.cancel();
        in_time("the peer listener to end", self.tasks.join_next()).await;
        self.formed.shutdown().await;
    }

    async fn waits_because(&mut self, part: &str) {
        let says = |phase: &Phase| match phase {
            Phase::Forming { waiting_for } => waiting_for.iter().any(|w| w.reason.contains(part)),
            _ => false,
        };
        in_time(part, self.phase.wait_for(says)).await.unwrap();
    }
}

#[tokio::test]
async fn three_nodes_form_one_cluster_which_the_lowest_initialises() {
    let site = Site::new(3);
    let mut nodes: Vec<_> = (1..=3).map(|id| site.start(id)).collect();
    let mut formed = Vec::new();
    for node in &mut nodes {
        formed.push(node.formed().await.unwrap());
    }
    assert_eq!(
        formed.iter().map(|f| f.initialise).collect::<Vec<_>>(),
        [true, false, false]
    );
    for one in &formed {
        assert_eq!(
            (one.cluster_id, &one.members),
            (formed[0].cluster_id, &site.members)
        );
        assert!(!one.log_expected);
    }
    for node in nodes {
        node.stopped().await;
    }
}

#[tokio::test]
async fn a_cluster_of_one_forms_alone_and_keeps_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let run = async || {
        let data_dir = DataDir::open(dir.path(), 1).unwrap();
        let identity =
            Identity::new(&secret("01"), 1, data_dir.record().cluster_id(), None).unwrap();
        let setup = Setup {
            identity: Arc::clone(&identity),
            data_dir: data_dir.clone(),
            advertise_peer: "127.0.0.1:7071".to_owned(),
            initial_cluster: None,
        };
        let (former, _) = prepare(setup).unwrap();
        let (phase, _) = watch::channel(Phase::Starting);
        let formed = former.run(&phase, &CancellationToken::new()).await.unwrap();
        assert_eq!(identity.cluster_id(), Some(formed.cluster_id));
        (formed, data_dir)
    };
    let (first, _) = run().await;
    assert!(first.initialise && !first.log_expected);
    let (again, data_dir) = run().await;
    assert_eq!(
        again, first,
        "a crash before the log began starts the same again"
    );
    data_dir.confirm_log().unwrap();
    drop(data_dir);
    let (later, _) = run().await;
    assert!(!later.initialise && later.log_expected);
    assert_eq!(later.cluster_id, first.cluster_id);
}

#[tokio::test]
async fn nobody_forms_anything_while_a_listed_node_is_missing() {
    let mut site = Site::new(3);
    site.listeners.remove(&3);
    let (mut one, mut two) = (site.start(1), site.start(2));
    one.waits_because("refuses connections").await;
    two.waits_because("refuses connections").await;
    one.stopped().await;
    two.stopped().await;
    for id in 1..=2 {
        assert_eq!(
            DataDir::open(&site.dir(id), id).unwrap().record().stage,
            Stage::Fresh
        );
    }
}

#[tokio::test]
async fn a_crash_after_the_id_was_persisted_resumes_the_same_id() {
    let site = Site::new(3);
    let id = [9; 16];
    // The lowest has persisted its id and sent it to one of the two others when all of them die.
    for node in [1, 2] {
        DataDir::open(&site.dir(node), node)
            .unwrap()
            .begin_forming(id, &site.members)
            .unwrap();
    }
    let mut nodes: Vec<_> = (1..=3).map(|id| site.start(id)).collect();
    for node in &mut nodes {
        assert_eq!(node.formed().await.unwrap().cluster_id, id);
    }
    for node in nodes {
        node.stopped().await;
    }
}

#[tokio::test]
async fn a_peer_with_another_secret_is_named_and_waited_for() {
    let site = Site::new(2);
    let mut one = site.start(1);
    let mut two = site.start_with(2, &site.dir(2), &secret("02"), site.members.clone());
    one.waits_because("(node 2) holds another cluster secret")
        .await;
    two.waits_because("(node 1) holds another cluster secret")
        .await;
    two.stopped().await;
    let mut two = site.start(2);
    let (a, b) = (one.formed().await.unwrap(), two.formed().await.unwrap());
    assert_eq!(a.cluster_id, b.cluster_id);
    one.stopped().await;
    two.stopped().await;
}

#[tokio::test]
async fn different_lists_of_nodes_are_refused_naming_both() {
    let site = Site::new(2);
    let mut other = site.members.clone();
    other.insert(3, "127.0.0.1:1".to_owned());
    let mut one = site.start(1);
    let mut two = site.start_with(2, &site.dir(2), &secret("01"), other.clone());
    for node in [&mut one, &mut two] {
        let error = node.formed().await.unwrap_err().to_string();
        let (ours, theirs) = (
            initial_cluster_text(&site.members),
            initial_cluster_text(&other),
        );
        assert!(error.contains(&ours) && error.contains(&theirs), "{error}");
    }
    one.stopped().await;
    two.stopped().await;
}

#[tokio::test]
async fn a_node_that_lost_its_directory_does_not_come_back_under_its_id() {
    let site = Site::new(2);
    let (mut one, mut two) = (site.start(1), site.start(2));
    one.formed().await.unwrap();
    two.formed().await.unwrap();
    two.stopped().await;
    let wiped = site.root.path().join("wiped");
    let mut two = site.start_with(2, &wiped, &secret("01"), site.members.clone());
    let error = two.formed().await.unwrap_err();
    assert!(
        matches!(
            error,
            FormationError::Lived {
                node_id: 2,
                peer: 1,
                ..
            }
        ),
        "{error}"
    );
    one.stopped().await;
    two.stopped().await;
}

#[tokio::test]
async fn a_message_in_another_nodes_name_is_refused_and_changes_nothing() {
    let site = Site::new(3);
    let two = site.start(2);
    let impostor = Identity::new(&secret("01"), 3, None, None).unwrap();
    let channel = PeerChannels::for_formation(impostor).channel(2, &site.members[&2]);
    let mut client = FormationClient::new(channel);
    let mut form = async |from, to| {
        let request = FormRequest {
            from,
            to,
            initial_cluster: initial_cluster_text(&site.members),
            cluster_id: vec![5; 16],
        };
        client.form(Request::new(request)).await
    };
    assert_eq!(form(1, 2).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(
        form(3, 1).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let answer = form(3, 2).await.unwrap().into_inner();
    assert!(
        answer.refusal.contains("only the node with the lowest id"),
        "{}",
        answer.refusal
    );
    assert_eq!(
        answer.state,
        i32::from(mode_envoy_proto::peer::v1::NodeState::Fresh)
    );
    two.stopped().await;
}

#[test]
fn a_setup_that_does_not_fit_its_directory_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(dir.path(), 4).unwrap();
    let setup = |text: &str| Setup {
        identity: Identity::new(&secret("01"), 4, None, None).unwrap(),
        data_dir: data_dir.clone(),
        advertise_peer: "a:4".to_owned(),
        initial_cluster: Some(parse_initial_cluster(text).unwrap()),
    };
    let error = prepare(setup("1=a:1,2=a:2")).unwrap_err().to_string();
    assert!(error.contains("does not list node 4"), "{error}");
    let alone = Setup {
        initial_cluster: None,
        ..setup("4=a:4")
    };
    let error = prepare(alone).unwrap_err().to_string();
    assert!(
        error.contains("node 4 has no data and no --initial-cluster"),
        "{error}"
    );
    let members = parse_initial_cluster("1=a:1,4=a:4").unwrap();
    data_dir.begin_forming([1; 16], &members).unwrap();
    assert!(prepare(setup("4=a:4,1=a:1")).is_ok());
    let error = prepare(setup("4=a:4,1=a:9")).unwrap_err().to_string();
    assert!(
        error.contains("1=a:1,4=a:4") && error.contains("1=a:9,4=a:4"),
        "{error}"
    );
    data_dir.confirm_log().unwrap();
    assert!(
        prepare(setup("7=a:7")).is_ok(),
        "the flag is ignored once there is a cluster"
    );
}

//! The peer listener and the channels to it, over real mutual TLS on loopback.
//!
//! Size: all of it needs the same listener.

use std::net::TcpListener as StdListener;

use mode_envoy_proto::peer::v1::raft_client::RaftClient;
use mode_envoy_proto::peer::v1::raft_server::{Raft, RaftServer};
use mode_envoy_proto::peer::v1::{
    AppendEntriesRequest, AppendEntriesResponse, Envelope, InstallSnapshotRequest,
    InstallSnapshotResponse, VoteRequest, VoteResponse,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response};

use super::*;
use crate::channels::{DialError, PeerChannels};
use crate::data_dir::DataDir;
use crate::formation::{self, Setup};
use crate::identity::ClusterId;
use crate::secret::{ClusterSecret, HeldSecrets};

const OURS: ClusterId = [1; 16];
const THEIRS: ClusterId = [2; 16];
const DEADLINE: Duration = Duration::from_secs(30);

/// Grants every vote of a valid envelope, once its gate is open.
struct Granting {
    local: Local,
    gate: Arc<Semaphore>,
    called: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Raft for Granting {
    async fn append_entries(
        &self,
        _: Request<AppendEntriesRequest>,
    ) -> Result<Response<AppendEntriesResponse>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        check_envelope(&self.local, &request, request.get_ref().envelope.as_ref())?;
        self.called.add_permits(1);
        let _open = self.gate.acquire().await;
        Ok(Response::new(VoteResponse {
            granted: true,
            ..VoteResponse::default()
        }))
    }

    type InstallSnapshotStream = tokio_stream::Empty<Result<InstallSnapshotResponse, Status>>;

    async fn install_snapshot(
        &self,
        _: Request<tonic::Streaming<InstallSnapshotRequest>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
}

/// Node 1, listening.
struct Listening {
    address: String,
    gate: Arc<Semaphore>,
    called: Arc<Semaphore>,
    services: PeerServices,
    routes: Routes,
    cancel: CancellationToken,
    served: JoinSet<Result<(), PeerServerError>>,
    _dir: TempDir,
}

fn identity(secret: &str, node_id: u64, cluster_id: Option<ClusterId>) -> Arc<Identity> {
    let secret = ClusterSecret::parse(&secret.repeat(32)).unwrap();
    Identity::new(&secret, node_id, cluster_id, None).unwrap()
}

fn listening(cluster_id: Option<ClusterId>) -> Listening {
    listening_as(identity("01", 1, cluster_id))
}

fn listening_as(identity: Arc<Identity>) -> Listening {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let uri_required = identity.uri_required();
    let setup = Setup {
        identity: Arc::clone(&identity),
        data_dir: DataDir::open(dir.path(), 1).unwrap(),
        advertise_peer: "127.0.0.1:1".to_owned(),
        initial_cluster: None,
    };
    let (_, formation) = formation::prepare(setup).unwrap();
    let (gate, called) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(0)));
    let local = Local {
        node_id: 1,
        cluster_id: OURS,
        uri_required,
    };
    let service = Granting {
        local,
        gate: Arc::clone(&gate),
        called: Arc::clone(&called),
    };
    let (services, cancel) = (PeerServices::new(), CancellationToken::new());
    let address = listener.local_addr().unwrap().to_string();
    let mut served = JoinSet::new();
    served.spawn(serve(
        listener,
        identity,
        formation,
        services.clone(),
        cancel.clone(),
    ));
    let routes = Routes::new(RaftServer::new(service));
    Listening {
        address,
        gate,
        called,
        services,
        routes,
        cancel,
        served,
        _dir: dir,
    }
}

async fn vote(channels: &PeerChannels, to: u64, address: &str, from: u64) -> Result<bool, Status> {
    let envelope = Envelope {
        cluster_id: OURS.to_vec(),
        from,
        to,
    };
    let request = VoteRequest {
        envelope: Some(envelope),
        ..VoteRequest::default()
    };
    let mut client = RaftClient::new(channels.channel(to, address));
    let called = tokio::time::timeout(DEADLINE, client.vote(request))
        .await
        .unwrap();
    called.map(|response| response.into_inner().granted)
}

async fn dial_error(channels: PeerChannels, to: u64, address: &str) -> DialError {
    let status = vote(&channels, to, address, 2).await.unwrap_err();
    DialError::of(&status).unwrap_or_else(|| panic!("no dial error in {status:?}"))
}

#[tokio::test]
async fn a_members_service_is_reached_once_installed_and_only_under_the_certificates_name() {
    let node = listening(Some(OURS));
    let channels = PeerChannels::new(identity("01", 2, Some(OURS)));
    let early = vote(&channels, 1, &node.address, 2).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable);
    assert!(
        early.message().contains("node 1 has no cluster yet"),
        "{early:?}"
    );
    assert!(node.services.install(node.routes.clone()));
    assert!(
        !node.services.install(node.routes.clone()),
        "installed once"
    );
    assert!(vote(&channels, 1, &node.address, 2).await.unwrap());
    let refused = vote(&channels, 1, &node.address, 3).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let unbound = PeerChannels::for_formation(identity("01", 2, None));
    let refused = vote(&unbound, 1, &node.address, 2).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::PermissionDenied,
        "formation's certificate serves nothing else"
    );
}

#[tokio::test]
async fn a_connection_with_another_certificate_is_served_nothing() {
    let node = listening(Some(OURS));
    assert!(node.services.install(node.routes.clone()));
    let error = dial_error(
        PeerChannels::new(identity("02", 2, Some(OURS))),
        1,
        &node.address,
    )
    .await;
    assert!(
        matches!(error, DialError::OtherSecret { node_id: 1, .. }),
        "{error}"
    );

    // This one trusts the listener, but the listener does not trust it.
    let dir = tempfile::tempdir().unwrap();
    let pki = identity::write_pki(dir.path(), 2, "02", "01");
    let secret = ClusterSecret::parse(&"01".repeat(32)).unwrap();
    let foreign = Identity::new(&secret, 2, Some(OURS), Some(&pki)).unwrap();
    let error = dial_error(PeerChannels::new(Arc::clone(&foreign)), 1, &node.address).await;
    assert!(
        matches!(error, DialError::CertificateRefused { .. }),
        "{error}"
    );

    assert_eq!(node.called.available_permits(), 0);
}

/// A channel of somebody who shows no certificate, and trusts the CA of this secret and this cluster.
async fn stranger(
    secret: &str,
    cluster_id: ClusterId,
    address: &str,
) -> Result<tonic::transport::Channel, io::Error> {
    stranger_from("127.0.0.1:0", secret, cluster_id, address).await
}

async fn connect_from(own: &str, address: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(own.parse().unwrap()).unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}

async fn stranger_from(
    own: &str,
    secret: &str,
    cluster_id: ClusterId,
    address: &str,
) -> Result<tonic::transport::Channel, io::Error> {
    let pin = identity(secret, 1, None).pin();
    let config = identity::join_client_config(&pin, cluster_id, std::path::Path::new("")).unwrap();
    let tcp = connect_from(own, address).await;
    let name = identity::server_name(0).unwrap();
    let tls = tokio_rustls::TlsConnector::from(config);
    let mut tls = Some(TokioIo::new(tls.connect(name, tcp).await?));
    let endpoint = tonic::transport::Endpoint::from_static("http://peer.test");
    Ok(
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            std::future::ready(tls.take().ok_or_else(|| io::Error::other("once")))
        })),
    )
}

#[tokio::test]
async fn a_stranger_is_served_joining_and_none_of_the_other_services() {
    use mode_envoy_proto::peer::v1 as wire;
    let node = listening(Some(OURS));
    assert!(node.services.install(node.routes.clone()));
    let channel = stranger("01", OURS, &node.address).await.unwrap();
    let mut raft = RaftClient::new(channel.clone());
    let mut formation = wire::formation_client::FormationClient::new(channel.clone());
    let mut forward = wire::forward_client::ForwardClient::new(channel.clone());
    let mut members = wire::members_client::MembersClient::new(channel.clone());
    let codes = [
        raft.vote(VoteRequest::default()).await.err(),
        raft.append_entries(AppendEntriesRequest::default())
            .await
            .err(),
        formation.form(wire::FormRequest::default()).await.err(),
        forward.propose(wire::ProposeRequest::default()).await.err(),
        forward
            .read_index(wire::ReadIndexRequest::default())
            .await
            .err(),
        forward
            .flush_usage(wire::FlushUsageRequest::default())
            .await
            .err(),
        forward
            .node_status(wire::NodeStatusRequest::default())
            .await
            .err(),
        members
            .transfer_leader(wire::TransferLeaderRequest::default())
            .await
            .err(),
        members
            .campaign(wire::CampaignRequest::default())
            .await
            .err(),
    ];
    for refused in codes {
        assert_eq!(
            refused.map(|status| status.code()),
            Some(Code::Unauthenticated)
        );
    }
    assert_eq!(node.called.available_permits(), 0);
    // This listener has no such service; what matters is that the question got as far as that.
    let mut joining = wire::joining_client::JoiningClient::new(channel);
    let asked = joining.join(wire::JoinRequest::default()).await;
    assert_eq!(asked.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_stranger_trusts_only_the_ca_key_and_the_cluster_that_its_token_names() {
    let node = listening(Some(OURS));
    for (secret, cluster_id) in [("02", OURS), ("01", THEIRS)] {
        let error = stranger(secret, cluster_id, &node.address)
            .await
            .unwrap_err();
        let tls = error.get_ref().and_then(|e| e.downcast_ref());
        assert!(
            matches!(tls, Some(rustls::Error::InvalidCertificate(_))),
            "{error}"
        );
    }
    let unbound = listening(None);
    assert!(stranger("01", OURS, &unbound.address).await.is_err());
}

#[tokio::test]
async fn where_the_operator_has_a_ca_a_stranger_trusts_that_one() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let secret = ClusterSecret::parse(&"01".repeat(32)).unwrap();
    let pki = identity::write_pki(dirs[0].path(), 1, "03", "03");
    let own = Identity::new(&secret, 1, Some(OURS), Some(&pki)).unwrap();
    let pin = own.pin();
    assert_eq!(pin, crate::join::Pin::Operator);
    let node = listening_as(own);
    let other = identity::write_pki(dirs[1].path(), 1, "04", "04");
    for (ca, trusted) in [(&pki.ca, true), (&other.ca, false)] {
        let config = identity::join_client_config(&pin, OURS, ca).unwrap();
        let tcp = TcpStream::connect(&node.address).await.unwrap();
        let name = identity::server_name(0).unwrap();
        let connected = tokio_rustls::TlsConnector::from(config)
            .connect(name, tcp)
            .await;
        assert_eq!(connected.is_ok(), trusted, "{}", ca.display());
    }
    let missing = dirs[0].path().join("none");
    assert!(identity::join_client_config(&pin, OURS, &missing).is_err());
}

#[tokio::test]
async fn only_so_many_strangers_are_listened_to_and_members_are_all_the_same() {
    let node = listening(Some(OURS));
    assert!(node.services.install(node.routes.clone()));
    let mut held = Vec::new();
    for _ in 0..STRANGERS_MAX.0 {
        let channel = stranger("01", OURS, &node.address).await.unwrap();
        let mut raft = RaftClient::new(channel);
        let refused = raft.vote(VoteRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        held.push(raft);
    }
    let channel = stranger("01", OURS, &node.address).await.unwrap();
    let cut = RaftClient::new(channel).vote(VoteRequest::default()).await;
    assert_ne!(cut.unwrap_err().code(), Code::Unauthenticated);
    // From elsewhere one is listened to, and members are whatever strangers do.
    let channel = stranger_from("127.0.0.77:0", "01", OURS, &node.address).await;
    let mut elsewhere = RaftClient::new(channel.unwrap());
    let refused = elsewhere.vote(VoteRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let channels = PeerChannels::new(identity("01", 2, Some(OURS)));
    assert!(vote(&channels, 1, &node.address, 2).await.unwrap());

    // Those who showed no token have to go, so that others of their address are listened to.
    tokio::time::timeout(DEADLINE, async {
        loop {
            let channel = stranger("01", OURS, &node.address).await.unwrap();
            let asked = RaftClient::new(channel).vote(VoteRequest::default()).await;
            if asked.unwrap_err().code() == Code::Unauthenticated {
                return;
            }
        }
    })
    .await
    .unwrap();
    let cut = held[0].vote(VoteRequest::default()).await.unwrap_err();
    assert_ne!(cut.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn whoever_says_nothing_at_all_takes_no_place_from_members() {
    let node = listening(Some(OURS));
    assert!(node.services.install(node.routes.clone()));
    let mut silent = Vec::new();
    for _ in 0..2 * UNPROVEN_MAX.0 {
        silent.push(connect_from("127.0.0.77:0", &node.address).await);
    }
    let channels = PeerChannels::new(identity("01", 2, Some(OURS)));
    assert!(vote(&channels, 1, &node.address, 2).await.unwrap());
}

#[tokio::test]
async fn an_operators_certificates_serve_members_without_a_uri() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let secret = ClusterSecret::parse(&"01".repeat(32)).unwrap();
    let of = |node_id: u64, dir: &TempDir| {
        let pki = identity::write_pki(dir.path(), node_id, "03", "03");
        Identity::new(&secret, node_id, Some(OURS), Some(&pki)).unwrap()
    };
    let node = listening_as(of(1, &dirs[0]));
    assert!(node.services.install(node.routes.clone()));
    let channels = PeerChannels::new(of(2, &dirs[1]));
    assert!(vote(&channels, 1, &node.address, 2).await.unwrap());
}

#[tokio::test]
async fn each_way_of_not_reaching_a_peer_has_its_name() {
    let ours = || PeerChannels::new(identity("01", 2, Some(OURS)));
    let node = listening(Some(THEIRS));
    let error = dial_error(ours(), 1, &node.address).await;
    assert!(
        matches!(
            error,
            DialError::OtherCluster {
                theirs: THEIRS,
                ours: OURS,
                ..
            }
        ),
        "{error}"
    );
    let error = dial_error(ours(), 3, &node.address).await;
    assert!(
        matches!(error, DialError::OtherNode { node_id: 3, .. }),
        "{error}"
    );
    let error = dial_error(ours(), 1, &listening(None).address).await;
    assert!(matches!(error, DialError::NotInCluster { .. }), "{error}");
    let error = dial_error(ours(), 1, "no-port").await;
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");

    let closed = StdListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let error = dial_error(ours(), 1, &closed).await;
    assert_eq!(
        error,
        DialError::Refused {
            node_id: 1,
            address: closed
        }
    );
    let silent = StdListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = dial_error(ours(), 1, &address).await;
    assert_eq!(
        error,
        DialError::TimedOut {
            node_id: 1,
            address
        }
    );
}

#[tokio::test]
async fn a_channel_dials_again_after_a_failure_and_a_new_address_gets_a_new_channel() {
    let channels = PeerChannels::new(identity("01", 2, Some(OURS)));
    let reserved = StdListener::bind("127.0.0.1:0").unwrap();
    let closed = reserved.local_addr().unwrap().to_string();
    drop(reserved);
    assert!(vote(&channels, 1, &closed, 2).await.is_err());
    let node = listening(Some(OURS));
    assert!(node.services.install(node.routes.clone()));
    assert!(vote(&channels, 1, &node.address, 2).await.unwrap());
    channels.forget(1);
    assert!(vote(&channels, 1, &node.address, 2).await.unwrap());
}

#[tokio::test]
async fn the_end_lets_a_call_in_flight_finish_and_then_nothing_runs() {
    let mut node = listening(Some(OURS));
    assert!(node.services.install(node.routes.clone()));
    let only = node.gate.try_acquire().unwrap();
    let channels = PeerChannels::new(identity("01", 2, Some(OURS)));
    let address = node.address.clone();
    let mut calls = JoinSet::new();
    let calling = channels.clone();
    calls.spawn(async move { vote(&calling, 1, &address, 2).await });
    let reached = tokio::time::timeout(DEADLINE, node.called.acquire()).await;
    reached.expect("the call arrives").unwrap().forget();
    node.cancel.cancel();
    drop(only);
    assert!(calls.join_next().await.unwrap().unwrap().unwrap());
    let served = tokio::time::timeout(DEADLINE, node.served.join_next()).await;
    served
        .expect("the listener ends")
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(vote(&channels, 1, &node.address, 2).await.is_err());
}

#[tokio::test]
async fn a_call_without_an_end_does_not_keep_a_connection_of_before_a_renewal() {
    let own = identity("01", 1, Some(OURS));
    let node = listening_as(Arc::clone(&own));
    assert!(node.services.install(node.routes.clone()));
    let only = node.gate.try_acquire().unwrap();
    let channels = PeerChannels::new(identity("01", 2, Some(OURS)));
    let (calling, address) = (channels.clone(), node.address.clone());
    let mut calls = JoinSet::new();
    calls.spawn(async move { vote(&calling, 1, &address, 2).await });
    let reached = tokio::time::timeout(DEADLINE, node.called.acquire()).await;
    reached.expect("the call arrives").unwrap().forget();
    let secret = ClusterSecret::parse(&"01".repeat(32)).unwrap();
    own.set_secrets(&HeldSecrets::from(secret)).unwrap();
    let cut = calls.join_next().await.unwrap().expect("it is cut in time");
    assert!(cut.is_err());
    drop(only);
    assert!(vote(&channels, 1, &node.address, 2).await.unwrap());
}

//! The admin listener over a real cluster of one: what callers get, byte for byte on the wire.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mode_envoy_model::command::Command;
use mode_envoy_model::token::{Role, Token};
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::cluster_client::ClusterClient;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;
use mode_envoy_proto::admin::v1::keys_client::KeysClient;
use mode_envoy_proto::admin::v1::tokens_client::TokensClient;
use mode_envoy_proto::admin::v1::usage_client::UsageClient;
use mode_envoy_raft::{Addresses, Caller, ClusterSecret, Handle, Hooks, Settings, Waiting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt as _;

use super::*;
use crate::control::authorize_hook;
use crate::readiness::Stage;
use crate::secrets::{Keyring, KeyringSource, hash_admin_token};
use crate::usage::Queries;

const DOCUMENT: &str = "
tenants: [{name: acme}]
consumers: [{name: app, tenant: acme}]
providers:
  - name: openai
    protocol: openai
    keys: [{value: sk-very-secret}]
  - {name: local, protocol: embedded}
models:
  - name: fast
    targets: [{provider: local, model: echo}]
    price: {input: \"0.15\", output: \"0.60\"}
    access: [acme/app]
services: [{name: orders, endpoints: [{url: \"http://10.0.0.5:7001\"}]}]
routes:
  - {name: orders, tenant: acme, service: orders, match: {paths: [\"/orders/{*rest}\"]}, auth: [key]}
";

/// An admin listener, and what stands behind it.
struct Node {
    address: SocketAddr,
    readiness: Readiness,
    root: String,
    tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

// === impl Node ===

impl Node {
    /// A founded cluster of one.
    async fn founded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = ClusterSecret::generate().unwrap();
        let table_revision = Arc::new(AtomicU64::new(0));
        let (phase_sender, phase) = watch::channel(Phase::Starting);
        let handle = member(&folder, &secret, &table_revision, phase_sender).await;
        let root = found(&handle, &secret).await;

        let mut tasks = JoinSet::new();
        let mut catalogs = handle.watch_catalog();
        tasks.spawn(async move {
            // In the place of the gateway, which takes a table into use.
            loop {
                let revision = catalogs.borrow_and_update().revision();
                table_revision.store(revision, Ordering::SeqCst);
                if catalogs.changed().await.is_err() {
                    return;
                }
            }
        });
        let (flush, _) = crate::usage::flush::channel();
        let queries = Queries::new(handle.clone(), flush);
        let control = Control::new(handle, KeyringSource::new(secret), queries);
        let control = watch::channel(Some(Arc::new(control))).1;
        Self::listening(folder, phase, control, root, tasks, true).await
    }

    /// One that is not a member of anything yet.
    async fn forming() -> Self {
        let waiting_for = vec![Waiting {
            node_id: 2,
            address: "127.0.0.2:7071".to_owned(),
            reason: "connection refused".to_owned(),
        }];
        let phase = watch::channel(Phase::Forming { waiting_for }).1;
        let folder = tempfile::tempdir().unwrap();
        let control = watch::channel(None).1;
        Self::listening(folder, phase, control, String::new(), JoinSet::new(), false).await
    }

    async fn listening(
        folder: tempfile::TempDir,
        phase: watch::Receiver<Phase>,
        control: watch::Receiver<Option<Arc<Control>>>,
        root: String,
        mut tasks: JoinSet<()>,
        open: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::new(phase.clone());
        let metrics = Arc::new(|| "mode_envoy_up 1\n".to_owned());
        let context = AdminContext { readiness: readiness.clone(), metrics, phase, control, open };
        tasks.spawn(async move {
            serve(listener, context, CancellationToken::new()).await.unwrap();
        });
        Self { address, readiness, root, tasks, _folder: folder }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::try_from(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn config(&self) -> ConfigClient<Channel> {
        ConfigClient::new(self.channel().await)
    }

    async fn apply(&self, token: &str, document: &str) -> Result<pb::ApplyResponse, Status> {
        let message = pb::ApplyRequest { document: document.to_owned(), dry_run: false, wait: true };
        let response = self.config().await.apply(with(token, message)).await?;
        Ok(response.into_inner())
    }

    async fn token(&self, role: &str) -> String {
        let message = pb::CreateTokenRequest { name: role.to_owned(), role: role.to_owned() };
        let mut tokens = TokensClient::new(self.channel().await);
        tokens.create_token(with(&self.root, message)).await.unwrap().into_inner().token
    }

    /// Status line, and everything after it.
    async fn page(&self, request_line: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{request_line} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (status, rest) = answer.split_once("\r\n").unwrap();
        (status.to_owned(), rest.to_owned())
    }
}

async fn member(
    folder: &tempfile::TempDir,
    secret: &ClusterSecret,
    table_revision: &Arc<AtomicU64>,
    phase: watch::Sender<Phase>,
) -> Handle {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let advertise = Addresses {
        peer: listener.local_addr().unwrap().to_string(),
        gateway: "127.0.0.1:8080".to_owned(),
        admin: "127.0.0.1:7070".to_owned(),
    };
    let mut settings = Settings::new(1, folder.path().to_owned(), advertise, secret.clone());
    settings.wal_segment_bytes = 1 << 20;
    let hooks = Hooks {
        authorize: authorize_hook(),
        flush: Arc::new(|| Box::pin(async { Ok(()) })),
        table_revision: Arc::clone(table_revision),
    };
    mode_envoy_raft::start(settings, listener, hooks, phase, CancellationToken::new()).await.unwrap()
}

async fn found(handle: &Handle, secret: &ClusterSecret) -> String {
    let cluster_id = handle.cluster_id();
    let (_, wrapped_key) = Keyring::create(secret, &cluster_id).unwrap();
    let token = secret.root_token(&cluster_id);
    let root = Token {
        name: "root".into(),
        role: Role::Root,
        hash: hash_admin_token(&token),
        created_ms: 1,
    };
    let command = Command::Found { cluster_id, wrapped_key, root };
    let accepted = handle.propose(command, &Caller::node(), Duration::from_secs(20)).await.unwrap();
    handle.wait_applied(accepted.index, Duration::from_secs(20)).await.unwrap();
    token
}

fn with<M>(token: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn changes(response: &pb::ApplyResponse) -> BTreeSet<&str> {
    response.changes.iter().map(|change| change.change.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_exported_is_applied_unchanged_and_moves_no_revision() {
    let node = Node::founded().await;
    let first = node.apply(&node.root, DOCUMENT).await.unwrap();
    assert_eq!(changes(&first), BTreeSet::from(["created"]));
    assert_eq!(first.changes.len(), 7);
    assert_eq!(first.missing_nodes, Vec::<u64>::new());

    let mut config = node.config().await;
    let message = pb::ExportRequest { local: false };
    let exported = config.export(with(&node.root, message)).await.unwrap().into_inner();
    assert!(!exported.document.contains("sk-very-secret"), "{}", exported.document);
    let again = node.apply(&node.root, &exported.document).await.unwrap();
    assert_eq!(changes(&again), BTreeSet::from(["unchanged"]));
    assert_eq!(again.revision, first.revision);

    // The same secret again is unchanged too, though it was sealed anew.
    let again = node.apply(&node.root, DOCUMENT).await.unwrap();
    assert_eq!((changes(&again), again.revision), (BTreeSet::from(["unchanged"]), first.revision));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let node = Node::founded().await;
    let message = pb::ApplyRequest { document: DOCUMENT.to_owned(), dry_run: true, wait: false };
    let dry = node.config().await.apply(with(&node.root, message)).await.unwrap().into_inner();
    assert_eq!(changes(&dry), BTreeSet::from(["created"]));
    let applied = node.apply(&node.root, DOCUMENT).await.unwrap();
    assert_eq!((changes(&applied), applied.revision), (BTreeSet::from(["created"]), dry.revision + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_does_what_it_may_and_no_more() {
    let node = Node::founded().await;
    let (admin, viewer) = (node.token("admin").await, node.token("viewer").await);

    let refused = node.apply(&viewer, DOCUMENT).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("takes the role admin"), "{}", refused.message());
    node.apply(&admin, DOCUMENT).await.unwrap();
    node.config().await.export(with(&viewer, pb::ExportRequest::default())).await.unwrap();

    let mut tokens = TokensClient::new(node.channel().await);
    let listed = tokens.list_tokens(with(&admin, pb::ListTokensRequest { local: true })).await;
    assert_eq!(listed.unwrap_err().code(), Code::PermissionDenied);

    for token in ["", "met-unknown", &node.root[1..]] {
        let refused = node.apply(token, DOCUMENT).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        for part in ["--token", "MODE_ENVOY_TOKEN_FILE", "context.json"] {
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }

    let message = pb::RevokeTokenRequest { name: "admin".to_owned() };
    tokens.revoke_token(with(&node.root, message)).await.unwrap();
    let refused = node.apply(&admin, "tenants: [{name: beta}]").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_the_fields_at_fault() {
    let node = Node::founded().await;
    let cases = [
        ("tenants: [{nam: x}]", Code::InvalidArgument, "tenants[#0]", "line 1, column 11: `name` is missing"),
        ("consumers: [{name: a, tenant: t}]", Code::NotFound, "consumers[t/a].tenant", "there is no tenant t"),
        ("tenants: [{name: Acme}]", Code::InvalidArgument, "tenants[Acme].name", "is not a name"),
        (
            "providers: [{name: o, protocol: openai, keys: [{env: HOME}]}]",
            Code::InvalidArgument,
            "providers[o].keys[0]",
            "a node reads no environment variables",
        ),
        (
            "providers: [{name: o, protocol: openai, keys: [{stored: 00000000000000000000000000000000}]}]",
            Code::InvalidArgument,
            "providers[o].keys[0]",
            "the cluster knows no secret",
        ),
    ];
    for (document, code, field, problem) in cases {
        let refused = node.apply(&node.root, document).await.unwrap_err();
        assert_eq!(refused.code(), code, "{document}: {}", refused.message());
        let details = refused.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, field);
        assert!(violation.description.contains(problem), "{}", violation.description);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_rotated_and_revoked() {
    let node = Node::founded().await;
    node.apply(&node.root, DOCUMENT).await.unwrap();
    let mut keys = KeysClient::new(node.channel().await);
    let (tenant, consumer, name) = ("acme".to_owned(), "app".to_owned(), "ci".to_owned());
    let message = pb::CreateKeyRequest { tenant, consumer, name, expires_in_seconds: 60 };
    let made = keys.create_key(with(&node.root, message.clone())).await.unwrap().into_inner();
    let key = made.key.unwrap();
    assert!(made.secret.starts_with("me-") && key.expires > key.created, "{key:?}");
    let twice = keys.create_key(with(&node.root, message)).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);

    let message = pb::RotateKeyRequest { name: key.id.clone(), ..pb::RotateKeyRequest::default() };
    let rotated = keys.rotate_key(with(&node.root, message)).await.unwrap().into_inner();
    assert_ne!(rotated.secret, made.secret);
    assert_eq!(rotated.key.unwrap(), key);

    let message = pb::ListKeysRequest { tenant: "acme".to_owned(), ..pb::ListKeysRequest::default() };
    let listed = keys.list_keys(with(&node.root, message.clone())).await.unwrap().into_inner();
    assert_eq!(listed.keys, [key]);

    let named = pb::RevokeKeyRequest { tenant: String::new(), name: "ci".to_owned() };
    keys.revoke_key(with(&node.root, named.clone())).await.unwrap();
    let listed = keys.list_keys(with(&node.root, message)).await.unwrap().into_inner();
    assert_eq!(listed.keys, []);
    let gone = keys.revoke_key(with(&node.root, named)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_got_and_deleted_by_kind_and_name() {
    let node = Node::founded().await;
    node.apply(&node.root, DOCUMENT).await.unwrap();
    let mut config = node.config().await;
    let message = pb::GetRequest { kind: "route".to_owned(), name: "orders".to_owned(), ..pb::GetRequest::default() };
    let got = config.get(with(&node.root, message.clone())).await.unwrap().into_inner();
    assert!(got.document.starts_with("routes:\n- name: orders\n  tenant: acme\n"), "{}", got.document);

    let delete = |kind: &str, tenant: &str| pb::DeleteRequest {
        kind: kind.to_owned(),
        name: "orders".to_owned(),
        tenant: tenant.to_owned(),
    };
    let used = config.delete(with(&node.root, delete("service", ""))).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition);
    config.delete(with(&node.root, delete("route", "acme"))).await.unwrap();
    let gone = config.get(with(&node.root, message)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    config.delete(with(&node.root, delete("service", ""))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_usage_are_answered() {
    let node = Node::founded().await;
    let mut cluster = ClusterClient::new(node.channel().await);
    let status = cluster.status(with(&node.root, pb::StatusRequest {})).await.unwrap().into_inner();
    assert_eq!((status.leader, status.nodes.len(), status.cluster_id.len()), (1, 1, 32));
    assert_eq!(status.nodes[0].role, "leader");
    assert!(status.nodes[0].reachable);

    let mut usage = UsageClient::new(node.channel().await);
    let message = pb::QueryUsageRequest { group_by: vec!["tenant".to_owned()], ..pb::QueryUsageRequest::default() };
    let answer = usage.query_usage(with(&node.root, message)).await.unwrap().into_inner();
    assert_eq!((answer.interval.as_str(), answer.rows.len()), ("total", 0));
    let message = pb::QueryUsageRequest { group_by: vec!["node".to_owned()], ..pb::QueryUsageRequest::default() };
    let refused = usage.query_usage(with(&node.root, message)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("not in this version"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_services_of_this_listener() {
    let node = Node::founded().await;
    let mut reflection = ServerReflectionClient::new(node.channel().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in services::SERVICES {
        assert!(names.contains(service), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("peer")), "{names:?}");
}

#[tokio::test]
async fn while_the_cluster_is_formed_callers_learn_what_is_waited_for() {
    let node = Node::forming().await;
    let refused = node.apply("met-x", DOCUMENT).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("node 2 at 127.0.0.2:7071: connection refused"));

    let (status, rest) = node.page("GET /readyz").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(rest.ends_with("forming: node 2 at 127.0.0.2:7071: connection refused\n"), "{rest}");
    let (status, rest) = node.page("GET /healthz").await;
    assert_eq!((status.as_str(), rest.ends_with("ok\n")), ("HTTP/1.1 200 OK", true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_say_what_they_promise() {
    let node = Node::founded().await;
    node.readiness.set(Stage::Serving);
    let (status, rest) = node.page("GET /readyz").await;
    assert_eq!((status.as_str(), rest.ends_with("\r\n\r\nready\n")), ("HTTP/1.1 200 OK", true));
    let (_, rest) = node.page("GET /metrics").await;
    assert!(rest.ends_with("mode_envoy_up 1\n") && rest.contains("version=0.0.4"), "{rest}");
    assert!(node.page("GET /").await.1.contains("modeenvoy.admin.v1"));
    assert_eq!(node.page("GET /secrets").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(node.page("POST /metrics").await.0, "HTTP/1.1 405 Method Not Allowed");

    let mut health = HealthClient::new(node.channel().await);
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watched = watched.into_inner();
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
    while watched.message().await.unwrap().unwrap().status != serving {}
}

#[tokio::test]
async fn away_from_loopback_metrics_and_health_take_a_token() {
    let node = Node::forming().await;
    assert_eq!(node.page("GET /metrics").await.0, "HTTP/1.1 503 Service Unavailable");
    let mut health = HealthClient::new(node.channel().await);
    let refused = health.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(node.page("GET /healthz").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let phase = watch::channel(Phase::Starting).1;
    let context = AdminContext {
        readiness: Readiness::new(phase.clone()),
        metrics: Arc::new(String::new),
        phase,
        control: watch::channel(None).1,
        open: true,
    };
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    serve(listener, context, shutdown).await.unwrap();
}

//! An admin listener over a real cluster of one, and what its callers need.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mode_envoy_model::command::Command;
use mode_envoy_model::token::{Role, Token};
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;
use mode_envoy_proto::admin::v1::tokens_client::TokensClient;
use mode_envoy_raft::{Addresses, Caller, ClusterSecret, Handle, Hooks, Phase, Settings, Waiting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::admin::{AdminContext, serve};
use crate::control::{Control, Gather, authorize_hook};
use crate::readiness::Readiness;
use crate::secrets::{Keyring, KeyringSource, hash_admin_token};
use crate::usage::Queries;
use crate::usage::calls::CallStore;

pub(super) const DOCUMENT: &str = "
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
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) readiness: Readiness,
    pub(super) root: String,
    _tasks: JoinSet<()>,
    folder: tempfile::TempDir,
}

// === impl Node ===

impl Node {
    /// A founded cluster of one.
    pub(super) async fn founded() -> Self {
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
        let (store, _) = CallStore::new(u64::MAX);
        let gather = Gather::new(handle.clone(), store, CancellationToken::new());
        let control = Control::new(handle, KeyringSource::new(secret), queries, gather);
        let control = watch::channel(Some(Arc::new(control))).1;
        Self::listening(folder, phase, control, root, tasks, true).await
    }

    /// One that is not a member of anything yet.
    pub(super) async fn forming() -> Self {
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
        let metrics = Arc::new(|| "up 1\n".to_owned());
        let context = AdminContext {
            readiness: readiness.clone(),
            metrics,
            phase,
            control,
            tls: None,
            open,
        };
        tasks.spawn(async move {
            serve(listener, context, CancellationToken::new())
                .await
                .unwrap();
        });
        Self {
            address,
            readiness,
            root,
            _tasks: tasks,
            folder,
        }
    }

    pub(super) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::try_from(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub(super) async fn config(&self) -> ConfigClient<Channel> {
        ConfigClient::new(self.channel().await)
    }

    pub(super) async fn apply(
        &self,
        token: &str,
        document: &str,
    ) -> Result<pb::ApplyResponse, Status> {
        let message = pb::ApplyRequest {
            document: document.to_owned(),
            dry_run: false,
            wait: true,
            ..pb::ApplyRequest::default()
        };
        let response = self.config().await.apply(with(token, message)).await?;
        Ok(response.into_inner())
    }

    pub(super) async fn token(&self, role: &str) -> String {
        let message = pb::CreateTokenRequest {
            name: role.to_owned(),
            role: role.to_owned(),
            ..pb::CreateTokenRequest::default()
        };
        let mut tokens = TokensClient::new(self.channel().await);
        tokens
            .create_token(with(&self.root, message))
            .await
            .unwrap()
            .into_inner()
            .token
    }

    /// Whether some file of its data directory has these bytes.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(content) = std::fs::read(&path)
                    && content.windows(bytes.len()).any(|window| window == bytes)
                {
                    return true;
                }
            }
        }
        false
    }

    /// Status line, and everything after it.
    pub(super) async fn page(&self, request_line: &str) -> (String, String) {
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
        alarms: Arc::new(Vec::new),
        calls: Arc::new(()),
    };
    mode_envoy_raft::start(settings, listener, hooks, phase, CancellationToken::new())
        .await
        .unwrap()
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
        tenant: None,
    };
    let command = Command::Found {
        cluster_id,
        wrapped_key,
        root,
    };
    let accepted = handle
        .propose(command, &Caller::node(), Duration::from_secs(20))
        .await
        .unwrap();
    handle
        .wait_applied(accepted.index, Duration::from_secs(20))
        .await
        .unwrap();
    token
}

pub(super) fn with<M>(token: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

pub(super) fn changes(response: &pb::ApplyResponse) -> BTreeSet<&str> {
    response
        .changes
        .iter()
        .map(|change| change.change.as_str())
        .collect()
}

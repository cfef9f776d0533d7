//! The joining side: asks a member until it is let in or turned away, and stores what it is told.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mode_envoy_model::limits;
use mode_envoy_proto::peer::v1 as wire;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wire::joining_client::JoiningClient;

use super::token::{JoinTokenText, Pin};
use super::{JOIN_BYTES_MAX, JoinError};
use crate::data_dir::{DataDirError, JoinDir, NodeRecord, Stage};
use crate::formation::Phase;
use crate::identity::{join_client_config, server_name};
use crate::secret::ClusterSecret;

/// Between two questions.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One question: the cluster may have to elect a leader first.
const ASK_TIMEOUT: Duration = Duration::from_secs(8);
/// A refusal is shown up to this many characters.
const REFUSAL_CHARS_MAX: usize = 1024;

/// What a node needs to join.
#[derive(Clone, Debug)]
pub struct JoinSettings {
    /// Where its files will be.
    pub data_dir: PathBuf,
    /// The peer listener of any member.
    pub address: String,
    /// As `cluster add-node` printed it.
    pub token: String,
    /// Where others will reach this node's peer listener.
    pub advertise_peer: String,
    /// Of this build.
    pub version: String,
    /// The operator's own CA, if the cluster has one.
    pub peer_ca: Option<PathBuf>,
}

/// Why a question was not answered.
enum Unanswered {
    /// Ask again.
    Later(String),
    /// Asking again would not help.
    Never(JoinError),
}

/// One node that asks.
struct Joiner {
    address: String,
    token: JoinTokenText,
    tls: Arc<ClientConfig>,
    request: wire::JoinRequest,
}

/// Joins the cluster of a token: when this returns, the data directory is a member's. `phase` tells what is waited for.
///
/// # Errors
/// [`JoinError`]. A member that cannot be reached, or a cluster without a leader, is not an error; it is waited for.
pub async fn join(
    settings: JoinSettings,
    phase: &watch::Sender<Phase>,
    cancel: &CancellationToken,
) -> Result<(), JoinError> {
    cancel
        .run_until_cancelled(run(settings, phase))
        .await
        .unwrap_or(Err(JoinError::Cancelled))
}

async fn run(settings: JoinSettings, phase: &watch::Sender<Phase>) -> Result<(), JoinError> {
    let joiner = Joiner::new(&settings)?;
    let path = settings.data_dir;
    let (dir, nonce) = blocking(move || {
        let dir = JoinDir::open(&path)?;
        let nonce = dir.nonce()?;
        Ok((dir, nonce))
    })
    .await?;
    let request = wire::JoinRequest {
        nonce: nonce.to_vec(),
        ..joiner.request.clone()
    };
    let mut told = None;
    phase.send_replace(Phase::Joining {
        address: joiner.address.clone(),
        reason: String::new(),
    });
    let answer = loop {
        let reason = match joiner.ask(&request).await {
            Ok(answer) => break answer,
            Err(Unanswered::Never(error)) => return Err(error),
            Err(Unanswered::Later(reason)) => reason,
        };
        if told.as_ref() != Some(&reason) {
            tracing::warn!(
                member = joiner.address,
                reason,
                "not joined yet; asking again"
            );
        }
        phase.send_replace(Phase::Joining {
            address: joiner.address.clone(),
            reason: reason.clone(),
        });
        told = Some(reason);
        tokio::time::sleep(RETRY_INTERVAL).await;
    };
    let (secret, record) = joiner.read(answer)?;
    let node_id = record.node_id;
    blocking(move || dir.complete(&secret, &record)).await?;
    tracing::info!(node = node_id, "joined the cluster under a new id");
    Ok(())
}

/// Works on the disk away from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataDirError> + Send + 'static,
) -> Result<T, JoinError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| JoinError::Interrupted)??)
}

// === impl Joiner ===

impl Joiner {
    fn new(settings: &JoinSettings) -> Result<Self, JoinError> {
        let token = JoinTokenText::parse(&settings.token).ok_or(JoinError::Malformed)?;
        let address = settings.address.clone();
        let port = address.rsplit_once(':').map(|(_, port)| port.parse());
        if !matches!(port, Some(Ok(1_u16..))) {
            return Err(JoinError::Address { address });
        }
        let ca = settings.peer_ca.clone();
        if token.pin == Pin::Operator && ca.is_none() {
            return Err(JoinError::NeedsPeerCa);
        }
        let tls = join_client_config(&token.pin, token.cluster_id, &ca.unwrap_or_default())?;
        let request = wire::JoinRequest {
            cluster_id: token.cluster_id.to_vec(),
            token: token.secret.to_vec(),
            nonce: Vec::new(),
            peer: settings.advertise_peer.clone(),
            version: settings.version.clone(),
            format_version: limits::FORMAT_VERSION,
        };
        Ok(Self {
            address,
            token,
            tls,
            request,
        })
    }

    async fn ask(&self, request: &wire::JoinRequest) -> Result<wire::JoinResponse, Unanswered> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let tls = connected.unwrap_or_else(|_| {
            Err(Unanswered::Later(format!(
                "no answer from {} within 3 s",
                self.address
            )))
        })?;
        let mut client = JoiningClient::new(over(tls))
            .max_decoding_message_size(JOIN_BYTES_MAX)
            .max_encoding_message_size(JOIN_BYTES_MAX);
        match tokio::time::timeout(ASK_TIMEOUT, client.join(request.clone())).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(Unanswered::Later(format!(
                "{} does not answer",
                self.address
            ))),
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, Unanswered> {
        let unreached = |error: io::Error| {
            Unanswered::Later(format!("cannot connect to {}: {error}", self.address))
        };
        let tcp = TcpStream::connect(&self.address).await.map_err(unreached)?;
        // The verifier goes by the name that the certificate gives; this one is only sent.
        let name = server_name(0).ok_or_else(|| Unanswered::Never(JoinError::Malformed))?;
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp);
        connecting.await.map_err(|error| {
            let tls = error
                .get_ref()
                .and_then(|e| e.downcast_ref::<rustls::Error>());
            match tls {
                Some(rustls::Error::InvalidCertificate(reason)) => {
                    Unanswered::Never(JoinError::NotTheCluster {
                        address: self.address.clone(),
                        reason: format!("its certificate: {reason:?}"),
                    })
                }
                _ => unreached(error),
            }
        })
    }

    fn failure(&self, status: &Status) -> Unanswered {
        let reason: String = status.message().chars().take(REFUSAL_CHARS_MAX).collect();
        match status.code() {
            Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::Unimplemented => Unanswered::Never(JoinError::Refused {
                address: self.address.clone(),
                reason,
            }),
            _ => Unanswered::Later(format!("{}: {reason}", self.address)),
        }
    }

    fn read(&self, answer: wire::JoinResponse) -> Result<(ClusterSecret, NodeRecord), JoinError> {
        let odd = |reason| JoinError::Answer {
            address: self.address.clone(),
            reason,
        };
        let secret = ClusterSecret::parse(&answer.secret);
        let secret = secret.map_err(|_| odd("it holds no cluster secret"))?;
        if answer.members.len() > 2 * limits::MEMBERS {
            return Err(odd("it lists too many members"));
        }
        let members: BTreeMap<u64, String> = answer
            .members
            .into_iter()
            .map(|member| (member.node, member.peer))
            .collect();
        let lowest = members.keys().next().copied();
        if answer.node_id == 0 || lowest.is_none_or(|lowest| lowest >= answer.node_id) {
            return Err(odd("its node id is not a later node's"));
        }
        let record = NodeRecord {
            node_id: answer.node_id,
            stage: Stage::Member {
                cluster_id: self.token.cluster_id,
                log_started: false,
            },
            initial_cluster: members,
            joining: true,
            removed: false,
        };
        Ok((secret, record))
    }
}

/// A channel over a connection that is there; it is not dialled a second time.
fn over(tls: TlsStream<TcpStream>) -> Channel {
    let mut once = Some(TokioIo::new(tls));
    Endpoint::from_static("http://peer.mode-envoy").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let taken = once.take();
            std::future::ready(taken.ok_or_else(|| io::Error::other("the connection has ended")))
        },
    ))
}

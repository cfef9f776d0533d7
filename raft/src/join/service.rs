//! The answering side: any member lets in who shows a token, once the leader has had that committed.

use mode_envoy_model::command::{Command, Rejected};
use mode_envoy_model::limits;
use mode_envoy_proto::peer::v1 as wire;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};
use wire::joining_server::{Joining, JoiningServer};

use super::JOIN_BYTES_MAX;
use super::token::{nonce_hash, token_hash};
use crate::cluster::Handle;
use crate::identity::cluster_hex;
use crate::peer_server::Question;
use crate::proposal::{Caller, ProposeError};

/// Strangers that are listened to at once: those that show a token which is known here, and those that show another one. It
/// may be so new that it is known on other nodes only.
const AT_ONCE: (usize, usize) = (4, 2);
/// How long the cluster has to decide.
const DECIDE: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves `modeenvoy.peer.v1.Joining`.
pub(crate) struct JoinService {
    handle: Handle,
    with_token: Semaphore,
    others: Semaphore,
}

// === impl JoinService ===

impl JoinService {
    /// On behalf of a member that holds the cluster's secret.
    pub(crate) const fn new(handle: Handle) -> Self {
        Self {
            handle,
            with_token: Semaphore::const_new(AT_ONCE.0),
            others: Semaphore::const_new(AT_ONCE.1),
        }
    }

    /// As the peer listener serves it.
    pub(crate) fn into_server(self) -> JoiningServer<Self> {
        JoiningServer::new(self)
            .max_decoding_message_size(JOIN_BYTES_MAX)
            .max_encoding_message_size(JOIN_BYTES_MAX)
    }

    /// A place to be decided on, so that the cluster is not asked too much by strangers. Whoever has no good token takes none
    /// from those who have.
    fn place(&self, command: &Command) -> Result<SemaphorePermit<'_>, Status> {
        let known = match command {
            Command::Join { token, .. } => self.handle.catalog().members().token(token).is_some(),
            _ => false,
        };
        let places = if known {
            &self.with_token
        } else {
            &self.others
        };
        places
            .try_acquire()
            .map_err(|_| Status::unavailable("other nodes are joining; try again"))
    }

    /// Whoever has used its token gets its answer all the same.
    fn not_while_rotating(&self, command: &Command) -> Result<(), Status> {
        let catalog = self.handle.catalog();
        let Command::Join { token, .. } = command else {
            return Ok(());
        };
        let unused = catalog
            .members()
            .token(token)
            .is_none_or(|t| t.used.is_none());
        if catalog.rotation().is_some() && unused {
            return Err(Status::unavailable(
                "the cluster secret is being replaced; nodes join when that is done",
            ));
        }
        Ok(())
    }

    fn command(&self, request: &wire::JoinRequest) -> Result<Command, Status> {
        let ours = self.handle.cluster_id();
        if request.cluster_id != ours {
            return Err(Status::permission_denied(format!(
                "the join token is of another cluster than {}",
                cluster_hex(&ours)
            )));
        }
        let bytes = |what: &str, bytes: &[u8]| -> Result<[u8; 32], Status> {
            bytes
                .try_into()
                .map_err(|_| Status::invalid_argument(format!("{what} has 32 bytes")))
        };
        let needed = self.handle.catalog().format_version();
        if request.format_version < needed {
            return Err(Status::failed_precondition(format!(
                "the cluster writes log messages of version {needed}, and mode-envoy {} reads up to {}; install the version that \
                 the other nodes have",
                request.version.chars().take(64).collect::<String>(),
                request.format_version
            )));
        }
        if request.peer.len() > limits::PEER_ADDRESS {
            return Err(Status::invalid_argument("the peer address is too long"));
        }
        Ok(Command::Join {
            token: token_hash(&bytes("a join token", &request.token)?),
            nonce: nonce_hash(&bytes("a nonce", &request.nonce)?),
            peer: request.peer.clone(),
            members: self.handle.member_addresses(),
        })
    }
}

#[tonic::async_trait]
impl Joining for JoinService {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        if let Some(question) = request.extensions().get::<Question>() {
            question.is_asked();
        }
        let request = request.into_inner();
        let command = self.command(&request)?;
        let _place = self.place(&command)?;
        self.not_while_rotating(&command)?;
        let proposed = self.handle.propose(command, &Caller::node(), DECIDE).await;
        let accepted = proposed.map_err(|error| refusal(&error))?;
        let node_id = accepted
            .changes
            .iter()
            .find(|change| change.kind == "node")
            .and_then(|change| change.name.parse().ok())
            .ok_or_else(|| Status::internal("the leader did not say the node id"))?;
        let mut members = self.handle.member_addresses();
        members.insert(node_id, request.peer);
        tracing::info!(node = node_id, "a node joins");
        Ok(Response::new(wire::JoinResponse {
            node_id,
            secret: self.handle.secrets().current().to_hex().to_string(),
            members: members
                .into_iter()
                .map(|(node, peer)| wire::PeerMember { node, peer })
                .collect(),
        }))
    }
}

fn refusal(error: &ProposeError) -> Status {
    match error {
        ProposeError::Rejected(rejected) => Status::permission_denied(problems(rejected)),
        // Whatever became of it, the same question again has the same answer.
        other => Status::unavailable(other.to_string()),
    }
}

fn problems(rejected: &Rejected) -> String {
    let problems: Vec<&str> = rejected
        .violations
        .iter()
        .map(|v| v.problem.as_str())
        .collect();
    problems.join("; ")
}

//! The first start of a cluster: which nodes it consists of, and which id it has.
//!
//! ```text
//! lowest id   ask all -- all fresh --> persist a fresh cluster id --> send it to all -- all have persisted it --> Member: initialise
//! other ids   ask all; wait until the lowest has sent the id --> Forming: start the log and wait for the leader
//! ```
//!
//! Invariants:
//! * The cluster id is made once, by the lowest id, and only after every listed node was reached and had none. A crash at any
//!   point resumes with the id on disk. Never is anything initialised because nobody answers.
//! * Nobody is told that the cluster exists before every listed node has persisted its id. So a fresh node that hears of an
//!   existing cluster has lost its data or never belonged to it, and refuses: a node whose vote was forgotten could vote twice.
//! * What a peer says counts only over mutual TLS, under the id that its certificate names. A peer that cannot be reached,
//!   whatever the reason, is waited for.
//!
//! What to do with an answer is decided in `judge`, which is pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_proto::peer::v1::FormRequest;
use mode_envoy_proto::peer::v1::formation_client::FormationClient;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use self::judge::{Answer, Next, Reply};
use crate::channels::{DialError, PeerChannels};
use crate::data_dir::{DataDir, DataDirError, NodeRecord, Stage};
use crate::identity::{ClusterId, Identity, cluster_hex};

mod error;
mod initial_cluster;
mod judge;
mod service;

pub use self::error::FormationError;
pub use self::initial_cluster::{initial_cluster_text, parse_initial_cluster};
pub use self::service::FormationService;

/// Nodes ask each other this often.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// One question, dialling included.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// A question or its answer; both are a few hundred bytes.
const FORM_BYTES_MAX: usize = 64 << 10;

/// What formation needs.
#[derive(Debug)]
pub struct Setup {
    /// This node's identity.
    pub identity: Arc<Identity>,
    /// Its data directory.
    pub data_dir: DataDir,
    /// The address at which other nodes reach its peer listener.
    pub advertise_peer: String,
    /// The nodes of a new cluster; `None` for a cluster of this node alone. Ignored where the directory has a cluster.
    pub initial_cluster: Option<BTreeMap<u64, String>>,
}

/// Brings this node into its cluster; made by [`prepare`].
#[derive(Debug)]
pub struct Former {
    identity: Arc<Identity>,
    data_dir: DataDir,
    members: BTreeMap<u64, String>,
}

/// A node's cluster, and what is left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formed {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Whether this node initialises the log with `members`, unless an earlier start has done so already.
    pub initialise: bool,
    /// Whether this node's log has held anything before: if it is empty now, it was lost, and the node must not start.
    pub log_expected: bool,
    /// The nodes which the cluster was formed with.
    pub members: BTreeMap<u64, String>,
}

/// How far a node's start has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Opening files.
    #[default]
    Starting,
    /// Forming the cluster.
    Forming {
        /// Who is missing, and why.
        waiting_for: Vec<Waiting>,
    },
    /// Asking a member to let this node join.
    Joining {
        /// Whom.
        address: String,
        /// Why it has not done so yet; empty while it is asked for the first time.
        reason: String,
    },
    /// Reading the log and waiting for its first entries.
    Replaying,
    /// A member of the cluster.
    Member,
}

/// A node that formation waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The node.
    pub node_id: u64,
    /// Its address.
    pub address: String,
    /// Why it counts as missing.
    pub reason: String,
}

// === impl Former ===

impl Former {
    /// Runs formation to its end. The peer listener must be served meanwhile.
    ///
    /// # Errors
    /// [`FormationError`]. An unreachable peer is not an error; it is waited for, and named in `phase`.
    pub async fn run(
        self,
        phase: &watch::Sender<Phase>,
        cancel: &CancellationToken,
    ) -> Result<Formed, FormationError> {
        cancel
            .run_until_cancelled(self.form(phase))
            .await
            .unwrap_or(Err(FormationError::Cancelled))
    }

    async fn form(&self, phase: &watch::Sender<Phase>) -> Result<Formed, FormationError> {
        let channels = PeerChannels::for_formation(Arc::clone(&self.identity));
        let mut changed = self.data_dir.watch();
        loop {
            let record = changed.borrow_and_update().clone();
            if let Some(formed) = self.formed(&record) {
                self.identity.bind_cluster(formed.cluster_id)?;
                return Ok(formed);
            }
            let answers = self.ask_all(&channels, record.cluster_id()).await;
            // The lowest node may have sent the id while the others were asked. What they said may be about that.
            if self.data_dir.record() != record {
                continue;
            }
            match judge::judge(record.node_id, &record.stage, &self.members, answers)? {
                Next::Wait(waiting_for) => {
                    self.publish(phase, waiting_for);
                    // Woken early by a change; the result says only that the directory is still open.
                    let _ = tokio::time::timeout(RETRY_INTERVAL, changed.changed()).await;
                }
                Next::BeginForming => {
                    let cluster_id = fresh_cluster_id()?;
                    tracing::info!(cluster = cluster_hex(&cluster_id), "forming a new cluster");
                    let members = self.members.clone();
                    self.step(move |dir| dir.begin_forming(cluster_id, &members))
                        .await?;
                }
                Next::BecomeMember => self.step(DataDir::become_member).await?,
            }
        }
    }

    /// What a record means where nothing has to be asked any more.
    fn formed(&self, record: &NodeRecord) -> Option<Formed> {
        let lowest = self.members.keys().next() == Some(&record.node_id);
        let (cluster_id, initialise, log_expected) = match record.stage {
            Stage::Fresh => return None,
            // The lowest still has to hear that all others are here.
            Stage::Forming { .. } if lowest => return None,
            Stage::Forming { cluster_id } => (cluster_id, false, false),
            Stage::Member {
                cluster_id,
                log_started,
            } => (cluster_id, lowest && !log_started, log_started),
        };
        Some(Formed {
            cluster_id,
            initialise,
            log_expected,
            members: self.members.clone(),
        })
    }

    /// Asks every other node at once, or sends the cluster id where there is one.
    async fn ask_all(&self, channels: &PeerChannels, cluster_id: Option<ClusterId>) -> Vec<Answer> {
        let mut asked = JoinSet::new();
        let from = self.identity.node_id();
        for (&to, address) in self.members.iter().filter(|(id, _)| **id != from) {
            let client = FormationClient::new(channels.channel(to, address))
                .max_decoding_message_size(FORM_BYTES_MAX)
                .max_encoding_message_size(FORM_BYTES_MAX);
            let request = FormRequest {
                from,
                to,
                initial_cluster: initial_cluster_text(&self.members),
                cluster_id: cluster_id.map(Vec::from).unwrap_or_default(),
            };
            asked.spawn(ask(client, request, address.clone()));
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|answer| answer.node_id);
        answers
    }

    /// Takes a step on disk, away from the threads that serve.
    async fn step(
        &self,
        take: impl FnOnce(&DataDir) -> Result<(), DataDirError> + Send + 'static,
    ) -> Result<(), FormationError> {
        let dir = self.data_dir.clone();
        let taken = tokio::task::spawn_blocking(move || take(&dir)).await;
        Ok(taken.map_err(|_| FormationError::Interrupted)??)
    }

    fn publish(&self, phase: &watch::Sender<Phase>, waiting_for: Vec<Waiting>) {
        let next = Phase::Forming { waiting_for };
        phase.send_if_modified(|now| {
            if *now == next {
                return false;
            }
            if let Phase::Forming { waiting_for } = &next {
                for missing in waiting_for {
                    tracing::info!(
                        node = self.identity.node_id(),
                        peer = missing.node_id,
                        reason = missing.reason,
                        "forming the cluster: waiting"
                    );
                }
            }
            *now = next;
            true
        });
    }
}

/// Checks the setup against the data directory; then the peer listener can serve the one and [`Former::run`] the other.
///
/// # Errors
/// [`FormationError`], where the list of nodes and the data directory do not fit together.
pub fn prepare(setup: Setup) -> Result<(Former, FormationService), FormationError> {
    let Setup {
        identity,
        data_dir,
        advertise_peer,
        initial_cluster,
    } = setup;
    let record = data_dir.record();
    let node_id = record.node_id;
    let members = match record.stage {
        Stage::Fresh => {
            // An id of its own says that this node was meant to have others.
            if initial_cluster.is_none() && node_id != 1 {
                return Err(FormationError::Alone { node_id });
            }
            let alone = || BTreeMap::from([(node_id, advertise_peer)]);
            checked(&initial_cluster.unwrap_or_else(alone), node_id)?
        }
        Stage::Forming { .. } => {
            let now = initial_cluster.filter(|now| *now != record.initial_cluster);
            if let Some(now) = now {
                return Err(FormationError::Changed {
                    before: initial_cluster_text(&record.initial_cluster),
                    now: initial_cluster_text(&now),
                });
            }
            record.initial_cluster
        }
        Stage::Member { .. } => record.initial_cluster,
    };
    let service = FormationService::new(node_id, data_dir.clone(), members.clone());
    Ok((
        Former {
            identity,
            data_dir,
            members,
        },
        service,
    ))
}

fn checked(
    members: &BTreeMap<u64, String>,
    node_id: u64,
) -> Result<BTreeMap<u64, String>, FormationError> {
    let text = initial_cluster_text(members);
    let members = parse_initial_cluster(&text)?;
    if !members.contains_key(&node_id) {
        return Err(FormationError::NotListed { text, node_id });
    }
    Ok(members)
}

async fn ask(
    mut client: FormationClient<tonic::transport::Channel>,
    request: FormRequest,
    address: String,
) -> Answer {
    let node_id = request.to;
    let reply = match tokio::time::timeout(ASK_TIMEOUT, client.form(Request::new(request))).await {
        Ok(Ok(response)) => Reply::of_response(response.into_inner(), node_id),
        Ok(Err(status)) => Reply::Absent(
            DialError::of(&status)
                .map_or_else(|| status.message().to_owned(), |why| why.to_string()),
        ),
        Err(_) => Reply::Absent(format!("no answer from {address} within 3 s")),
    };
    Answer {
        node_id,
        address,
        reply,
    }
}

fn fresh_cluster_id() -> Result<ClusterId, FormationError> {
    let mut id = [0; 16];
    SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| FormationError::Random)?;
    Ok(id)
}

#[cfg(test)]
mod formation_test;

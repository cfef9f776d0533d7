//! The composition root of a node: the only place that knows everything, in the order in which it starts.
//!
//! ```text
//! listeners -> admin (so that /readyz speaks) -> join, where that is asked for -> raft: form or rejoin, replay
//!  -> found the cluster -> credentials -> usage: spools, flusher -> gateway -> table -> ready
//!  ... signal, or removed from the cluster -> drain -> flush -> hand leadership over -> raft -> end
//! ```
//!
//! Three kinds of runtime, so that none starves another: two threads for raft and peers, one for the admin API and
//! everything that only waits, and the gateway's own (one thread each). The flusher has a thread of its own.
//!
//! Invariants: nothing that started outlives [`run`]; a fatal error ends the process by the same steps as a signal,
//! with another status.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle as RuntimeHandle, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use mode_envoy_raft::data_dir::DataDirError;
use mode_envoy_raft::join::JoinError;
use mode_envoy_raft::secret::SecretError;
use mode_envoy_raft::{Departure, Phase, StartError};

use crate::alarms::Alarms;
use crate::config::{ListenerKind, SecretFile, Settings};
use crate::control::Control;
use crate::freshness::Freshness;
use crate::gateway::{self, Gateway, Published};
use crate::limits::Limiter;
use crate::metrics;
use crate::readiness::{Readiness, Stage};
use crate::secrets::KeyringError;
use crate::supervisor::{Supervisor, TaskKind};
use crate::tls::{ListenerTls, TlsError};
use crate::usage::calls::CallStore;
use crate::usage::flush::{self, FlushHandle};
use crate::usage::recovery::RecoveryError;

use self::founding::FoundingError;
use self::gauges::Gauges;
use self::listeners::{BindError, Bound, Listeners};
use self::own::Own;
use self::signals::Signals;

mod admin;
mod credentials;
mod data_plane;
mod disk_watch;
mod founding;
mod gauges;
mod listeners;
mod member;
mod own;
mod protection;
mod reseal;
mod roll_ups;
mod signals;

/// What is in flight may take so long to finish.
const DRAIN: Duration = Duration::from_secs(30);
/// The last flush may take so long; what is not counted then stays in the spool.
const LAST_FLUSH: Duration = Duration::from_secs(5);
/// How long others that end too are waited for, so that their last usage is counted as well.
const SETTLE: Duration = Duration::from_secs(5);
/// How long a node that was removed stays for the change of the membership to be committed.
const LEAVE: Duration = Duration::from_secs(30);
/// How long the cluster may take to confirm that this node is up to date, before that is said and asked again.
const UP_TO_DATE: Duration = Duration::from_secs(5);
/// A node that comes back after a while looks so long for the others before it serves without them.
const CONTACT: Duration = Duration::from_secs(5);
/// What a node waits for whose own secret does not open what it has applied.
const WAITS_FOR_SECRET: &str = "the secret in the data directory's cluster.secret does not fit what this node has applied; waiting \
     for the cluster to say which one is in force. Where the other nodes run and this does not end, the file is damaged: put \
     back the one that every other node has under that name";
/// Every task may take so long to end.
const STOP: Duration = Duration::from_secs(5);

/// Why a node does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// A runtime or a thread.
    #[error("starting the threads of the {0}")]
    Threads(&'static str, #[source] io::Error),
    /// Signals.
    #[error("listening for SIGTERM, SIGINT and SIGHUP")]
    Signals(#[source] io::Error),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Metrics.
    #[error("setting up metrics")]
    Metrics(#[source] metrics_exporter_prometheus::BuildError),
    /// The cluster's secret.
    #[error("reading the cluster's secret")]
    Secret(#[from] SecretError),
    /// The node did not join.
    #[error("joining the cluster")]
    Join(#[from] JoinError),
    /// The data directory does not say whose it is.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The cluster removed this node.
    #[error(
        "node {0} was removed from the cluster, so it does not start; to have this machine back, start it with an empty data \
         directory, --join and a token of `mode-envoy cluster add-node`"
    )]
    Removed(u64),
    /// A listener's certificate.
    #[error("preparing TLS of a listener")]
    Tls(#[from] TlsError),
    /// A certificate of the cluster's private CA.
    #[error("making the admin listener's certificate from the cluster's secret")]
    Minting(#[source] mode_envoy_raft::identity::IdentityError),
    /// The member did not start.
    #[error("starting as a member of the cluster")]
    Member(#[from] StartError),
    /// The cluster could not be founded.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The cluster's secret is another one.
    #[error("the cluster secret in {path} is not the one of this cluster; {advice}")]
    OtherSecret {
        /// The file that was read.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
        /// What did not open.
        #[source]
        source: KeyringError,
    },
    /// The usage spools.
    #[error(transparent)]
    Usage(#[from] RecoveryError),
    /// What the gateway's workers share.
    #[error("reading the roots that https upstreams are checked against")]
    Roots(#[from] gateway::SharedError),
    /// The gateway.
    #[error("starting the gateway on {addr}")]
    Gateway {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A task that this process cannot do without has ended.
    #[error("{0}")]
    Fatal(String),
}

/// What every step of the start may use.
struct App {
    settings: Settings,
    bound: Bound,
    supervisor: Supervisor,
    readiness: Readiness,
    gauges: Arc<Gauges>,
    alarms: Alarms,
    phase: watch::Sender<Phase>,
    raft_runtime: RuntimeHandle,
    /// Ends the member's tasks; apart from the supervisor's, since the log outlives what writes to it.
    raft_stop: CancellationToken,
    gateway_tls: Option<ListenerTls>,
    admin_tls: Option<ListenerTls>,
    /// What is in force in the gateway.
    published: Published,
}

/// What runs once the start is over.
struct Running {
    member: mode_envoy_raft::Handle,
    flush: FlushHandle,
    gateway: Gateway,
    limiter: Limiter,
}

/// Runs a node until it is told to end, or cannot go on.
///
/// # Errors
///
/// The node did not start, or something it cannot do without is gone.
pub(crate) fn run(settings: Settings) -> Result<(), AppError> {
    let raft = runtime("raft", 2).map_err(|source| AppError::Threads("raft runtime", source))?;
    let admin = runtime("admin", 1).map_err(|source| AppError::Threads("admin runtime", source))?;
    let result = admin.block_on(serve(settings, raft.handle().clone()));
    raft.shutdown_timeout(STOP);
    admin.shutdown_timeout(STOP);
    result
}

async fn serve(settings: Settings, raft_runtime: RuntimeHandle) -> Result<(), AppError> {
    let (mut signals, hangup) = Signals::listen().map_err(AppError::Signals)?;
    let listeners = Listeners::bind(&settings)?;
    let app = App::new(settings, listeners.bound, raft_runtime)?;
    protection::follow(&app, &signals::follow_hangups(&app, hangup));
    let control = watch::Sender::new(None);
    admin::spawn(&app, listeners.admin, &control)?;

    let started = tokio::select! {
        running = app.start(listeners.peer, &control) => running.map(Some),
        reason = app.supervisor.fatal() => Err(AppError::Fatal(reason)),
        signal = signals.next() => {
            tracing::info!(signal, "told to end while starting");
            Ok(None)
        }
    };
    let Ok(Some(running)) = started else {
        app.give_up().await;
        return started.map(|_| ());
    };
    let ended = tokio::select! {
        reason = app.supervisor.fatal() => Err(AppError::Fatal(reason)),
        reason = running.gateway.failed() => Err(AppError::Fatal(reason)),
        () = removed(&running.member) => {
            tracing::warn!(
                node = running.member.node_id(),
                "this node was removed from the cluster; it finishes what is in flight, flushes its usage and ends"
            );
            Ok(())
        }
        signal = signals.next() => {
            tracing::info!(signal, "told to end; draining");
            Ok(())
        }
    };
    app.readiness.set(match &ended {
        Ok(()) => Stage::Draining,
        Err(error) => Stage::Failed(error.to_string()),
    });
    app.end(running, &mut signals).await;
    ended
}

// === impl App ===

impl App {
    fn new(
        settings: Settings,
        bound: Bound,
        raft_runtime: RuntimeHandle,
    ) -> Result<Self, AppError> {
        warn_of_waivers(&settings);
        let secret = own::secret_so_far(&settings)?;
        // Before certificates, whose metrics are told as they are read.
        let prometheus = metrics::install().map_err(AppError::Metrics)?;
        let gateway_tls = protection::of(&settings.gateway, &bound, secret.as_ref())?;
        let admin_tls = protection::of(&settings.admin, &bound, secret.as_ref())?;
        let phase = watch::Sender::new(Phase::Starting);
        let readiness = Readiness::new(phase.subscribe());
        let published = Published::default();
        let asked = published.clone();
        readiness.require(move || asked.problem());
        let revision = Arc::clone(&published.revision);
        let gauges = Gauges::new(prometheus, readiness.clone(), revision);
        Ok(Self {
            supervisor: Supervisor::new(),
            gauges: Arc::new(gauges),
            alarms: Alarms::default(),
            raft_stop: CancellationToken::new(),
            settings,
            bound,
            readiness,
            phase,
            raft_runtime,
            gateway_tls,
            admin_tls,
            published,
        })
    }

    /// Everything between the admin listener and being ready, in order.
    async fn start(
        &self,
        peer: TcpListener,
        control: &watch::Sender<Option<Arc<Control>>>,
    ) -> Result<Running, AppError> {
        let stage = |what| self.readiness.set(Stage::Starting(what));
        let (flush, flush_requests) = flush::channel();
        let own = own::settle(self).await?;
        if own.has_joined_now {
            protection::joined(self, &own.secrets.current());
        }
        stage("becoming a member of the cluster");
        let (calls, settle) = CallStore::new(self.settings.call_log_age_ms);
        let member = member::start(self, &own, peer, (&flush, &calls)).await?;
        let freshness = self.follow_contact(&member);
        self.gauges.set_member(member.clone(), freshness.clone());
        disk_watch::start(self);
        let sums = roll_ups::start(self, &member);
        let asks = (&flush, &calls, sums);
        admin::open(self, &own, &member, asks, control);

        let serving = async {
            stage("waiting for a leader to found the cluster");
            founding::founded(&member, &own.secrets.current()).await?;
            self.check_secret(&own, &member).await?;
            credentials::write(self, &own, &member);
            reseal::start(self, &own, &member);
            stage("catching up with the cluster that it joined");
            own::catch_up(&member).await?;

            stage("settling the usage of the last run");
            let calls = (calls, freshness.is_same_boot());
            let recorders =
                data_plane::start_usage(self, &member, (flush_requests, settle), calls).await?;
            let limiter = recorders.1.clone();
            stage("looking for the other nodes");
            freshness.contact_within(CONTACT).await;
            stage("starting the gateway");
            let freshness = freshness.clone();
            let gateway =
                data_plane::start_gateway(self, &own, &member, recorders, freshness).await?;
            Ok::<_, AppError>((gateway, limiter))
        };
        let (gateway, limiter) = tokio::select! {
            serving = serving => serving?,
            () = removed(&member) => {
                // So that the next start needs nobody to tell it.
                member.wait_left(LEAVE).await;
                return Err(AppError::Removed(own.node_id));
            }
        };
        self.readiness.require(move || freshness.problem());
        self.readiness.set(Stage::Serving);
        tracing::info!(node = own.node_id, "ready");
        Ok(Running {
            member,
            flush,
            gateway,
            limiter,
        })
    }

    /// Follows how long ago this node had contact with the quorum, over restarts too.
    fn follow_contact(&self, member: &mode_envoy_raft::Handle) -> Freshness {
        let (dir, rules) = (self.settings.data_dir.clone(), self.settings.stale);
        let freshness = Freshness::open(&dir, member.contact(), rules, member.wall_ms());
        let keeping = freshness.clone().keep(dir, self.supervisor.stopping());
        self.supervisor
            .spawn("contact", TaskKind::BestEffort, async move {
                keeping.await;
                Ok(())
            });
        freshness
    }

    /// A secret that does not open what the cluster was founded with is refused before anything is derived from it.
    async fn check_secret(
        &self,
        own: &Own,
        member: &mode_envoy_raft::Handle,
    ) -> Result<(), AppError> {
        let opens = || own.keyring.of(&member.catalog()).map(drop);
        if opens().is_ok() {
            return Ok(());
        }
        // What is applied here may be from before the cluster replaced its secret, which this node has from the cluster then.
        let from_the_cluster = matches!(self.settings.secret, SecretFile::Kept(_));
        if from_the_cluster {
            self.readiness.set(Stage::Starting(WAITS_FOR_SECRET));
            while let Err(error) = member.read_barrier(UP_TO_DATE).await {
                let path = self.settings.secret.path().display();
                tracing::warn!(%error, %path, "{WAITS_FOR_SECRET}");
            }
        }
        let advice = if from_the_cluster {
            "put that one back: every other node has it in the file of that name, and so has whoever keeps it for the backups"
        } else {
            "start this node with that one (--cluster-secret-file)"
        };
        opens().map_err(|source| AppError::OtherSecret {
            path: self.settings.secret.path().to_owned(),
            advice,
            source,
        })
    }

    /// Ends what a start that did not come to its end had begun.
    async fn give_up(&self) {
        self.raft_stop.cancel();
        self.supervisor.stop(STOP).await;
    }

    /// Ends everything, the clients' side first. A second signal skips the waits.
    async fn end(&self, running: Running, signals: &mut Signals) {
        let Running {
            member,
            flush,
            gateway,
            limiter,
        } = running;
        let leaving = *member.watch_departure().borrow() != Departure::Staying;
        member.set_draining();
        let in_order = async {
            gateway.drain(DRAIN).await;
            // What this node holds of limits is of use to others now. What does not get through comes back at the next start.
            let _ = tokio::time::timeout(LAST_FLUSH, limiter.leave()).await;
            match tokio::time::timeout(LAST_FLUSH, flush.flush()).await {
                Ok(Ok(())) => tracing::info!("usage is flushed"),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(
                        "the last usage could not be counted; it is in the spool and counts at the next start"
                    );
                }
            }
            if leaving && !member.wait_left(LEAVE).await {
                tracing::warn!(
                    "the membership still has this node; see `mode-envoy cluster status`"
                );
            }
            member.settle(SETTLE).await;
        };
        tokio::select! {
            () = in_order => {}
            signal = signals.next() => tracing::warn!(signal, "told again to end; not waiting any longer"),
        }
        // The flusher ends before the log it writes to.
        let ended = self.supervisor.stop(STOP).await;
        member.shutdown().await;
        tracing::info!(in_order = ended, "ended");
    }
}

/// Returns when the log says that this node was removed.
async fn removed(member: &mode_envoy_raft::Handle) {
    let mut departure = member.watch_departure();
    let gone = departure.wait_for(|departure| *departure != Departure::Staying);
    if gone.await.is_err() {
        // The member has ended, which others notice.
        std::future::pending::<()>().await;
    }
}

fn warn_of_waivers(settings: &Settings) {
    for listener in [&settings.gateway, &settings.admin] {
        if listener.waived {
            let kind = listener.kind.as_str();
            tracing::warn!(listener = kind, addr = %listener.bind, "serves without TLS beyond loopback (--insecure)");
        }
    }
}

fn runtime(name: &'static str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

/// Logs where a listener is, once it is known.
fn announce(kind: ListenerKind, addr: SocketAddr, advertised: &str) {
    tracing::info!(listener = kind.as_str(), %addr, advertised, "listening");
}

//! Options, checked and completed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mode_envoy_raft::formation::parse_initial_cluster;
use mode_envoy_raft::{PeerPki, Timers};

use super::error::ConfigError;
use super::listener::{Listener, ListenerKind, TlsFiles};
use super::options::{LogFormat, Options};
use super::secret::SecretFile;
use crate::control::document::{format_duration, parse_duration};
use crate::freshness::StaleRules;

const GATEWAY_ADDR: &str = "127.0.0.1:8080";
const ADMIN_ADDR: &str = "127.0.0.1:7070";
const PEER_ADDR: &str = "127.0.0.1:7071";

const MIB: u64 = 1 << 20;
const CALL_LOG_BYTES: u64 = 2 << 30;
const CALL_LOG_HOURS: u64 = 7 * 24;
const CALL_LOG_HOURS_MAX: u64 = 10 * 366 * 24;
const HOUR_MS: u64 = 3_600_000;
const WAL_SEGMENT_BYTES: u64 = 64 * MIB;
const CHECKPOINT_EVERY: u64 = 10_000;
const CHECKPOINT_BYTES: u64 = 64 * MIB;
const LOG_KEEP: u64 = 10_000;
const LOG_KEEP_BYTES: u64 = 256 * MIB;
const SNAPSHOT_BYTES_PER_SECOND: u64 = 64 * MIB;
/// More than any log has.
const BYTES_MAX: u64 = 1 << 50;
const USAGE_SPOOL_BYTES: u64 = 8 << 30;
/// The smallest bound of one worker's usage.
const USAGE_SPOOL_BYTES_MIN: u64 = MIB;
/// As many as the log takes spools of one node, half of them for workers that are no more.
const GATEWAY_WORKERS_MAX: u32 = 128;
const TIMER_MS_MAX: u64 = 60_000;
/// An election alone may take as long.
const STALE_MS_MIN: u64 = 1_000;
const STALE_MS_MAX: u64 = 30 * 86_400_000;
const NEVER: &str = "never";

/// What this process runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number in the cluster; where it is not told, the data directory knows it, or it is 1.
    pub node_id: Option<u64>,
    /// Everything this node keeps.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub gateway: Listener,
    /// Where operators connect.
    pub admin: Listener,
    /// Where other nodes connect.
    pub peer: Listener,
    /// The nodes of a new cluster; a cluster of one where absent.
    pub initial_cluster: Option<BTreeMap<u64, String>>,
    /// The cluster to join, unless the data directory is a member's.
    pub join: Option<Join>,
    /// Where the cluster's secret is.
    pub secret: SecretFile,
    /// Certificates of the operator's own.
    pub pki: Option<PeerPki>,
    /// Threads that serve clients.
    pub gateway_workers: u32,
    /// Bytes that the usage of one worker may take on disk.
    pub spool_bytes: u64,
    /// Free bytes below which there is an alarm; a share of the file system where absent.
    pub disk_min_free: Option<u64>,
    /// Bytes that records of single calls may take on disk.
    pub call_log_bytes: u64,
    /// How long records of single calls are kept.
    pub call_log_age_ms: u64,
    /// Bytes of one segment of the replicated log.
    pub wal_segment_bytes: u64,
    /// Entries between two checkpoints.
    pub checkpoint_every: u64,
    /// Bytes of log after which a checkpoint comes earlier.
    pub checkpoint_bytes: u64,
    /// Entries of log kept behind the newest checkpoint.
    pub log_keep: u64,
    /// Bytes that these may have at most.
    pub log_keep_bytes: u64,
    /// How fast a checkpoint is sent to another node.
    pub snapshot_bytes_per_second: u64,
    /// How fast a lost leader is noticed.
    pub timers: Timers,
    /// What follows from being cut off from the quorum.
    pub stale: StaleRules,
    /// Logs.
    pub log: LogSettings,
}

/// How to join a cluster that exists.
#[derive(Clone, Eq, PartialEq)]
pub struct Join {
    /// A member's peer listener.
    pub address: String,
    /// What lets this node in.
    pub token: String,
}

/// How and what to log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogSettings {
    /// How logs look.
    pub format: LogFormat,
    /// What is logged; `RUST_LOG` or `info` where absent.
    pub filter: Option<String>,
}

// === impl Join ===

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// When checkpoints are written, and what the log keeps behind them.
struct LogLimits {
    checkpoint_every: u64,
    checkpoint_bytes: u64,
    keep: u64,
    keep_bytes: u64,
    snapshot_bytes_per_second: u64,
}

// === impl Settings ===

impl Settings {
    /// Checks and completes what `serve` was told.
    ///
    /// # Errors
    ///
    /// Something is missing, contradicts itself or would be unsafe; the message says what to give.
    pub fn resolve(options: Options) -> Result<Self, ConfigError> {
        let initial_cluster = options
            .initial_cluster
            .as_deref()
            .map(parse_initial_cluster);
        let initial_cluster = initial_cluster
            .transpose()
            .map_err(ConfigError::InitialCluster)?;
        let join = join(&options)?;
        let node_id = node_id(options.node_id, initial_cluster.as_ref())?;
        let data_dir = options.data_dir.clone().ok_or(ConfigError::NoDataDir)?;
        let [gateway, admin, peer] = listeners(&options, node_id, initial_cluster.as_ref())?;
        let all_loopback = [&gateway, &admin, &peer]
            .iter()
            .all(|listener| listener.is_loopback());
        let gateway_workers = workers(options.gateway_workers)?;
        let log = LogLimits::of(&options)?;
        Ok(Self {
            node_id,
            secret: SecretFile::choose(
                options.cluster_secret_file.clone(),
                (&data_dir, join.is_some()),
                all_loopback,
            )?,
            join,
            pki: pki(&options)?,
            gateway,
            admin,
            peer,
            initial_cluster,
            gateway_workers,
            spool_bytes: spool_bytes(options.usage_spool_bytes, gateway_workers)?,
            disk_min_free: options
                .disk_min_free_bytes
                .map(|bytes| ranged("disk-min-free-bytes", bytes, (0, 1 << 50)))
                .transpose()?,
            call_log_bytes: ranged(
                "call-log-bytes",
                options.call_log_bytes.unwrap_or(CALL_LOG_BYTES),
                (MIB, 1 << 44),
            )?,
            call_log_age_ms: call_log_age_ms(options.call_log_hours)?,
            wal_segment_bytes: ranged(
                "wal-segment-bytes",
                options.wal_segment_bytes.unwrap_or(WAL_SEGMENT_BYTES),
                (MIB, 1 << 30),
            )?,
            checkpoint_every: log.checkpoint_every,
            checkpoint_bytes: log.checkpoint_bytes,
            log_keep: log.keep,
            log_keep_bytes: log.keep_bytes,
            snapshot_bytes_per_second: log.snapshot_bytes_per_second,
            timers: timers(&options)?,
            stale: stale(&options)?,
            log: LogSettings {
                format: options.log_format.unwrap_or_default(),
                filter: options.log_level,
            },
            data_dir,
        })
    }
}

// === impl LogLimits ===

impl LogLimits {
    fn of(options: &Options) -> Result<Self, ConfigError> {
        Ok(Self {
            checkpoint_every: ranged(
                "checkpoint-every",
                options.checkpoint_every.unwrap_or(CHECKPOINT_EVERY),
                (1, 10_000_000),
            )?,
            checkpoint_bytes: ranged(
                "checkpoint-bytes",
                options.checkpoint_bytes.unwrap_or(CHECKPOINT_BYTES),
                (MIB, BYTES_MAX),
            )?,
            keep: ranged(
                "log-keep",
                options.log_keep.unwrap_or(LOG_KEEP),
                (0, 1_000_000_000),
            )?,
            keep_bytes: ranged(
                "log-keep-bytes",
                options.log_keep_bytes.unwrap_or(LOG_KEEP_BYTES),
                (0, BYTES_MAX),
            )?,
            snapshot_bytes_per_second: ranged(
                "snapshot-bytes-per-second",
                options
                    .snapshot_bytes_per_second
                    .unwrap_or(SNAPSHOT_BYTES_PER_SECOND),
                (64 << 10, BYTES_MAX),
            )?,
        })
    }
}

// === free functions ===

fn node_id(
    given: Option<u64>,
    cluster: Option<&BTreeMap<u64, String>>,
) -> Result<Option<u64>, ConfigError> {
    match (given, cluster) {
        (Some(0), _) => Err(ConfigError::NodeId("0: ids begin at 1".to_owned())),
        (Some(id), Some(cluster)) if !cluster.contains_key(&id) => Err(ConfigError::NodeId(
            format!("{id} is not one of --initial-cluster, which must list this node too"),
        )),
        (None, Some(_)) => Err(ConfigError::NodeId(
            "is missing: say which node of --initial-cluster this is".to_owned(),
        )),
        (given, _) => Ok(given),
    }
}

fn join(options: &Options) -> Result<Option<Join>, ConfigError> {
    let (address, token) = match (&options.join, &options.join_token) {
        (None, None) => return Ok(None),
        (Some(address), Some(token)) => (address.clone(), token.clone()),
        _ => return Err(ConfigError::JoinPair),
    };
    if options.initial_cluster.is_some() {
        return Err(ConfigError::JoinAndForm);
    }
    if options.node_id.is_some() {
        return Err(ConfigError::NodeId(
            "does not go with --join: the cluster gives this node its id".to_owned(),
        ));
    }
    Ok(Some(Join { address, token }))
}

fn listeners(
    options: &Options,
    node_id: Option<u64>,
    cluster: Option<&BTreeMap<u64, String>>,
) -> Result<[Listener; 3], ConfigError> {
    let listed = cluster
        .and_then(|cluster| cluster.get(&node_id?))
        .map(String::as_str);
    let listener = |kind, addr: &Option<String>, default, advertise: Option<&str>| {
        Listener::resolve(
            kind,
            addr.as_deref().unwrap_or(default),
            advertise,
            &options.insecure,
            tls_files(options, kind)?,
        )
    };
    Ok([
        listener(
            ListenerKind::Gateway,
            &options.gateway_addr,
            GATEWAY_ADDR,
            options.advertise_gateway.as_deref(),
        )?,
        listener(
            ListenerKind::Admin,
            &options.admin_addr,
            ADMIN_ADDR,
            options.advertise_admin.as_deref(),
        )?,
        listener(
            ListenerKind::Peer,
            &options.peer_addr,
            PEER_ADDR,
            options.advertise_peer.as_deref().or(listed),
        )?,
    ])
}

fn tls_files(options: &Options, kind: ListenerKind) -> Result<Option<TlsFiles>, ConfigError> {
    let files = match kind {
        ListenerKind::Gateway => (&options.gateway_cert, &options.gateway_key),
        ListenerKind::Admin => (&options.admin_cert, &options.admin_key),
        ListenerKind::Peer => (&None, &None),
    };
    match files {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
        })),
        _ => Err(ConfigError::TlsFiles { kind }),
    }
}

fn pki(options: &Options) -> Result<Option<PeerPki>, ConfigError> {
    match (&options.peer_cert, &options.peer_key, &options.peer_ca) {
        (None, None, None) => Ok(None),
        (Some(cert), Some(key), Some(ca)) => Ok(Some(PeerPki {
            cert: cert.clone(),
            key: key.clone(),
            ca: ca.clone(),
        })),
        _ => Err(ConfigError::PeerPki),
    }
}

fn workers(given: Option<u32>) -> Result<u32, ConfigError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = u32::try_from(cores)
        .unwrap_or(GATEWAY_WORKERS_MAX)
        .min(GATEWAY_WORKERS_MAX);
    let range = (1, u64::from(GATEWAY_WORKERS_MAX));
    ranged("gateway-workers", u64::from(given.unwrap_or(cores)), range)?;
    Ok(given.unwrap_or(cores))
}

/// What all workers may take together, shared out among them.
fn spool_bytes(given: Option<u64>, workers: u32) -> Result<u64, ConfigError> {
    let workers = u64::from(workers);
    let smallest = USAGE_SPOOL_BYTES_MIN.saturating_mul(workers);
    let all = given.unwrap_or_else(|| USAGE_SPOOL_BYTES.max(smallest));
    Ok(ranged("usage-spool-bytes", all, (smallest, 1 << 50))? / workers)
}

fn call_log_age_ms(hours: Option<u64>) -> Result<u64, ConfigError> {
    let hours = hours.unwrap_or(CALL_LOG_HOURS);
    Ok(ranged("call-log-hours", hours, (1, CALL_LOG_HOURS_MAX))? * HOUR_MS)
}

fn timers(options: &Options) -> Result<Timers, ConfigError> {
    let default = Timers::default();
    let heartbeat = options.heartbeat_ms.unwrap_or(default.heartbeat_ms);
    let min = options.election_min_ms.unwrap_or(default.election_min_ms);
    let max = options.election_max_ms.unwrap_or(default.election_max_ms);
    ranged("heartbeat-ms", heartbeat, (10, TIMER_MS_MAX))?;
    ranged("election-max-ms", max, (10, TIMER_MS_MAX))?;
    if heartbeat >= min || min >= max {
        return Err(ConfigError::Timers {
            heartbeat,
            min,
            max,
        });
    }
    Ok(Timers {
        heartbeat_ms: heartbeat,
        election_min_ms: min,
        election_max_ms: max,
    })
}

fn stale(options: &Options) -> Result<StaleRules, ConfigError> {
    let default = StaleRules::default();
    let after = match options.stale_after.as_deref() {
        None => default.after,
        Some(text) => time("stale-after", text)?,
    };
    let deny = match options.stale_deny.as_deref() {
        None => default.deny.map(|deny| deny.max(after)),
        Some(NEVER) => None,
        Some(text) => Some(time("stale-deny", text)?),
    };
    if let Some(deny) = deny
        && deny < after
    {
        let text = |time: Duration| format_duration(u64::try_from(time.as_millis()).unwrap_or(0));
        return Err(ConfigError::StaleOrder {
            after: text(after),
            deny: text(deny),
        });
    }
    Ok(StaleRules { after, deny })
}

fn time(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    let refused = |problem| ConfigError::Time {
        flag,
        value: text.to_owned(),
        problem,
    };
    let ms = parse_duration(text).map_err(refused)?;
    if !(STALE_MS_MIN..=STALE_MS_MAX).contains(&ms) {
        return Err(refused("give 1s to 30d".to_owned()));
    }
    Ok(Duration::from_millis(ms))
}

fn ranged(flag: &'static str, value: u64, (min, max): (u64, u64)) -> Result<u64, ConfigError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::Range {
            flag,
            value,
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            data_dir: Some(PathBuf::from("/data")),
            cluster_secret_file: Some(PathBuf::from("/secret")),
            ..Options::default()
        }
    }

    fn refusal(options: Options) -> String {
        Settings::resolve(options).unwrap_err().to_string()
    }

    #[test]
    fn without_a_cluster_it_is_a_cluster_of_one_on_loopback() {
        let settings = Settings::resolve(options()).unwrap();
        assert_eq!((settings.node_id, settings.initial_cluster), (None, None));
        assert_eq!(settings.gateway.bind.to_string(), GATEWAY_ADDR);
        assert_eq!(settings.admin.bind.to_string(), ADMIN_ADDR);
        assert_eq!(settings.peer.bind.to_string(), PEER_ADDR);
    }

    #[test]
    fn a_node_of_a_cluster_must_say_which_one_it_is() {
        let cluster = Some("1=127.0.0.1:7071,2=127.0.0.2:7071".to_owned());
        let with = |node_id| Options {
            initial_cluster: cluster.clone(),
            node_id,
            ..options()
        };
        assert!(refusal(with(None)).contains("say which node"));
        assert!(refusal(with(Some(3))).contains("not one of --initial-cluster"));
        assert!(refusal(with(Some(0))).contains("begin at 1"));
        let settings = Settings::resolve(with(Some(2))).unwrap();
        assert_eq!(settings.peer.advertise.as_deref(), Some("127.0.0.2:7071"));
    }

    #[test]
    fn a_node_that_joins_says_where_with_what_and_nothing_of_a_first_start() {
        let joining = || Options {
            join: Some("127.0.0.1:7071".to_owned()),
            join_token: Some("mej-x".to_owned()),
            cluster_secret_file: None,
            ..options()
        };
        let settings = Settings::resolve(joining()).unwrap();
        assert_eq!(settings.node_id, None);
        assert_eq!(
            settings.secret.path(),
            std::path::Path::new("/data/cluster.secret")
        );
        assert!(!format!("{settings:?}").contains("mej-x"));
        let alone = Options {
            join_token: None,
            ..joining()
        };
        assert!(refusal(alone).contains("--join-token"));
        let both = Options {
            initial_cluster: Some("1=127.0.0.1:7071".to_owned()),
            node_id: Some(1),
            ..joining()
        };
        assert!(refusal(both).contains("--initial-cluster"));
        let numbered = Options {
            node_id: Some(4),
            ..joining()
        };
        assert!(refusal(numbered).contains("does not go with --join"));
    }

    #[test]
    fn being_cut_off_is_told_before_keys_are_refused() {
        let with = |after: &str, deny: &str| Options {
            stale_after: Some(after.to_owned()),
            stale_deny: Some(deny.to_owned()),
            ..options()
        };
        let rules = Settings::resolve(options()).unwrap().stale;
        assert_eq!(rules, StaleRules::default());
        let never = Settings::resolve(with("2m", "never")).unwrap().stale;
        assert_eq!(never.after, Duration::from_mins(2));
        assert_eq!(never.deny, None);
        assert!(
            refusal(with("1h", "30s")).contains("--stale-after 1h is longer than --stale-deny 30s")
        );
        assert!(
            refusal(with("1s", "soon")).starts_with("--stale-deny soon: `soon` is not a duration")
        );
        assert!(refusal(with("10ms", "never")).contains("give 1s to 30d"));
        assert!(refusal(with("never", "never")).starts_with("--stale-after never"));
    }

    #[test]
    fn what_is_out_of_range_or_incomplete_is_refused_by_name() {
        let workers = Options {
            gateway_workers: Some(0),
            ..options()
        };
        assert!(refusal(workers).starts_with("--gateway-workers 0"));
        let timers = Options {
            heartbeat_ms: Some(600),
            ..options()
        };
        assert!(refusal(timers).contains("--heartbeat-ms 600 < --election-min-ms 500"));
        let pki = Options {
            peer_cert: Some(PathBuf::from("c")),
            ..options()
        };
        assert!(refusal(pki).contains("all three or none"));
        let spool = Options {
            gateway_workers: Some(2),
            usage_spool_bytes: Some(5),
            ..options()
        };
        assert!(refusal(spool).starts_with("--usage-spool-bytes 5"));
        let nowhere = Options {
            data_dir: None,
            ..options()
        };
        assert!(refusal(nowhere).starts_with("--data-dir is missing"));
    }
}

//! Every bound of the replicated state, in one place, so that no message can make a replica allocate without end.
//!
//! What a user sends is refused beyond these by `decide`; what stands in the log is held to them again by `apply`.

/// Newest version of log messages that this build writes and reads; a cluster starts at it.
pub const FORMAT_VERSION: u32 = 1;

// === Counts of objects ===

/// Tenants of a cluster.
pub const TENANTS: usize = 10_000;
/// Consumers of a cluster.
pub const CONSUMERS: usize = 100_000;
/// Providers of a cluster.
pub const PROVIDERS: usize = 1_000;
/// Models of a cluster.
pub const MODELS: usize = 10_000;
/// Services of a cluster.
pub const SERVICES: usize = 10_000;
/// Routes of a cluster.
pub const ROUTES: usize = 10_000;
/// Limits of a cluster.
pub const LIMITS: usize = 10_000;
/// Limits that one request may match.
pub const MATCHED_LIMITS: usize = 16;
/// How many of these may be its tenant's own, so that no tenant takes the place of the operator's.
pub const MATCHED_OWN_LIMITS: usize = 8;
/// API keys of a cluster.
pub const KEYS: usize = 200_000;
/// Admin tokens of a cluster.
pub const TOKENS: usize = 1_000;

/// Join tokens of a cluster that are not expired.
pub const JOIN_TOKENS: usize = 100;
/// Nodes of a cluster at one time.
pub const MEMBERS: usize = 64;
/// Node ids that a cluster may ever use: as many as it keeps usage streams.
pub const NODE_IDS: u64 = STREAMS as u64;

// === Counts within an object or a message ===

/// Objects in one `Put`.
pub const PUT_OBJECTS: usize = 20_000;
/// Events in one change set: one for every object of a `Put`.
pub const EVENTS_PER_CHANGE_SET: usize = PUT_OBJECTS;
/// Violations that one refusal lists; what is beyond is only counted.
pub const VIOLATIONS: usize = 100;
/// Endpoints of a service.
pub const ENDPOINTS: usize = 256;
/// Credentials of a provider.
pub const PROVIDER_KEYS: usize = 16;
/// Hosts of a route.
pub const ROUTE_HOSTS: usize = 32;
/// Paths of a route.
pub const ROUTE_PATHS: usize = 32;
/// Methods of a route.
pub const ROUTE_METHODS: usize = 7;
/// Hosts times paths of a route, since each pair is one entry of the routing table.
pub const ROUTE_PATTERNS: usize = 256;
/// Hosts of a tenant.
pub const TENANT_HOSTS: usize = 256;
/// Tenants that share a service.
pub const SERVICE_ACCESS: usize = 1_000;
/// Requests of clients whose answers are remembered.
pub const REQUESTS: usize = 10_000;
/// Lines of all their answers together.
pub const REQUEST_LINES: usize = 200_000;
/// Entries of a model's access list.
pub const ACCESS_ENTRIES: usize = 1_000;

// === Lengths of text, in bytes ===

/// A name.
pub const NAME: usize = 63;
/// A URL.
pub const URL: usize = 2_048;
/// A host name.
pub const HOST: usize = 253;
/// A path of a route.
pub const PATH: usize = 1_024;
/// A provider's own name of a model.
pub const UPSTREAM_MODEL: usize = 256;
/// A dimension of a usage series.
pub const DIMENSION: usize = 256;
/// A peer address: the longest host name, and a port.
pub const PEER_ADDRESS: usize = HOST + 6;
/// Who asked for a change set.
pub const ACTOR: usize = 256;
/// What a change set says it was asked for as.
pub const ORIGIN: usize = 64;
/// The cluster's encryption key, wrapped.
pub const WRAPPED_KEY: usize = 1_024;
/// The ciphertext of one secret.
pub const CIPHERTEXT: usize = 16_384;

// === Amounts ===

/// Largest amount of a limit, and most that its bucket holds: sums of a cluster's worth of them fit 64 bits.
pub const LIMIT_AMOUNT: u64 = 1_000_000_000_000_000;

// === Times and prices ===

/// Longest timeout: one hour, in milliseconds.
pub const TIMEOUT_MS: u64 = 3_600_000;
/// Longest time for which a rotated key's old secret is still accepted: 30 days, in milliseconds.
pub const GRACE_MS: u64 = 30 * 86_400_000;
/// Shortest and longest time for which a join token is valid: one second and one hour, in milliseconds.
pub const JOIN_TOKEN_MS: (u64, u64) = (1_000, 3_600_000);
/// Highest price: one dollar per token, in pico-dollars.
pub const PRICE_PICO_USD: u64 = 1_000_000_000_000;

/// By so much the tokens of one tenant may make the history grow in a day of the log's wall clock: each change set counts with
/// its bytes and [`RECORD_BYTES`].
pub const TENANT_HISTORY_BYTES: u64 = 8 << 20;
/// What keeping one record of the history takes beside its change set.
pub const RECORD_BYTES: u64 = 128;
/// Providers whose secrets one command seals anew.
pub const RESEALED_PROVIDERS: usize = PROVIDERS;

/// How long an answer is remembered, by the wall clock of the log: one hour, in milliseconds.
pub const REQUEST_MS: u64 = 3_600_000;

// === Usage ===

/// Nodes that ever had a usage stream.
pub const STREAMS: usize = 1_024;
/// Spools of one node.
pub const SPOOLS: usize = 256;
/// Rows of one usage batch.
pub const BATCH_ROWS: usize = 16_384;
/// Series that one usage batch refers to.
pub const BATCH_SERIES: usize = 16_384;
/// How far ahead of the state's wall clock a row may be, in milliseconds.
pub const ROW_AHEAD_MS: u64 = 5_000;
/// Minutes are kept for 48 hours.
pub const MINUTES_KEPT: u32 = 48 * 60;
/// Hours are kept for 35 days.
pub const HOURS_KEPT: u32 = 35 * 24;
/// Days are kept for 400 days.
pub const DAYS_KEPT: u32 = 400;
/// Series in all that keep every dimension; `usage/series.rs` says what happens beyond.
pub const SERIES: u32 = 100_000;
/// Series at minute resolution, over the minutes kept, that keep every dimension.
pub const MINUTE_SERIES: u32 = 20_000;
/// Series of usage by node that keep every dimension; `usage/nodes/dictionary.rs` says what happens beyond.
pub const NODE_SERIES: u32 = 10_000;
/// Rows of one report.
pub const REPORT_ROWS: usize = 100_000;
/// Filters of one query.
pub const QUERY_FILTERS: usize = 100;

// === Limits of use ===

/// Amounts that the cluster shares: one per limit, or per value of its `each`.
pub const POOLS: usize = 200_000;
/// Leases of all pools.
pub const LEASES: usize = 1_000_000;
/// Leases of one pool in one window.
pub const POOL_LEASES: usize = 256;
/// Windows that are over and have leases still.
pub const WINDOWS_OVER: usize = 200_000;
/// Old incarnations of one node that have leases still.
pub const UNFINISHED: usize = 64;
/// Leases that one usage batch reports on.
pub const BATCH_USES: usize = 16_384;
/// Asks of one usage batch.
pub const BATCH_ASKS: usize = 4_096;
/// Items of all asks of one usage batch.
pub const BATCH_ASK_ITEMS: usize = 16_384;
/// A value of a limit's `each`, qualified, in bytes.
pub const EACH_VALUE: usize = 2 * DIMENSION + 1;

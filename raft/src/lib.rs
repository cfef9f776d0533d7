//! How Mode Envoy nodes agree: a replicated log over our write-ahead log and mutual TLS.
//!
//! ```text
//! Handle::propose -> find the leader -> Proposer: decide, batch -> log, quorum -> apply: entry -> State -> watchers
//! Handle::read_barrier -> find the leader -> read index -> wait until applied
//! ```
//!
//! Reading order: who a node is and how it finds the others ([`secret`], [`identity`], [`channels`], [`peer_server`],
//! [`data_dir`], [`formation`]); what the consensus library works on (`types`, `machine`, `convert`, `log_store`, `checkpoint`,
//! `apply`, `state_machine`, `peers`, `snapshot`, `contact`, `network`, `raft_service`); how proposals and reads reach the
//! leader (`clock`, `proposal`, `reads`, `proposer`, `forward`, `forward_service`); `calls`, which the log knows nothing of;
//! how nodes come and go, and leadership moves ([`join`], `members`); [`cluster`], which puts it together; and
//! [`backup`], which takes the state elsewhere.

pub mod backup;
pub mod channels;
pub mod data_dir;
pub mod formation;
pub mod identity;
pub mod join;
pub mod peer_server;
pub mod secret;

mod apply;
mod checkpoint;
mod contact;
mod convert;
mod log_store;
mod machine;
mod network;
mod peers;
mod pools;
mod raft_service;
mod snapshot;
mod state_machine;
mod types;

mod calls;
mod clock;
mod forward;
mod forward_service;
mod members;
mod proposal;
mod proposer;
mod reads;
mod rotation;
mod tasks;

pub mod cluster;

#[cfg(feature = "sim")]
pub mod sim;

pub use calls::CallRecords;
pub use checkpoint::CheckpointStats;
pub use cluster::{
    Addresses, Alarms, BoxFuture, Ending, Flush, Handle, HistoryHead, Hooks, MadeJoinToken,
    MemberRole, MemberStatus, Pending, Settings, StartError, Status, Timers, Unsettled, WouldStall,
    start,
};
pub use contact::{BootMs, Contact};
pub use convert::{UnreadableChangeSet, read_change_set};
pub use formation::{Phase, Waiting};
pub use identity::PeerPki;
pub use members::{Departure, TransferError};
pub use pools::{PoolChanges, PoolWatch};
pub use proposal::{Accepted, Authorize, Caller, ProposeError};
pub use rotation::RotationReport;
pub use secret::{ClusterSecret, HeldSecrets};

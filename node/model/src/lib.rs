//! The replicated state of a cluster, as values: nothing here reads a clock, a file or a socket.
//!
//! ```text
//! Command --decide(catalog, now)--> Events | Rejected        (on the leader)
//! Batch   --State::apply(index)--->  Outcome per item        (on every node, deterministic, total)
//! ```
//!
//! Reading order: the objects, what may be asked ([`command`]), what happened ([`event`]), the [`catalog`] they
//! add up to, the [`history`] that keeps every change set, the [`requests`] that were answered, the [`usage`] cells beside it, the [`ledger`] of limits, the [`state`] that applies
//! batches to all of them, and the [`checkpoint`] that it is taken apart into.

pub mod limits;
pub mod object;
pub mod url;

mod check;

pub mod consumer;
pub mod key;
pub mod limit;
pub mod member;
pub mod model;
pub mod price;
pub mod provider;
pub mod route;
pub mod service;
pub mod tenant;
pub mod token;

pub mod command;
pub mod event;

pub mod catalog;
pub mod growth;
pub mod history;
pub mod ledger;
pub mod requests;
pub mod restored;
pub mod rotation;
pub mod usage;

pub mod adopt;
pub mod batch;
pub mod checkpoint;
pub mod state;

//! What limits promise, held against a model of the replicated side.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the model counts small numbers, and draws times from distributions"
)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of a test may panic like the test itself"
)]

mod arb;
mod cluster;
mod ledger;

mod headers;
mod histories;
mod modes;
mod node;
mod simulation;
mod threads;
mod waiting;

//! The laws of the replicated state, as tests on its public interface.
//!
//! Properties run on generated input; proptest prints the smallest input that breaks one. Nothing is persisted.
#![cfg(test)]

mod adopt;
mod arb;
mod samples;
mod usage_samples;

mod catalog;
mod credentials;
mod decide;
mod exactly_once;
mod folding;
mod growth;
mod histogram;
mod history;
mod ledger;
mod limits;
mod matching;
mod members;
mod queries;
mod questions;
mod replace;
mod replay;
mod requests;
mod retention;
mod rotation;
mod scope;
mod stream_faults;

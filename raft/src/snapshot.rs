//! A leader's checkpoint on its way to a member that the log alone no longer helps.
//!
//! ```text
//! leader                                               member
//! hold the checkpoint
//! offer: meta, names and hashes of all chunks   ->     judge sender, place and limits; look which chunks are here
//!                                               <-     wanted
//! pieces of what is wanted, at a pace           ->     <hash>.part, checked, synced, named
//!                                                      manifest durable, then installed
//! release                                       <-     the member's vote
//! ```
//!
//! Invariants:
//! * neither side holds more in memory than one chunk (the sender) or one piece (the receiver);
//! * the member's checkpoint is durable before consensus hears of it, since consensus then drops the log before it;
//! * it goes over a connection of its own and at a pace, so that heartbeats and entries do not wait behind it;
//! * everything that the offer claims is bounded before anything is made of it.

mod receive;
mod send;

pub(crate) use receive::{Answers, Receiver};
pub(crate) use send::{SendError, Sender};

/// The version of the exchange.
const FORMAT_VERSION: u32 = 1;

/// The most bytes of one piece.
const PIECE_BYTES: usize = 512 * 1024;

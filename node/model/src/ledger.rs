//! The ledger: how much of every limit is free, leased to a node, settled or burned.
//!
//! A node spends nothing but what a committed entry moved from `free` to its lease, so that no partition, crash,
//! duplicate or change of leader can make a cluster admit more than the amount (escrow: O'Neil 1986; demarcation:
//! Barbará and Garcia-Molina 1994; bounded counters: Balegas et al. 2015). For every pool and window, after every entry:
//!
//! ```text
//! free + settled + burned + outstanding of all leases = cap          outstanding = granted - returned - settled
//! ```

pub mod ask;
pub mod view;

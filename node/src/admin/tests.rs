//! What callers of the admin listener get, over real connections and a real cluster of one.

mod calls;
mod harness;
mod listener;
mod records;
mod retries;
mod streams;

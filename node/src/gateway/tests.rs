//! The data plane as its clients and upstreams see it, in memory and in paused time.

mod ai_test;
mod drain_test;
mod embeddings_test;
mod h2_test;
mod limits_test;
mod proxy_test;
mod refusals_test;
mod sockets_test;
mod stale_test;

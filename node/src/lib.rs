//! What a node does: it proxies on its own, and agrees with the others on everything that must be the same.
//!
//! Reading order: `app` starts everything in order. A request goes through [`gateway`] and [`upstream`]; what it
//! used goes through [`usage`] into the log. A change comes from [`cli`] through [`admin`] to [`control`], and from
//! the log back into the gateway's table. Around them: [`config`] (this process's settings), [`secrets`],
//! [`supervisor`], [`readiness`], [`freshness`], [`tls`],
//! [`telemetry`] and [`metrics`].

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "Mode Envoy runs on Linux on x86_64 and aarch64: it maps its usage spools and relies on their order of writes"
);

pub(crate) mod alarms;
pub(crate) mod app;
pub mod config;
pub(crate) mod descriptors;
pub mod supervisor;

pub mod gateway;
pub mod upstream;
pub mod usage;

pub mod admin;
pub mod control;
pub mod secrets;

pub mod freshness;
pub mod metrics;
pub mod readiness;
pub mod telemetry;
pub mod tls;

pub mod cli;
pub mod context;
pub mod demo;

pub use cli::main;

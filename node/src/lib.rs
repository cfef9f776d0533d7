//! What a node does: it proxies on its own, and agrees with the others on everything that must be the same.
//!
//! Reading order: `app` starts everything in order. A request goes through [`gateway`] and [`upstream`]; what it
//! used goes through [`usage`] into the log. A change comes from [`cli`] through [`admin`] to [`control`], and from
//! the log back into the gateway's table. Around them: [`config`] (this process's settings), [`secrets`],
//! [`supervisor`], [`readiness`], [`freshness`], [`tls`],
//! [`telemetry`] and [`metrics`].
//!
//! With the feature `sim` there is only [`usage`] and what it needs: a simulation has its own gateway.

#![cfg_attr(
    feature = "sim",
    expect(
        dead_code,
        unused_imports,
        reason = "the simulation uses a part of what a node does with usage"
    )
)]

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "Mode Envoy runs on Linux on x86_64 and aarch64: it maps its usage spools and relies on their order of writes"
);

pub(crate) mod alarms;
#[cfg(not(feature = "sim"))]
pub(crate) mod app;
#[cfg(not(feature = "sim"))]
pub mod config;
#[cfg(not(feature = "sim"))]
pub(crate) mod descriptors;
pub mod supervisor;

#[cfg(not(feature = "sim"))]
pub mod gateway;
pub mod limits;
#[cfg(not(feature = "sim"))]
pub mod upstream;
pub mod usage;

#[cfg(not(feature = "sim"))]
pub mod admin;
#[cfg(not(feature = "sim"))]
pub mod control;
pub mod secrets;

#[cfg(not(feature = "sim"))]
pub mod freshness;
pub mod metrics;
#[cfg(not(feature = "sim"))]
pub mod readiness;
#[cfg(not(feature = "sim"))]
pub mod telemetry;
#[cfg(not(feature = "sim"))]
pub mod tls;

#[cfg(not(feature = "sim"))]
pub mod cli;
#[cfg(not(feature = "sim"))]
pub mod context;
#[cfg(not(feature = "sim"))]
pub mod demo;

#[cfg(not(feature = "sim"))]
pub use cli::main;

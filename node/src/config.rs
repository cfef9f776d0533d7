//! This process's settings: what `serve` is told by flags, by the environment and by a file.
//!
//! A flag wins over its environment variable (`MODE_ENVOY_` and the flag's name), which wins over the file (a TOML
//! key by the flag's name), which wins over the default. The replicated configuration is something else: the
//! catalog.
//!
//! Invariant: what [`Settings`] holds is checked and complete; nothing that runs later asks the environment again.

mod error;
mod listener;
mod options;
mod secret;
mod settings;

pub use error::ConfigError;
pub use listener::{Listener, ListenerKind, Protection, TlsFiles};
pub use options::{LogFormat, Options};
pub use secret::SecretFile;
pub use settings::{Join, LogSettings, Settings};

//! The wire contracts of Mode Envoy, generated from `proto/` at build time.
//!
//! * [`log`]: what the replicated log and the checkpoints hold. Tags are permanent; `tests/golden.rs` keeps the
//!   bytes of every message ever shipped.
//! * [`peer`]: node to node, over mutual TLS.
//! * [`admin`]: the API of operators and scripts, served with reflection.

/// Messages of the replicated log and of checkpoints.
pub mod log {
    /// Version 1.
    #[expect(clippy::large_enum_variant, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("modeenvoy.log.v1");
    }
}

/// Node-to-node services.
pub mod peer {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("modeenvoy.peer.v1");
    }
}

/// The admin API.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("modeenvoy.admin.v1");
    }
}

/// Descriptors of every file above, for gRPC reflection and the golden tests.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

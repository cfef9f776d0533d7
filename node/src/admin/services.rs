//! Which gRPC services are served: the API, reflection over it, and the standard health service.

use mode_envoy_proto::FILE_DESCRIPTOR_SET;
use mode_envoy_proto::admin::v1::audit_server::AuditServer;
use mode_envoy_proto::admin::v1::calls_server::CallsServer;
use mode_envoy_proto::admin::v1::cluster_server::ClusterServer;
use mode_envoy_proto::admin::v1::config_server::ConfigServer;
use mode_envoy_proto::admin::v1::keys_server::KeysServer;
use mode_envoy_proto::admin::v1::limits_server::LimitsServer;
use mode_envoy_proto::admin::v1::tokens_server::TokensServer;
use mode_envoy_proto::admin::v1::usage_server::UsageServer;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::{Builder, Error};

use super::MAX_MESSAGE_BYTES;

/// The services that reflection lists and health speaks of.
pub(super) const SERVICES: [&str; 8] = [
    "modeenvoy.admin.v1.Config",
    "modeenvoy.admin.v1.Keys",
    "modeenvoy.admin.v1.Tokens",
    "modeenvoy.admin.v1.Usage",
    "modeenvoy.admin.v1.Cluster",
    "modeenvoy.admin.v1.Audit",
    "modeenvoy.admin.v1.Calls",
    "modeenvoy.admin.v1.Limits",
];
const HEALTH: &str = "grpc.health.v1.Health";

/// The API, without state of its own: each call brings its [`Call`](super::gate::Call).
#[derive(Clone, Copy, Debug)]
pub(super) struct Api;

/// Keeps gRPC health at what readiness says.
pub(super) struct Health(HealthReporter);

// === impl Health ===

impl Health {
    pub(super) async fn follow(&self, ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in SERVICES.into_iter().chain([""]) {
            self.0.set_service_status(service, status).await;
        }
    }
}

// === free functions ===

/// All services.
pub(super) fn routes() -> Result<(Health, Routes), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::builder();
    routes
        .add_service(limited!(ConfigServer))
        .add_service(limited!(KeysServer))
        .add_service(limited!(TokensServer))
        .add_service(limited!(UsageServer))
        .add_service(limited!(ClusterServer))
        .add_service(limited!(AuditServer))
        .add_service(limited!(CallsServer))
        .add_service(limited!(LimitsServer))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok((Health(reporter), routes.routes()))
}

/// The packages of the log and of the peers are not part of this listener, so only these services are listed.
fn reflection() -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    SERVICES
        .into_iter()
        .chain([HEALTH])
        .fold(builder, Builder::with_service_name)
}

/// The generated servers share no trait for their limits.
macro_rules! limited {
    ($server:ident) => {
        $server::new(Api)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    };
}
use limited;

//! The service `Keys`.

use mode_envoy_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::convert;
use super::gate::{call_of, change_of};
use super::services::Api;
use super::status::to_status;
use crate::control::{Grace, NewKey, ShownKey};

#[tonic::async_trait]
impl pb::keys_server::Keys for Api {
    async fn create_key(
        &self,
        request: Request<pb::CreateKeyRequest>,
    ) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let call = change_of(&request)?;
        let asked = request.into_inner();
        let new = NewKey {
            tenant: &asked.tenant,
            consumer: &asked.consumer,
            name: &asked.name,
            expires_in_seconds: asked.expires_in_seconds,
        };
        let shown = call.control.create_key(&call.who, new).await;
        shown.as_ref().map(shown_key).map_err(to_status)
    }

    async fn list_keys(
        &self,
        request: Request<pb::ListKeysRequest>,
    ) -> Result<Response<pb::ListKeysResponse>, Status> {
        let call = call_of(&request)?;
        let pb::ListKeysRequest {
            tenant,
            consumer,
            local,
        } = request.into_inner();
        let listed = call
            .control
            .list_keys(&call.who, &tenant, &consumer, local)
            .await;
        let (keys, revision) = listed.map_err(|error| to_status(&error))?;
        let keys = keys.iter().map(|key| convert::key(key)).collect();
        Ok(Response::new(pb::ListKeysResponse { keys, revision }))
    }

    async fn rotate_key(
        &self,
        request: Request<pb::RotateKeyRequest>,
    ) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let call = change_of(&request)?;
        let pb::RotateKeyRequest {
            tenant,
            name,
            grace_seconds,
        } = request.into_inner();
        let grace = Grace {
            seconds: grace_seconds,
        };
        let shown = call
            .control
            .rotate_key(&call.who, &tenant, &name, grace)
            .await;
        shown.as_ref().map(shown_key).map_err(to_status)
    }

    async fn revoke_key(
        &self,
        request: Request<pb::RevokeKeyRequest>,
    ) -> Result<Response<pb::RevokeKeyResponse>, Status> {
        let call = change_of(&request)?;
        let pb::RevokeKeyRequest { tenant, name } = request.into_inner();
        let revoked = call.control.revoke_key(&call.who, &tenant, &name).await;
        let revision = revoked.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RevokeKeyResponse { revision }))
    }
}

fn shown_key(shown: &ShownKey) -> Response<pb::CreateKeyResponse> {
    Response::new(pb::CreateKeyResponse {
        key: Some(convert::key(&shown.key)),
        secret: shown.secret.expose().to_owned(),
        revision: shown.revision,
    })
}

//! The service `Tokens`.

use mode_envoy_model::token::Token;
use mode_envoy_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::gate::{call_of, change_of};
use super::services::Api;
use super::status::to_status;
use crate::control::authorize::role_name;
use crate::control::format_ms;

#[tonic::async_trait]
impl pb::tokens_server::Tokens for Api {
    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let call = change_of(&request)?;
        let pb::CreateTokenRequest { name, role, tenant } = request.into_inner();
        let shown = call
            .control
            .create_token(&call.who, &name, &role, &tenant)
            .await;
        let shown = shown.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::CreateTokenResponse {
            name: shown.token.name.to_string(),
            role: role_name(shown.token.role).to_owned(),
            token: shown.secret.expose().to_owned(),
            revision: shown.revision,
            tenant: tenant_name(&shown.token),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let call = call_of(&request)?;
        let listed = call
            .control
            .list_tokens(&call.who, request.into_inner().local)
            .await;
        let (tokens, revision) = listed.map_err(|error| to_status(&error))?;
        let tokens = tokens
            .iter()
            .map(|token| pb::Token {
                name: token.name.to_string(),
                role: role_name(token.role).to_owned(),
                created: format_ms(token.created_ms),
                tenant: tenant_name(token),
            })
            .collect();
        Ok(Response::new(pb::ListTokensResponse { tokens, revision }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let call = change_of(&request)?;
        let revoked = call
            .control
            .revoke_token(&call.who, &request.into_inner().name)
            .await;
        let revision = revoked.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RevokeTokenResponse { revision }))
    }
}

/// Empty for a token of the whole cluster.
fn tenant_name(token: &Token) -> String {
    token.tenant.as_deref().unwrap_or_default().to_owned()
}

//! Who may do what: the one place that knows roles, and what a token of one tenant may see and change.
//!
//! ```text
//! every call: admit (a rule for each method) -> control: check the role, narrow what is seen -> command: check_command
//!                                                              the leader: the same of the command, on its own catalog
//! ```
//!
//! * A change is authorised twice: by the node that the caller reached, and again by the leader ([`hook`]) against the
//!   catalog that the change is decided on, so that a token revoked in between changes nothing.
//! * A token of a tenant never learns of anything else: what is not its tenant's is not there.
//! * A method without a rule is closed to tokens of a tenant.

mod rules;
mod tenant;

use std::sync::Arc;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Change, Command, Rejected, RejectedCode, Violation};
use mode_envoy_model::token::Role;
use mode_envoy_raft::{Authorize, Caller};

use super::{ControlError, Principal};

/// What a caller may want.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// See configuration, keys (never their secrets) or usage.
    Read,
    /// See what the cluster as a whole does and has recorded.
    ReadCluster,
    /// Create, change or delete configuration.
    ChangeConfig,
    /// Make the configuration what it was.
    Rollback,
    /// Create, rotate or revoke API keys.
    ChangeKeys,
    /// See, create or revoke admin tokens.
    Tokens,
    /// Add or remove nodes, or move leadership.
    Members,
    /// Take the whole state away.
    Backup,
    /// Replace the cluster secret.
    Secret,
    /// What only the cluster itself does.
    Internal,
}

// === impl Action ===

impl Action {
    /// The least role that may do it; `None` where no person may.
    pub const fn needs(self) -> Option<Role> {
        match self {
            Self::Read | Self::ReadCluster => Some(Role::Viewer),
            Self::ChangeConfig | Self::Rollback | Self::ChangeKeys => Some(Role::Admin),
            Self::Tokens | Self::Members | Self::Backup | Self::Secret => Some(Role::Root),
            Self::Internal => None,
        }
    }

    /// Whether a token of a tenant may do it, to what is the tenant's.
    pub const fn is_for_tenants(self) -> bool {
        match self {
            Self::Read | Self::ChangeConfig | Self::ChangeKeys => true,
            Self::ReadCluster
            | Self::Rollback
            | Self::Tokens
            | Self::Members
            | Self::Backup
            | Self::Secret
            | Self::Internal => false,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::ReadCluster => "reading about the cluster as a whole",
            Self::ChangeConfig => "changing configuration",
            Self::Rollback => "rolling back",
            Self::ChangeKeys => "changing API keys",
            Self::Tokens => "managing admin tokens",
            Self::Members => "changing the cluster's nodes",
            Self::Backup => "backing up the cluster",
            Self::Secret => "replacing the cluster secret",
            Self::Internal => "this",
        }
    }

    const fn of(command: &Command) -> Self {
        match command {
            // A join is authorised by the token that it shows.
            Command::Found { .. }
            | Command::RaiseFormat { .. }
            | Command::Join { .. }
            | Command::AdvanceRotation { .. }
            | Command::Reseal { .. } => Self::Internal,
            Command::BeginRotation(_) | Command::AbortRotation => Self::Secret,
            Command::CreateJoinToken { .. } | Command::RemoveNode { .. } => Self::Members,
            Command::Put { .. } | Command::Prune { .. } | Command::Delete(_) => Self::ChangeConfig,
            Command::Rollback { .. } => Self::Rollback,
            Command::CreateKey(_) | Command::RotateKey { .. } | Command::RevokeKey { .. } => {
                Self::ChangeKeys
            }
            Command::CreateToken(_) | Command::RevokeToken { .. } => Self::Tokens,
        }
    }
}

// === free functions ===

/// Whether a role allows an action.
///
/// # Errors
///
/// [`ControlError::Rejected`] with [`RejectedCode::Forbidden`], saying which role it takes.
pub fn check(role: Role, action: Action) -> Result<(), ControlError> {
    match refusal(role, action) {
        Some(refusal) => Err(ControlError::Rejected(refusal)),
        None => Ok(()),
    }
}

/// Whether a caller may call a method of the API at all, such as `Config/Apply`.
///
/// # Errors
///
/// [`ControlError::Rejected`] with [`RejectedCode::Forbidden`], saying what it takes.
pub fn admit(who: &Principal, method: &str) -> Result<(), ControlError> {
    match (rules::action_of(method), &who.tenant) {
        (Some(action), tenant) => allowed(who.role, tenant.as_deref(), action),
        // What no rule speaks of is no method, or says itself what it takes of a token of the cluster.
        (None, None) => Ok(()),
        (None, Some(tenant)) => Err(of_the_cluster("this", tenant)),
    }
    .map_err(ControlError::Rejected)
}

/// Whether a caller may see what is about the cluster as a whole: its metrics.
///
/// # Errors
///
/// As [`admit`].
pub fn admit_to_metrics(who: &Principal) -> Result<(), ControlError> {
    let allowed = allowed(who.role, who.tenant.as_deref(), Action::ReadCluster);
    allowed.map_err(ControlError::Rejected)
}

/// Whether a caller may give a command, as far as the catalog of this node tells.
///
/// # Errors
///
/// [`ControlError::Rejected`]: forbidden, or not found where it is not the tenant's of the caller's token.
pub fn check_command(
    who: &Principal,
    catalog: &Catalog,
    command: &Command,
) -> Result<(), ControlError> {
    let refused = may_give(who.role, who.tenant.as_deref(), catalog, command);
    refused.map_err(ControlError::Rejected)
}

/// Whether a caller may see what a command would do; its role may be too low to give it.
///
/// # Errors
///
/// Not found, where it is not the tenant's of the caller's token.
pub fn check_seen(
    who: &Principal,
    catalog: &Catalog,
    command: &Command,
) -> Result<(), ControlError> {
    match &who.tenant {
        Some(tenant) => {
            tenant::check_command(tenant, catalog, command).map_err(ControlError::Rejected)
        }
        None => Ok(()),
    }
}

/// Whether a caller may name a tenant in a question; an empty name is none.
///
/// # Errors
///
/// There is no such tenant for a token of another one.
pub fn check_named_tenant(who: &Principal, tenant: &str) -> Result<(), ControlError> {
    match &who.tenant {
        Some(own) if !tenant.is_empty() && **own != *tenant => {
            Err(ControlError::Rejected(tenant::no_tenant("tenant", tenant)))
        }
        _ => Ok(()),
    }
}

/// The tenant that a question is about: the one that is named, or the caller's own; empty for all.
///
/// # Errors
///
/// As [`check_named_tenant`].
pub fn narrowed<'a>(who: &'a Principal, tenant: &'a str) -> Result<&'a str, ControlError> {
    check_named_tenant(who, tenant)?;
    Ok(who.tenant.as_deref().unwrap_or(tenant))
}

/// What a caller sees of a catalog.
pub fn seen_by(who: &Principal, catalog: Arc<Catalog>) -> Arc<Catalog> {
    match &who.tenant {
        Some(tenant) => Arc::new(catalog.of_tenant(tenant)),
        None => catalog,
    }
}

/// Whether a caller sees that something was changed.
pub fn sees_change(who: &Principal, change: &Change) -> bool {
    let Some(own) = &who.tenant else { return true };
    match change.kind {
        "tenant" => change.name == *own,
        _ => change.tenant.as_ref() == Some(own),
    }
}

/// What the leader asks before it decides a command.
pub fn hook() -> Authorize {
    Arc::new(leader_check)
}

fn leader_check(catalog: &Catalog, caller: &Caller, command: &Command) -> Result<(), Rejected> {
    let action = Action::of(command);
    let Some(hash) = caller.token_hash else {
        // The node itself: it founds the cluster, raises the format, lets in who has a token, and changes nothing else.
        return match action {
            Action::Internal => Ok(()),
            _ => Err(forbidden(
                "only the owner of an admin token may do this".to_owned(),
            )),
        };
    };
    let Some(token) = catalog.token_by_hash(&hash) else {
        return Err(forbidden(format!(
            "the admin token `{}` was revoked",
            caller.actor
        )));
    };
    may_give(token.role, token.tenant.as_deref(), catalog, command)
}

fn may_give(
    role: Role,
    tenant: Option<&str>,
    catalog: &Catalog,
    command: &Command,
) -> Result<(), Rejected> {
    allowed(role, tenant, Action::of(command))?;
    match tenant {
        Some(tenant) => tenant::check_command(tenant, catalog, command),
        None => Ok(()),
    }
}

fn allowed(role: Role, tenant: Option<&str>, action: Action) -> Result<(), Rejected> {
    if let Some(refusal) = refusal(role, action) {
        return Err(refusal);
    }
    match tenant {
        Some(tenant) if !action.is_for_tenants() => Err(of_the_cluster(action.what(), tenant)),
        _ => Ok(()),
    }
}

fn of_the_cluster(what: &str, tenant: &str) -> Rejected {
    forbidden(format!(
        "{what} takes a token of the whole cluster, and this one is of tenant {tenant}; use another token"
    ))
}

fn refusal(role: Role, action: Action) -> Option<Rejected> {
    match action.needs() {
        Some(needed) if role >= needed => None,
        Some(needed) => Some(forbidden(format!(
            "{} takes the role {}, and this token has the role {}; use another token",
            action.what(),
            role_name(needed),
            role_name(role)
        ))),
        None => Some(forbidden("only the cluster itself does this".to_owned())),
    }
}

fn forbidden(problem: String) -> Rejected {
    Rejected {
        code: RejectedCode::Forbidden,
        violations: vec![Violation {
            path: "token".to_owned(),
            problem,
        }],
    }
}

/// The name of a role.
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Admin => "admin",
        Role::Root => "root",
    }
}

#[cfg(test)]
mod tests;

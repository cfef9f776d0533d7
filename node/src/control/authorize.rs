//! Who may do what: the one place that knows roles.
//!
//! Asked twice for a change: by the node that the caller reached, and again by the leader ([`hook`]) against the catalog
//! that the change is decided on, so that a token revoked in between changes nothing.

use std::sync::Arc;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Command, Rejected, RejectedCode, Violation};
use mode_envoy_model::token::Role;
use mode_envoy_raft::{Authorize, Caller};

use super::ControlError;

/// What a caller may want.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// See configuration, keys (never their secrets), usage or the cluster's state.
    Read,
    /// Create, change or delete configuration.
    ChangeConfig,
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
            Self::Read => Some(Role::Viewer),
            Self::ChangeConfig | Self::ChangeKeys => Some(Role::Admin),
            Self::Tokens | Self::Members | Self::Backup | Self::Secret => Some(Role::Root),
            Self::Internal => None,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::ChangeConfig => "changing configuration",
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
            | Command::AdvanceRotation { .. } => Self::Internal,
            Command::BeginRotation(_) | Command::AbortRotation => Self::Secret,
            Command::CreateJoinToken { .. } | Command::RemoveNode { .. } => Self::Members,
            Command::Put { .. }
            | Command::Prune { .. }
            | Command::Rollback { .. }
            | Command::Delete(_) => Self::ChangeConfig,
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

/// Whether a role allows a command.
///
/// # Errors
///
/// As [`check`].
pub fn check_command(role: Role, command: &Command) -> Result<(), ControlError> {
    check(role, Action::of(command))
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
    refusal(token.role, action).map_or(Ok(()), Err)
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
mod tests {
    use std::collections::BTreeMap;

    use mode_envoy_model::catalog::WayBack;
    use mode_envoy_model::event::Event;
    use mode_envoy_model::object::{Kind, ObjectRef};
    use mode_envoy_model::token::Token;

    use super::*;

    const ROLES: [Role; 3] = [Role::Viewer, Role::Admin, Role::Root];

    fn token(role: Role) -> Token {
        let name = role_name(role);
        Token {
            name: name.into(),
            role,
            hash: [role as u8 + 1; 32],
            created_ms: 0,
        }
    }

    fn prune() -> Command {
        Command::Prune {
            objects: Vec::new(),
            confirmed: true,
            dry_run: false,
        }
    }

    fn rollback() -> Command {
        Command::Rollback {
            revision: 1,
            base_revision: 2,
            back: WayBack::default(),
            dry_run: true,
        }
    }

    fn every_command() -> Vec<(Command, [bool; 3])> {
        let name = || "x".into();
        let key = mode_envoy_model::key::Key {
            tenant: name(),
            consumer: name(),
            name: name(),
            id: name(),
            hash: [9; 32],
            created_ms: 0,
            expires_ms: None,
            previous: None,
        };
        let object = ObjectRef {
            kind: Kind::Tenant,
            tenant: None,
            name: name(),
        };
        let root = token(Role::Root);
        //                       viewer, admin, root
        let (nobody, admin, only_root) = ([false; 3], [false, true, true], [false, false, true]);
        vec![
            (
                Command::Found {
                    cluster_id: [1; 16],
                    wrapped_key: vec![1],
                    root: root.clone(),
                },
                nobody,
            ),
            (Command::RaiseFormat { version: 2 }, nobody),
            (
                Command::Put {
                    objects: Vec::new(),
                    dry_run: true,
                },
                admin,
            ),
            (prune(), admin),
            (rollback(), admin),
            (Command::Delete(object), admin),
            (Command::CreateKey(key), admin),
            (
                Command::RotateKey {
                    tenant: None,
                    name: name(),
                    hash: [1; 32],
                    grace_ms: 0,
                },
                admin,
            ),
            (
                Command::RevokeKey {
                    tenant: None,
                    name: name(),
                },
                admin,
            ),
            (Command::CreateToken(root), only_root),
            (Command::RevokeToken { name: name() }, only_root),
        ]
    }

    fn every_command_about_members() -> Vec<(Command, [bool; 3])> {
        let (nobody, only_root) = ([false; 3], [false, false, true]);
        vec![
            (
                Command::CreateJoinToken {
                    hash: [1; 32],
                    valid_ms: 1,
                },
                only_root,
            ),
            (
                Command::RemoveNode {
                    node: 1,
                    members: BTreeMap::new(),
                },
                only_root,
            ),
            (
                Command::Join {
                    token: [1; 32],
                    nonce: [1; 32],
                    peer: String::new(),
                    members: BTreeMap::new(),
                },
                nobody,
            ),
            (Command::AdvanceRotation { end: true }, nobody),
            (Command::AbortRotation, only_root),
        ]
    }

    #[test]
    fn each_role_may_do_what_the_table_says_here_and_at_the_leader() {
        let mut catalog = Catalog::empty();
        for role in ROLES {
            catalog.evolve(&Event::TokenPut(token(role)));
        }
        for (command, allowed) in every_command()
            .into_iter()
            .chain(every_command_about_members())
        {
            for (role, allowed) in ROLES.into_iter().zip(allowed) {
                let caller = Caller {
                    actor: "t".to_owned(),
                    token_hash: Some(token(role).hash),
                };
                assert_eq!(
                    check_command(role, &command).is_ok(),
                    allowed,
                    "{role:?} {command:?}"
                );
                assert_eq!(
                    hook()(&catalog, &caller, &command).is_ok(),
                    allowed,
                    "{role:?} {command:?}"
                );
            }
        }
    }

    #[test]
    fn the_node_itself_founds_the_cluster_and_changes_nothing_else() {
        let caller = Caller {
            actor: "cluster".to_owned(),
            token_hash: None,
        };
        for (command, allowed) in every_command()
            .into_iter()
            .chain(every_command_about_members())
        {
            let internal = allowed == [false; 3];
            assert_eq!(
                hook()(&Catalog::empty(), &caller, &command).is_ok(),
                internal,
                "{command:?}"
            );
        }
    }

    #[test]
    fn a_token_that_was_revoked_is_refused_by_the_leader() {
        let caller = Caller {
            actor: "ci".to_owned(),
            token_hash: Some([7; 32]),
        };
        let command = Command::Put {
            objects: Vec::new(),
            dry_run: false,
        };
        let refused = hook()(&Catalog::empty(), &caller, &command).unwrap_err();
        assert_eq!(refused.code, RejectedCode::Forbidden);
        assert_eq!(
            refused.violations[0].problem,
            "the admin token `ci` was revoked"
        );
    }

    #[test]
    fn a_refusal_says_which_role_it_takes() {
        let refused = check(Role::Viewer, Action::ChangeConfig)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("takes the role admin, and this token has the role viewer"),
            "{refused}"
        );
        assert!(check(Role::Viewer, Action::Read).is_ok());
    }
}

//! An admin token: what a user of the admin API authenticates with, and what it may do.

use crate::check::Check;
use crate::command::Violation;
use crate::key::SecretHash;
use crate::object::Name;

/// What a token may do; each role includes the ones before it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Changes configuration and keys.
    Admin,
    /// Also tokens and the cluster.
    Root,
}

/// The actor of changes that the nodes make by themselves; no token is called so.
pub const CLUSTER: &str = "cluster";

/// An admin token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// Unique in the cluster.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// Hash of the secret.
    pub hash: SecretHash,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// The tenant that it is for, whose deletion revokes it; `None`: the whole cluster.
    pub tenant: Option<Name>,
}

// === impl Role ===

impl Role {
    /// Every role, the weakest first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Admin, Self::Root];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
            Self::Root => "root",
        }
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }
}

// === impl Token ===

impl Token {
    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("tokens[{}]", self.name));
        check.name("name", &self.name);
        if *self.name == *CLUSTER {
            check.fault(
                "name",
                "this is what the record of changes calls the nodes themselves; choose another",
            );
        }
        if let Some(tenant) = &self.tenant {
            check.name("tenant", tenant);
            if self.role == Role::Root {
                check.fault(
                    "role",
                    "root is for the whole cluster; a token of a tenant is an admin or a viewer",
                );
            }
        }
        check.done()
    }
}

//! What happened to the configuration. Applying an event never fails; see [`crate::catalog::Catalog::evolve`].

use crate::consumer::Consumer;
use crate::key::{Key, SecretHash};
use crate::limit::{Limit, LimitId};
use crate::member::{JoinToken, JoinedNode};
use crate::model::Model;
use crate::object::Name;
use crate::provider::{Provider, Resealed};
use crate::restored::Restored;
use crate::rotation::Rotation;
use crate::route::Route;
use crate::service::Service;
use crate::tenant::Tenant;
use crate::token::Token;

/// A fact.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The cluster has an identity and an encryption key.
    Founded {
        /// Random, chosen at formation.
        cluster_id: [u8; 16],
        /// The cluster's encryption key, wrapped by the cluster secret.
        wrapped_key: Vec<u8>,
    },
    /// Messages of this version may stand in the log.
    FormatRaised {
        /// The new version.
        version: u32,
    },
    /// A tenant was created or replaced.
    TenantPut(Tenant),
    /// A tenant was deleted.
    TenantDeleted(Name),
    /// A consumer was created or replaced.
    ConsumerPut(Consumer),
    /// A consumer was deleted.
    ConsumerDeleted {
        /// Owner.
        tenant: Name,
        /// Name.
        name: Name,
    },
    /// A provider was created or replaced.
    ProviderPut(Provider),
    /// A provider was deleted.
    ProviderDeleted(Name),
    /// A model was created or replaced.
    ModelPut(Model),
    /// A model was deleted.
    ModelDeleted(Name),
    /// A service was created or replaced.
    ServicePut(Service),
    /// A service was deleted.
    ServiceDeleted(Name),
    /// A route was created or replaced.
    RoutePut(Route),
    /// A route was deleted.
    RouteDeleted {
        /// Owner.
        tenant: Name,
        /// Name.
        name: Name,
    },
    /// A limit was created or replaced.
    LimitPut {
        /// A new number, or the one that it had where what was used still counts.
        id: LimitId,
        /// The limit.
        limit: Limit,
    },
    /// A limit was deleted.
    LimitDeleted {
        /// Owner; absent: the operator.
        tenant: Option<Name>,
        /// Name.
        name: Name,
    },
    /// A key was created, or its secret replaced.
    KeyPut(Key),
    /// A key was revoked.
    KeyRevoked {
        /// Owner.
        tenant: Name,
        /// Name.
        name: Name,
    },
    /// An admin token was created.
    TokenPut(Token),
    /// An admin token was revoked.
    TokenRevoked(Name),
    /// A join token was made.
    JoinTokenPut(JoinToken),
    /// A join token was used: the node's id is taken for good.
    NodeJoined {
        /// The node.
        node: JoinedNode,
        /// The token that let it in.
        token: SecretHash,
        /// Hash of the number that it drew, by which it is known if it asks again.
        nonce: SecretHash,
    },
    /// A node was removed; its id is never used again.
    NodeRemoved(u64),
    /// A new cluster secret is to take the place of the old one.
    RotationBegan(Rotation),
    /// Every member holds it: from now on it is the one in force, and the old one is only trusted still.
    RotationSwitched,
    /// Every member shows it: the old one is nothing any more.
    RotationEnded,
    /// The old one stays.
    RotationAborted,
    /// Secrets of a provider are sealed under the new encryption key.
    Resealed(Resealed),
    /// The state was made that of a new cluster, from a backup.
    Restored(Restored),
}

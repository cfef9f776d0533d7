//! What an event does to a catalog, as reports and the history tell it.

use crate::catalog::{Catalog, members};
use crate::command::{Change, ChangeKind};
use crate::event::Event;
use crate::object::{Kind, Name, ObjectRef};
use crate::rotation;

// === impl Catalog ===

impl Catalog {
    /// What an event would do to this catalog.
    pub fn change_of(&self, event: &Event) -> Change {
        let global = |kind, name| self.put_change(kind, None, name);
        match event {
            Event::Founded { cluster_id, .. } => {
                let id = format!("{:032x}", u128::from_be_bytes(*cluster_id));
                change("cluster", None, &id.into(), ChangeKind::Created)
            }
            Event::FormatRaised { version } => {
                let version = Name::from(version.to_string());
                change("format", None, &version, ChangeKind::Updated)
            }
            Event::TenantPut(o) => global(Kind::Tenant, &o.name),
            Event::ConsumerPut(o) => self.put_change(Kind::Consumer, Some(&o.tenant), &o.name),
            Event::ProviderPut(o) => global(Kind::Provider, &o.name),
            Event::ModelPut(o) => global(Kind::Model, &o.name),
            Event::ServicePut(o) => global(Kind::Service, &o.name),
            Event::RoutePut(o) => self.put_change(Kind::Route, Some(&o.tenant), &o.name),
            Event::LimitPut { limit, .. } => {
                self.put_change(Kind::Limit, limit.tenant.as_ref(), &limit.name)
            }
            Event::KeyPut(key) => {
                let what = created_unless(self.key(&key.tenant, &key.name).is_some());
                change("key", Some(&key.tenant), &key.name, what)
            }
            Event::TokenPut(token) => {
                let what = created_unless(self.token(&token.name).is_some());
                change("token", None, &token.name, what)
            }
            Event::TenantDeleted(name) => deleted("tenant", None, name),
            Event::ProviderDeleted(name) => deleted("provider", None, name),
            Event::ModelDeleted(name) => deleted("model", None, name),
            Event::ServiceDeleted(name) => deleted("service", None, name),
            Event::TokenRevoked(name) => deleted("token", None, name),
            Event::ConsumerDeleted { tenant, name } => deleted("consumer", Some(tenant), name),
            Event::RouteDeleted { tenant, name } => deleted("route", Some(tenant), name),
            Event::LimitDeleted { tenant, name } => deleted("limit", tenant.as_ref(), name),
            Event::KeyRevoked { tenant, name } => deleted("key", Some(tenant), name),
            Event::JoinTokenPut(_) => members::token_change(ChangeKind::Created),
            Event::NodeJoined { node, .. } => members::node_change(node.id, ChangeKind::Created),
            Event::NodeRemoved(node) => members::node_change(*node, ChangeKind::Deleted),
            Event::RotationBegan(_)
            | Event::RotationSwitched
            | Event::RotationEnded
            | Event::RotationAborted => rotation::secret_change(ChangeKind::Updated),
            Event::Resealed(resealed) => {
                change("provider", None, &resealed.provider, ChangeKind::Updated)
            }
            Event::Restored(restored) => {
                let id = format!("{:032x}", u128::from_be_bytes(restored.cluster_id));
                change("cluster", None, &id.into(), ChangeKind::Created)
            }
        }
    }

    /// What events would do to this catalog, one after the other.
    pub(crate) fn changes_of(&self, events: &[Event]) -> Vec<Change> {
        let mut draft = self.clone();
        let after = |event: &Event| {
            let change = draft.change_of(event);
            draft.evolve(event);
            change
        };
        events.iter().map(after).collect()
    }

    fn put_change(&self, kind: Kind, tenant: Option<&Name>, name: &Name) -> Change {
        let at = ObjectRef {
            kind,
            tenant: tenant.cloned(),
            name: Name::clone(name),
        };
        change(kind.singular(), tenant, name, created_unless(self.has(&at)))
    }
}

const fn created_unless(there: bool) -> ChangeKind {
    if there {
        ChangeKind::Updated
    } else {
        ChangeKind::Created
    }
}

fn deleted(kind: &'static str, tenant: Option<&Name>, name: &Name) -> Change {
    change(kind, tenant, name, ChangeKind::Deleted)
}

fn change(kind: &'static str, tenant: Option<&Name>, name: &Name, what: ChangeKind) -> Change {
    Change {
        kind,
        tenant: tenant.cloned(),
        name: Name::clone(name),
        what,
    }
}

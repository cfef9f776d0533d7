//! What every object of the configuration shares: its kind, its name, and how a refusal speaks about it.
//!
//! A declarative object is one that `apply` takes ([`Object`]); keys and tokens are made by commands of their own.

use std::fmt;
use std::sync::Arc;

use crate::command::Violation;
use crate::consumer::Consumer;
use crate::limit::Limit;
use crate::limits;
use crate::model::Model;
use crate::provider::Provider;
use crate::route::Route;
use crate::service::Service;
use crate::tenant::Tenant;

/// A name: `[a-z0-9]([a-z0-9._-]{0,62})`, checked where it enters.
pub type Name = Arc<str>;

/// The kinds of declarative objects, in the order in which references point backwards.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// An owner.
    Tenant,
    /// An application of a tenant.
    Consumer,
    /// Who serves models.
    Provider,
    /// A public model name.
    Model,
    /// A set of HTTP upstreams.
    Service,
    /// Which requests go to a service.
    Route,
    /// How much may be used.
    Limit,
}

/// A declarative object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Object {
    /// An owner.
    Tenant(Tenant),
    /// An application of a tenant.
    Consumer(Consumer),
    /// Who serves models.
    Provider(Provider),
    /// A public model name.
    Model(Model),
    /// A set of HTTP upstreams.
    Service(Service),
    /// Which requests go to a service.
    Route(Route),
    /// How much may be used.
    Limit(Limit),
}

/// Where an object is: its kind, its tenant if the kind has one, its name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ObjectRef {
    /// Kind.
    pub kind: Kind,
    /// Owner, where it has one.
    pub tenant: Option<Name>,
    /// Name.
    pub name: Name,
}

// === impl Kind ===

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 7] = [
        Self::Tenant,
        Self::Consumer,
        Self::Provider,
        Self::Model,
        Self::Service,
        Self::Route,
        Self::Limit,
    ];

    /// The singular, as messages use it.
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Consumer => "consumer",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Service => "service",
            Self::Route => "route",
            Self::Limit => "limit",
        }
    }

    /// The plural, as documents use it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Tenant => "tenants",
            Self::Consumer => "consumers",
            Self::Provider => "providers",
            Self::Model => "models",
            Self::Service => "services",
            Self::Route => "routes",
            Self::Limit => "limits",
        }
    }

    /// Reads either form.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|k| k.singular() == text || k.plural() == text)
    }

    /// Whether every object of this kind belongs to a tenant.
    pub const fn has_tenant(self) -> bool {
        matches!(self, Self::Consumer | Self::Route)
    }

    /// Whether an object of this kind can belong to a tenant. A limit without one is the operator's, and another one than a
    /// tenant's of the same name.
    pub const fn takes_tenant(self) -> bool {
        self.has_tenant() || matches!(self, Self::Limit)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.singular())
    }
}

// === impl Object ===

impl Object {
    /// Where this object is.
    pub fn reference(&self) -> ObjectRef {
        let (kind, tenant, name) = match self {
            Self::Tenant(o) => (Kind::Tenant, None, &o.name),
            Self::Consumer(o) => (Kind::Consumer, Some(&o.tenant), &o.name),
            Self::Provider(o) => (Kind::Provider, None, &o.name),
            Self::Model(o) => (Kind::Model, None, &o.name),
            Self::Service(o) => (Kind::Service, None, &o.name),
            Self::Route(o) => (Kind::Route, Some(&o.tenant), &o.name),
            Self::Limit(o) => (Kind::Limit, o.tenant.as_ref(), &o.name),
        };
        ObjectRef {
            kind,
            tenant: tenant.cloned(),
            name: Name::clone(name),
        }
    }

    /// What is wrong with it, taken by itself; what it refers to is for `decide` to check.
    pub fn validate(&self) -> Vec<Violation> {
        match self {
            Self::Tenant(o) => o.validate(),
            Self::Consumer(o) => o.validate(),
            Self::Provider(o) => o.validate(),
            Self::Model(o) => o.validate(),
            Self::Service(o) => o.validate(),
            Self::Route(o) => o.validate(),
            Self::Limit(o) => o.validate(),
        }
    }
}

// === impl ObjectRef ===

impl ObjectRef {
    /// Where faults of this object are, as documents speak about it: `routes[acme/orders]`.
    pub fn path(&self) -> String {
        match &self.tenant {
            Some(tenant) => format!("{}[{tenant}/{}]", self.kind.plural(), self.name),
            None => format!("{}[{}]", self.kind.plural(), self.name),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "{} {tenant}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Whether a text is a [`Name`].
pub fn is_name(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= limits::NAME
        && text.bytes().next().is_some_and(edge)
        && text.bytes().all(|b| edge(b) || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_lower_case_and_begins_with_a_letter_or_digit() {
        let longest = "a".repeat(63);
        for name in ["a", "0", "a.b_c-d", "9-", &longest] {
            assert!(is_name(name), "{name}");
        }
        let too_long = "a".repeat(64);
        for text in [
            "",
            "A",
            "-a",
            ".a",
            "_a",
            "a/b",
            "a b",
            "é",
            "__other__",
            &too_long,
        ] {
            assert!(!is_name(text), "{text}");
        }
    }

    #[test]
    fn a_kind_is_read_in_singular_and_plural() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.singular()), Some(kind));
            assert_eq!(Kind::parse(kind.plural()), Some(kind));
        }
        assert_eq!(Kind::parse("keys"), None);
    }
}

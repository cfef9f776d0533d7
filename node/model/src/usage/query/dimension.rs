//! What usage can be grouped and filtered by. A status is a class: `2xx`.

use std::fmt;

use crate::usage::query::QueryError;
use crate::usage::series::SeriesKey;

/// What a row can be about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Dimension {
    /// Owner.
    Tenant,
    /// Group.
    Team,
    /// Application.
    Consumer,
    /// Credential.
    Key,
    /// Route.
    Route,
    /// API product.
    Api,
    /// Public model name.
    Model,
    /// Who served it.
    Provider,
    /// The provider's own name of the model.
    UpstreamModel,
    /// Which node served.
    Node,
    /// Class of the status.
    Status,
}

// === impl Dimension ===

impl Dimension {
    /// Every dimension.
    pub const ALL: [Self; 11] = [
        Self::Tenant,
        Self::Team,
        Self::Consumer,
        Self::Key,
        Self::Route,
        Self::Api,
        Self::Model,
        Self::Provider,
        Self::UpstreamModel,
        Self::Node,
        Self::Status,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Team => "team",
            Self::Consumer => "consumer",
            Self::Key => "key",
            Self::Route => "route",
            Self::Api => "api",
            Self::Model => "model",
            Self::Provider => "provider",
            Self::UpstreamModel => "upstream_model",
            Self::Node => "node",
            Self::Status => "status",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// Lists the names that work.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        Self::ALL
            .into_iter()
            .find(|dimension| dimension.name() == text)
            .ok_or_else(|| QueryError::UnknownDimension(text.to_owned()))
    }

    /// Whether usage by node knows it.
    pub const fn is_by_node(self) -> bool {
        matches!(self, Self::Tenant | Self::Route | Self::Node | Self::Status)
    }

    /// What a fact has for it; empty where it does not apply, and for the node, which facts do not tell.
    pub fn value(self, key: &SeriesKey) -> &str {
        match self {
            Self::Tenant => &key.tenant,
            Self::Team => &key.team,
            Self::Consumer => &key.consumer,
            Self::Key => &key.key,
            Self::Route => &key.route,
            Self::Api => &key.api,
            Self::Model => &key.model,
            Self::Provider => &key.provider,
            Self::UpstreamModel => &key.upstream_model,
            Self::Node => "",
            Self::Status => class_name(key.status_class),
        }
    }

    /// Where it is in [`SeriesKey::texts`]; the node and the status are not.
    pub(crate) const fn text(self) -> Option<usize> {
        Some(match self {
            Self::Tenant => 0,
            Self::Team => 1,
            Self::Consumer => 2,
            Self::Key => 3,
            Self::Route => 4,
            Self::Api => 5,
            Self::Model => 6,
            Self::Provider => 7,
            Self::UpstreamModel => 8,
            Self::Node | Self::Status => return None,
        })
    }

    pub(super) fn list() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A status class as reports show it.
pub(crate) const fn class_name(class: u8) -> &'static str {
    match class {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Name;

    #[test]
    fn every_dimension_has_its_own_value_and_place() {
        let key = SeriesKey {
            tenant: Name::from("tenant"),
            team: Name::from("team"),
            consumer: Name::from("consumer"),
            key: Name::from("key"),
            route: Name::from("route"),
            api: Name::from("api"),
            model: Name::from("model"),
            provider: Name::from("provider"),
            upstream_model: Name::from("upstream_model"),
            status_class: 4,
            folded: false,
        };
        for dimension in Dimension::ALL {
            let expected = match dimension {
                Dimension::Status => "4xx",
                Dimension::Node => "",
                other => other.name(),
            };
            assert_eq!(dimension.value(&key), expected);
            if let Some(text) = dimension.text() {
                assert_eq!(&**key.texts()[text], dimension.name());
            }
            assert_eq!(Dimension::parse(dimension.name()), Ok(dimension));
        }
    }
}

//! Readings of the configuration: all of it, or the objects of one kind, as a document.

use mode_envoy_model::object::{Kind, Object, ObjectRef};

use super::apply::parse_kind;
use super::authorize::{self, Action, check};
use super::document::{from_object, write};
use super::{Control, ControlError, Principal};

/// A document, and the revision it was read at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exported {
    /// YAML that `apply` takes back unchanged.
    pub document: String,
    /// Revision of the catalog.
    pub revision: u64,
}

/// Which state of the configuration is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsOf {
    /// What was declared at a revision; 0: what is there now.
    pub revision: u64,
    /// As this node has it, without asking the cluster whether that is all.
    pub local: bool,
}

// === impl Control ===

impl Control {
    /// The whole configuration.
    ///
    /// # Errors
    ///
    /// The history does not hold that revision, or the cluster did not confirm that this node is up to date.
    pub async fn export(&self, who: &Principal, at: AsOf) -> Result<Exported, ControlError> {
        check(who.role, Action::Read)?;
        let catalog = authorize::seen_by(who, self.catalog_of(who, at).await?);
        let objects = Kind::ALL
            .into_iter()
            .flat_map(|kind| catalog.objects(kind))
            .map(|(_, object)| object);
        exported(objects, catalog.revision().max(at.revision))
    }

    /// The objects of one kind; with a name, that one, which must be there.
    ///
    /// # Errors
    ///
    /// There is no such kind or object, or the cluster did not confirm that this node is up to date.
    pub async fn get(
        &self,
        who: &Principal,
        kind: &str,
        name: &str,
        tenant: &str,
        as_of: AsOf,
    ) -> Result<Exported, ControlError> {
        check(who.role, Action::Read)?;
        let kind = parse_kind(kind)?;
        if !kind.takes_tenant() && !tenant.is_empty() {
            let problem = format!("a {kind} belongs to the cluster; leave the tenant out");
            return Err(ControlError::invalid("tenant", problem));
        }
        authorize::check_named_tenant(who, tenant)?;
        let catalog = authorize::seen_by(who, self.catalog_of(who, as_of).await?);
        let wanted = |at: &ObjectRef| {
            (name.is_empty() || *at.name == *name)
                && (tenant.is_empty() || at.tenant.as_deref() == Some(tenant))
        };
        let objects: Vec<_> = catalog
            .objects(kind)
            .into_iter()
            .map(|(_, object)| object)
            .filter(|object| wanted(&object.reference()))
            .collect();
        if objects.is_empty() && !name.is_empty() {
            let problem = format!(
                "there is no {kind} `{name}`; `get {}` lists what there is",
                kind.plural()
            );
            return Err(ControlError::not_found("name", problem));
        }
        exported(objects, catalog.revision().max(as_of.revision))
    }
}

// === free functions ===

fn exported(
    objects: impl IntoIterator<Item = Object>,
    revision: u64,
) -> Result<Exported, ControlError> {
    let drafts: Vec<_> = objects.into_iter().map(from_object).collect();
    let document = write(&drafts).map_err(ControlError::Internal)?;
    Ok(Exported { document, revision })
}

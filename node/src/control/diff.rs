//! Diff: what applying a document would change, field by field; nothing is proposed, so any node can tell.

use std::collections::BTreeMap;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Change, ChangeKind, Command};
use mode_envoy_model::object::{Kind, Name, Object, ObjectRef};

use super::apply::in_background;
use super::authorize::{self, Action, check};
use super::document::{FieldDiff, compare};
use super::{Control, ControlError, Principal};

/// A document beside the cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compared {
    /// Objects that differ, in the order of kinds.
    pub objects: Vec<ComparedObject>,
    /// What a prune would delete.
    pub beside: Vec<ObjectRef>,
    /// The revision that it was compared with.
    pub revision: u64,
}

/// An object that differs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ComparedObject {
    /// Created or updated.
    pub change: Change,
    /// Of an updated one.
    pub fields: Vec<FieldDiff>,
}

// === impl Control ===

impl Control {
    /// Compares a document with the configuration.
    ///
    /// # Errors
    ///
    /// Every fault of the document, or the cluster did not confirm that this node is up to date.
    pub async fn diff(
        &self,
        who: &Principal,
        text: String,
        local: bool,
    ) -> Result<Compared, ControlError> {
        check(who.role, Action::Read)?;
        // Before its secrets are sealed: the encryption key may have been replaced.
        self.up_to_date(who, local).await?;
        let objects = self.read_objects(text).await?;
        let (catalog, who) = (self.handle.catalog(), who.clone());
        in_background(move || compared(&who, &catalog, objects)).await?
    }
}

// === free functions ===

fn compared(
    who: &Principal,
    catalog: &Catalog,
    objects: Vec<Object>,
) -> Result<Compared, ControlError> {
    let beside = catalog
        .prunable_within(who.tenant.as_deref(), &objects)
        .beside;
    let wanted: BTreeMap<ObjectRef, Object> =
        objects.iter().map(|o| (o.reference(), o.clone())).collect();
    let command = Command::Put {
        objects,
        dry_run: true,
    };
    authorize::check_seen(who, catalog, &command)?;
    // No rule for declarative objects looks at the time.
    let decision = catalog.decide_within(who.tenant.as_deref(), &command, 0)?;
    let differing = decision
        .changes
        .into_iter()
        .filter(|change| change.what != ChangeKind::Unchanged);
    let objects = differing.map(|change| {
        let fields = Kind::parse(change.kind).and_then(|kind| {
            let at = ObjectRef {
                kind,
                tenant: change.tenant.clone(),
                name: Name::clone(&change.name),
            };
            let (_, old) = catalog.object(&at)?;
            Some(compare(old, wanted.get(&at)?.clone()))
        });
        ComparedObject {
            change,
            fields: fields.unwrap_or_default(),
        }
    });
    Ok(Compared {
        objects: objects.collect(),
        beside,
        revision: catalog.revision(),
    })
}

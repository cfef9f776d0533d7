//! Apply and delete: a document becomes one command, in force as a whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use mode_envoy_model::command::{Change, Command, RejectedCode};
use mode_envoy_model::object::{Kind, Name, Object, ObjectRef};
use mode_envoy_model::provider::SealedSecret;
use mode_envoy_raft::Accepted;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::authorize::{self, Action, check};
use super::document::{self, Draft, SecretRef, SecretSource};
use super::{Control, ControlError, Principal, WAIT_DEADLINE};
use crate::secrets::{Keyring, Place};

/// Between two looks at the members while waiting for a change to be in force.
const WAIT_STEP: Duration = Duration::from_millis(20);
/// How long the members have to answer one look.
const WAIT_LOOK: Duration = Duration::from_secs(1);

/// What an apply came to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Applied {
    /// One line per object of the document.
    pub changes: Vec<Change>,
    /// The revision that it is in force from.
    pub revision: u64,
    /// With `wait`: members that could not be reached.
    pub missing_nodes: Vec<u64>,
    /// With `wait`: members that were reached, and did not have it in force in time.
    pub late_nodes: Vec<u64>,
}

/// Whether the caller knows that a prune may delete more than a fifth of what there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Confirmed {
    /// It does.
    Yes,
    /// It was not asked.
    No,
}

// === impl Control ===

impl Control {
    /// Creates and updates every object of a document.
    ///
    /// # Errors
    ///
    /// Every fault of the document, or what keeps the cluster from deciding; nothing is changed then.
    pub async fn apply(
        &self,
        who: &Principal,
        text: String,
        dry_run: bool,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        check(who.role, Action::ChangeConfig)?;
        let command = |objects| Command::Put { objects, dry_run };
        self.carry_out_document(who, text, command, wait && !dry_run)
            .await
    }

    /// Creates and updates every object of a document, and deletes what there is beside them, of their kinds and
    /// tenants. More than a fifth of it goes only if the caller has `confirmed` that.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`], and where something else still refers to what would be deleted.
    pub async fn prune(
        &self,
        who: &Principal,
        text: String,
        confirmed: Confirmed,
        dry_run: bool,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        check(who.role, Action::ChangeConfig)?;
        let command = |objects| Command::Prune {
            objects,
            confirmed: confirmed == Confirmed::Yes,
            dry_run,
        };
        self.carry_out_document(who, text, command, wait && !dry_run)
            .await
    }

    /// As [`Self::carry_out`], of a document whose secrets are sealed again where the encryption key was replaced meanwhile.
    async fn carry_out_document(
        &self,
        who: &Principal,
        text: String,
        command: impl Fn(Vec<Object>) -> Command,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        let generation = || self.handle.catalog().generation();
        let sealed_under = generation();
        let objects = self.read_objects(text.clone()).await?;
        match self.carry_out(who, command(objects), wait).await {
            Err(ControlError::Rejected(rejected)) if rejected.code == RejectedCode::Conflict => {
                self.up_to_date(who, false).await?;
                if generation() == sealed_under {
                    return Err(ControlError::Rejected(rejected));
                }
                let objects = self.read_objects(text).await?;
                self.carry_out(who, command(objects), wait).await
            }
            done => done,
        }
    }

    /// Has a command decided; what it came to, once every node has it in force if that is to be waited for.
    pub(super) async fn carry_out(
        &self,
        who: &Principal,
        command: Command,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        let accepted = self.propose(who, command).await?;
        Ok(self.applied(accepted, wait).await)
    }

    /// What an accepted command came to, once every node has it in force if that is to be waited for.
    pub(super) async fn applied(&self, accepted: Accepted, wait: bool) -> Applied {
        let mut applied = Applied {
            changes: accepted.changes,
            revision: accepted.revision,
            ..Applied::default()
        };
        if wait {
            self.wait_in_force(&mut applied).await;
        }
        applied
    }

    /// The objects of a document, their secrets sealed.
    pub(super) async fn read_objects(&self, text: String) -> Result<Vec<Object>, ControlError> {
        // A long document takes a while to read; other callers need not wait for it.
        let document = in_background(move || document::read(&text)).await?;
        let document = document.map_err(ControlError::Document)?;
        let keyring = self.keyring.of(&self.handle.catalog())?;
        let drafts = document.drafts.into_iter();
        drafts
            .map(|draft| seal(draft, keyring.as_deref()))
            .collect()
    }

    /// Deletes one object; answers the revision.
    ///
    /// # Errors
    ///
    /// It is not there, something refers to it, or the cluster cannot decide.
    pub async fn delete(
        &self,
        who: &Principal,
        kind: &str,
        name: &str,
        tenant: &str,
    ) -> Result<u64, ControlError> {
        check(who.role, Action::ChangeConfig)?;
        let at = object_ref(kind, name, tenant)?;
        authorize::check_named_tenant(who, tenant)?;
        Ok(self.propose(who, Command::Delete(at)).await?.revision)
    }

    /// Waits until every member that can be reached has it in force.
    async fn wait_in_force(&self, applied: &mut Applied) {
        let deadline = Instant::now() + WAIT_DEADLINE;
        loop {
            let members = self.handle.statuses(WAIT_LOOK).await;
            let behind = |reachable| {
                let revision = applied.revision;
                let behind = members
                    .iter()
                    .filter(move |m| m.reachable == reachable && m.table_revision < revision);
                behind.map(|m| m.id).collect::<Vec<_>>()
            };
            let late = behind(true);
            if late.is_empty() || Instant::now() >= deadline {
                applied.missing_nodes = behind(false);
                applied.late_nodes = late;
                return;
            }
            sleep(WAIT_STEP).await;
        }
    }
}

// === free functions ===

/// Runs what takes a while where it holds nobody up.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ControlError> {
    let done = spawn_blocking(work).await;
    done.map_err(|_| ControlError::Unavailable("this node is ending".to_owned()))
}

/// Reads a kind as the caller wrote it.
pub(super) fn parse_kind(text: &str) -> Result<Kind, ControlError> {
    Kind::parse(text).ok_or_else(|| {
        let kinds: Vec<_> = Kind::ALL.into_iter().map(Kind::plural).collect();
        let problem = format!("`{text}` is not a kind; the kinds are {}", kinds.join(", "));
        ControlError::invalid("kind", problem)
    })
}

fn object_ref(kind: &str, name: &str, tenant: &str) -> Result<ObjectRef, ControlError> {
    let kind = parse_kind(kind)?;
    let tenant = match (kind.takes_tenant(), tenant) {
        (true, "") if !kind.has_tenant() => None,
        (true, "") => {
            let problem = format!("a {kind} belongs to a tenant: name it (--tenant)");
            return Err(ControlError::invalid("tenant", problem));
        }
        (true, tenant) => Some(Name::from(tenant)),
        (false, "") => None,
        (false, _) => {
            let problem = format!("a {kind} belongs to the cluster; leave the tenant out");
            return Err(ControlError::invalid("tenant", problem));
        }
    };
    if name.is_empty() {
        return Err(ControlError::invalid("name", format!("name the {kind}")));
    }
    Ok(ObjectRef {
        kind,
        tenant,
        name: name.into(),
    })
}

/// Puts a draft's secrets into its object, sealed.
fn seal(draft: Draft, keyring: Option<&Keyring>) -> Result<Object, ControlError> {
    let label = document::label(&draft.reference());
    let Object::Provider(mut provider) = draft.object else {
        return Ok(draft.object);
    };
    let name = Name::clone(&provider.name);
    for (i, key) in draft.keys.iter().enumerate() {
        let path = format!("{label}.keys[{i}]");
        provider.keys.push(seal_one(key, &name, &path, keyring)?);
    }
    Ok(Object::Provider(provider))
}

fn seal_one(
    key: &SecretRef,
    provider: &str,
    path: &str,
    keyring: Option<&Keyring>,
) -> Result<SealedSecret, ControlError> {
    match &key.source {
        SecretSource::Value(secret) => {
            // Every key of this version is sent as a bearer token.
            if !secret.expose().bytes().all(|b| b.is_ascii_graphic()) {
                let problem = "the secret holds a space, a line break or another character that no header may \
                               hold: give the key alone, not a file with more in it";
                return Err(ControlError::invalid(path, problem));
            }
            let keyring = keyring.ok_or_else(|| {
                let why = "the cluster has no encryption key yet, since it is still being founded";
                ControlError::Unavailable(why.to_owned())
            })?;
            Ok(keyring.seal(secret, Place::provider_keys(provider))?)
        }
        // The leader puts in what the catalog holds under this fingerprint, and refuses one that it does not know.
        SecretSource::Stored(fingerprint) => Ok(SealedSecret {
            wrapped_data_key: Arc::from([]),
            ciphertext: Arc::from([]),
            fingerprint: *fingerprint,
            generation: 0,
        }),
        SecretSource::Env(_) | SecretSource::File(_) => {
            let problem = "a node reads no environment variables and files for its callers: \
                           `mode-envoy apply` puts the value in, other clients send {value: TEXT}";
            Err(ControlError::invalid(
                path,
                format!("line {}: {problem}", key.at.line),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_with_its_tenant_where_its_kind_has_one() {
        let route = object_ref("route", "orders", "acme").unwrap();
        assert_eq!(route.to_string(), "route acme/orders");
        assert_eq!(
            object_ref("services", "orders", "").unwrap().to_string(),
            "service orders"
        );
        for (kind, name, tenant, path) in [
            ("routes", "orders", "", "tenant"),
            ("services", "orders", "acme", "tenant"),
            ("tenants", "", "", "name"),
            ("prompts", "x", "", "kind"),
        ] {
            let refused = object_ref(kind, name, tenant).unwrap_err().to_string();
            assert!(
                refused.starts_with(&format!("refused: {path}: ")),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_node_refuses_to_read_its_own_environment_for_a_caller() {
        let text = "providers:\n  - name: o\n    protocol: openai\n    keys: [{env: HOME}]\n";
        let draft = document::read(text).unwrap().drafts.remove(0);
        let refused = seal(draft, None).unwrap_err().to_string();
        assert!(
            refused.starts_with("refused: providers[o].keys[0]: line 4: a node reads no"),
            "{refused}"
        );
    }

    #[test]
    fn a_secret_that_no_header_may_hold_is_refused_where_it_stands() {
        for value in ["a\\nb", "two words", "caf\u{e9}"] {
            let text = format!(
                "providers:\n  - name: o\n    protocol: openai\n    keys: [{{value: \"{value}\"}}]\n"
            );
            let draft = document::read(&text).unwrap().drafts.remove(0);
            let refused = seal(draft, None).unwrap_err().to_string();
            let start = "refused: providers[o].keys[0]: the secret holds";
            assert!(refused.starts_with(start), "{refused}");
            assert!(!refused.contains(value), "a refusal tells the secret");
        }
    }

    #[test]
    fn a_stored_secret_travels_as_its_fingerprint() {
        let text = format!(
            "providers:\n  - name: o\n    protocol: openai\n    keys: [{{stored: {}}}]\n",
            "ab".repeat(16)
        );
        let draft = document::read(&text).unwrap().drafts.remove(0);
        let Object::Provider(provider) = seal(draft, None).unwrap() else {
            panic!()
        };
        assert_eq!(provider.keys[0].fingerprint, [0xab; 16]);
        assert!(provider.keys[0].ciphertext.is_empty());
    }
}

//! The bytes of every log message ever shipped. A log written by one release is read by the next, so these files
//! only gain neighbours: a message that changes keeps its old bytes readable.
//!
//! `REWRITE=1 cargo test -p mode-envoy-proto` writes what is missing or different; the diff is the review.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use mode_envoy_proto::log::v1::{self as log, event, item, series_ref};
use prost::Message;

#[path = "support/members.rs"]
mod members;
#[path = "support/resealed.rs"]
mod resealed;
#[path = "support/rotation.rs"]
mod rotation;
#[path = "support/samples.rs"]
mod samples;
#[path = "support/samples_access.rs"]
mod samples_access;
#[path = "support/samples_history.rs"]
mod samples_history;
#[path = "support/samples_ledger.rs"]
mod samples_ledger;
#[path = "support/samples_limits.rs"]
mod samples_limits;
#[path = "support/samples_packed.rs"]
mod samples_packed;

#[test]
fn every_log_message_has_the_bytes_it_always_had() {
    let mut seen = BTreeSet::new();
    samples::each(&mut Golden { seen: &mut seen });
    samples_history::each(&mut Golden { seen: &mut seen });
    members::each(&mut Golden { seen: &mut seen });
    rotation::each(&mut Golden { seen: &mut seen });
    resealed::each(&mut Golden { seen: &mut seen });
    samples_packed::each(&mut Golden { seen: &mut seen });
    samples_access::each(&mut Golden { seen: &mut seen });
    samples_ledger::each(&mut Golden { seen: &mut seen });
    samples_limits::each(&mut Golden { seen: &mut seen });
    assert_eq!(
        seen,
        declared(),
        "each message of modeenvoy.log.v1 has a sample in tests/samples"
    );
}

#[test]
fn an_unknown_field_does_not_stop_a_reader() {
    let mut bytes = log::Tenant {
        name: "acme".to_owned(),
        hosts: Vec::new(),
    }
    .encode_to_vec();
    // Field 1000, varint 1: what a later release might add.
    bytes.extend_from_slice(&[0xc0, 0x3e, 0x01]);
    assert_eq!(log::Tenant::decode(bytes.as_slice()).unwrap().name, "acme");
}

#[test]
fn an_event_of_a_later_release_reads_as_no_event() {
    // Field 1000, empty message.
    let event = log::Event::decode([0xc2, 0x3e, 0x00].as_slice()).unwrap();
    assert_eq!(
        event.kind, None,
        "the reader must notice and refuse, not guess"
    );
}

/// Checks one sample against its file.
pub struct Golden<'a> {
    seen: &'a mut BTreeSet<String>,
}

impl Golden<'_> {
    fn check<M: Message + Default + PartialEq + Debug>(&mut self, name: &str, sample: &M) {
        self.seen.insert(name.to_owned());
        self.check_as(name, sample);
    }

    /// A message with fields that its first sample does not have.
    fn check_as<M: Message + Default + PartialEq + Debug>(&self, name: &str, sample: &M) {
        let file =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.hex"));
        let bytes = sample.encode_to_vec();
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, hex(&bytes) + "\n").unwrap();
        }
        let golden = std::fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("{}: {e}; run with REWRITE=1", file.display()));
        assert_eq!(
            hex(&bytes),
            golden.trim(),
            "{name}: its bytes changed; logs on disk would be misread"
        );
        assert_eq!(
            &M::decode(unhex(golden.trim()).as_slice()).unwrap(),
            sample,
            "{name}"
        );
    }
}

/// Message names of the log package, from the descriptors.
fn declared() -> BTreeSet<String> {
    let set =
        prost_types::FileDescriptorSet::decode(mode_envoy_proto::FILE_DESCRIPTOR_SET).unwrap();
    set.file
        .iter()
        .filter(|f| f.package() == "modeenvoy.log.v1")
        .flat_map(|f| &f.message_type)
        .map(|m| m.name().to_owned())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

/// One event of each kind, so that every tag of the oneof is fixed.
pub fn every_event() -> Vec<log::Event> {
    use event::Kind;
    let at = || log::ObjectName {
        tenant: "acme".to_owned(),
        name: "orders".to_owned(),
    };
    [
        Kind::Founded(samples::founded()),
        Kind::FormatRaised(log::FormatRaised { version: 2 }),
        Kind::TenantPut(samples::tenant()),
        Kind::TenantDeleted(at()),
        Kind::ConsumerPut(samples::consumer()),
        Kind::ConsumerDeleted(at()),
        Kind::ProviderPut(samples::provider()),
        Kind::ProviderDeleted(at()),
        Kind::ModelPut(samples::model()),
        Kind::ModelDeleted(at()),
        Kind::ServicePut(samples::service()),
        Kind::ServiceDeleted(at()),
        Kind::RoutePut(samples::route()),
        Kind::RouteDeleted(at()),
        Kind::KeyPut(samples::key()),
        Kind::KeyRevoked(at()),
        Kind::TokenPut(samples::token()),
        Kind::TokenRevoked(at()),
    ]
    .into_iter()
    .chain(members::events())
    .chain(rotation::events())
    .chain(samples_limits::events())
    .chain(resealed::events())
    .map(|kind| log::Event { kind: Some(kind) })
    .collect()
}

/// One item of each kind.
pub fn every_item() -> Vec<log::Item> {
    [
        item::Kind::ChangeSet(log::ChangeSet {
            base_revision: 41,
            actor: "root".to_owned(),
            events: every_event(),
            origin: "apply".to_owned(),
            request: Some(samples_access::request()),
        }),
        item::Kind::Register(samples::register()),
        item::Kind::Usage(samples::usage_batch()),
        item::Kind::Final(samples_ledger::finished()),
        item::Kind::Evict(samples_ledger::evict()),
    ]
    .into_iter()
    .map(|kind| log::Item { kind: Some(kind) })
    .collect()
}

/// Both forms of a series reference.
pub fn every_series_ref() -> Vec<log::SeriesRef> {
    [
        series_ref::Kind::Known(7),
        series_ref::Kind::New(samples::series_key()),
    ]
    .into_iter()
    .map(|kind| log::SeriesRef { kind: Some(kind) })
    .collect()
}

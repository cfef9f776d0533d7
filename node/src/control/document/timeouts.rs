//! The field `timeouts` of providers and services: the same four limits, each a duration.

use mode_envoy_model::service::Timeouts;

use super::Faults;
use super::fields::Fields;
use super::node::Node;
use super::values::{format_duration, parse_duration};
use super::write::map;

/// Reads `timeouts`; all defaults where it is absent.
pub(super) fn read_timeouts(fields: &mut Fields<'_>, faults: &mut Faults) -> Timeouts {
    let Some(mut timeouts) = fields.map("timeouts", faults) else {
        return Timeouts::default();
    };
    let mut read = |name| {
        let node = timeouts.take(name)?;
        let text = timeouts.text_of(node, name, faults)?;
        match parse_duration(text) {
            Ok(ms) => Some(ms),
            Err(problem) => {
                timeouts.fault_at(node.at, name, problem, faults);
                None
            }
        }
    };
    let read = Timeouts {
        connect_ms: read("connect"),
        first_byte_ms: read("first_byte"),
        idle_ms: read("idle"),
        total_ms: read("total"),
    };
    timeouts.finish(&[], faults);
    read
}

/// Writes `timeouts`; `None` where all are defaults.
pub(super) fn timeouts_node(timeouts: &Timeouts) -> Option<Node> {
    if *timeouts == Timeouts::default() {
        return None;
    }
    let text = |ms: Option<u64>| ms.map(|ms| Node::text(format_duration(ms)));
    Some(map([
        ("connect", text(timeouts.connect_ms)),
        ("first_byte", text(timeouts.first_byte_ms)),
        ("idle", text(timeouts.idle_ms)),
        ("total", text(timeouts.total_ms)),
    ]))
}

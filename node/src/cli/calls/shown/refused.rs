//! How the limit that refused a call is printed: the field names are promised to scripts.

use mode_envoy_proto::admin::v1 as pb;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// The limit that refused a call.
pub(super) struct ShownRefused<'a>(pub(super) &'a pb::RefusedBy);

// === impl ShownRefused ===

impl Serialize for ShownRefused<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let by = self.0;
        let present = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("limit", &by.limit)?;
        map.serialize_entry("value", &present(&by.value))?;
        map.serialize_entry("why", &by.why)?;
        map.serialize_entry("mode", &by.mode)?;
        map.serialize_entry("need", &by.need)?;
        map.serialize_entry("slice", &by.slice)?;
        map.serialize_entry("free", &by.free)?;
        map.serialize_entry("elsewhere", &by.elsewhere)?;
        map.serialize_entry("applied_index", &by.applied_index)?;
        map.serialize_entry("window_begins", &present(&by.window_begins))?;
        map.serialize_entry("window_ends", &present(&by.window_ends))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::output::json_line;
    use super::*;

    #[test]
    fn the_limit_that_refused_a_call_is_an_object_and_what_is_absent_null() {
        let by = pb::RefusedBy {
            limit: "daily".to_owned(),
            why: "exhausted".to_owned(),
            mode: "strict".to_owned(),
            need: 1,
            free: -2,
            elsewhere: 3,
            applied_index: 41,
            window_ends: "2026-03-02T00:00:00Z".to_owned(),
            ..pb::RefusedBy::default()
        };
        assert_eq!(
            json_line(&ShownRefused(&by)),
            "{\"limit\":\"daily\",\"value\":null,\"why\":\"exhausted\",\"mode\":\"strict\",\"need\":1,\"slice\":0,\
             \"free\":-2,\"elsewhere\":3,\"applied_index\":41,\"window_begins\":null,\
             \"window_ends\":\"2026-03-02T00:00:00Z\"}\n"
        );
    }
}

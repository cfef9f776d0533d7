//! How limits are printed: the field names are promised to scripts.

use mode_envoy_proto::admin::v1 as pb;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::super::output::{Format, Table};

/// An answer as JSON and YAML show it.
pub(super) struct ShownLimits<'a>(pub(super) &'a pb::GetLimitsResponse);

struct ShownPool<'a>(&'a pb::LimitPool);

struct ShownUnits<'a>(&'a pb::LeasedUnits);

// === impl ShownLimits ===

impl Serialize for ShownLimits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pools: Vec<_> = self.0.limits.iter().map(ShownPool).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &self.0.time)?;
        map.serialize_entry("applied_index", &self.0.applied_index)?;
        map.serialize_entry("limits", &pools)?;
        map.serialize_entry("more", &self.0.more)?;
        map.end()
    }
}

// === impl ShownPool ===

impl Serialize for ShownPool<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pool = self.0;
        let leased: Vec<_> = pool.leased.iter().map(ShownUnits).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("tenant", &present(&pool.tenant))?;
        map.serialize_entry("name", &pool.name)?;
        map.serialize_entry("each", &present(&pool.each))?;
        map.serialize_entry("value", &present(&pool.value))?;
        map.serialize_entry("unit", &pool.unit)?;
        map.serialize_entry("amount", &pool.amount)?;
        map.serialize_entry("per", &present(&pool.per))?;
        map.serialize_entry("window", &present(&pool.window))?;
        map.serialize_entry("burst", &pool.burst)?;
        map.serialize_entry("mode", &pool.mode)?;
        map.serialize_entry("shadow", &pool.shadow)?;
        map.serialize_entry("window_begins", &present(&pool.window_begins))?;
        map.serialize_entry("window_ends", &present(&pool.window_ends))?;
        map.serialize_entry("cap", &pool.cap)?;
        map.serialize_entry("used", &pool.used)?;
        map.serialize_entry("free", &pool.free)?;
        map.serialize_entry("leased", &leased)?;
        map.serialize_entry("burned", &pool.burned)?;
        map.serialize_entry("unsettled", &pool.unsettled)?;
        map.serialize_entry("central", &pool.central)?;
        map.serialize_entry("overshoot", &pool.overshoot)?;
        map.end()
    }
}

// === impl ShownUnits ===

impl Serialize for ShownUnits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("node", &self.0.node)?;
        map.serialize_entry("units", &self.0.units)?;
        map.end()
    }
}

// === free functions ===

/// An answer as columns: what fits a screen, or all of it as CSV.
pub(super) fn columns(pools: &[pb::LimitPool], format: Format) -> Table {
    if format == Format::Csv {
        wide(pools)
    } else {
        narrow(pools)
    }
}

const NARROW: [&str; 12] = [
    "tenant",
    "limit",
    "value",
    "unit",
    "per",
    "mode",
    "window_ends",
    "leased",
    "amount",
    "used",
    "free",
    "burned",
];

fn narrow(pools: &[pb::LimitPool]) -> Table {
    let rows = pools.iter().map(|pool| {
        let value = match (pool.each.as_str(), pool.value.as_str()) {
            ("", _) => String::new(),
            (each, "") => format!("any {each}"),
            (_, value) => value.to_owned(),
        };
        let mode = if pool.shadow {
            format!("{}, shadow", pool.mode)
        } else {
            pool.mode.clone()
        };
        let cells = [
            pool.tenant.clone(),
            pool.name.clone(),
            value,
            pool.unit.clone(),
            pool.per.clone(),
            mode,
            pool.window_ends.clone(),
            leased(pool),
            pool.amount.to_string(),
            number(pool.used),
            pool.free.to_string(),
            pool.burned.to_string(),
        ];
        cells.to_vec()
    });
    Table {
        head: NARROW.map(str::to_owned).to_vec(),
        rows: rows.collect(),
        texts: NARROW.len() - 4,
    }
}

const WIDE: [&str; 21] = [
    "tenant",
    "name",
    "each",
    "value",
    "unit",
    "amount",
    "per",
    "window",
    "burst",
    "mode",
    "shadow",
    "window_begins",
    "window_ends",
    "cap",
    "used",
    "free",
    "leased",
    "burned",
    "unsettled",
    "central",
    "overshoot",
];

fn wide(pools: &[pb::LimitPool]) -> Table {
    let rows = pools.iter().map(|pool| {
        [
            pool.tenant.clone(),
            pool.name.clone(),
            pool.each.clone(),
            pool.value.clone(),
            pool.unit.clone(),
            pool.amount.to_string(),
            pool.per.clone(),
            pool.window.clone(),
            number(pool.burst),
            pool.mode.clone(),
            pool.shadow.to_string(),
            pool.window_begins.clone(),
            pool.window_ends.clone(),
            pool.cap.to_string(),
            number(pool.used),
            pool.free.to_string(),
            leased(pool),
            pool.burned.to_string(),
            pool.unsettled.to_string(),
            pool.central.to_string(),
            number(pool.overshoot),
        ]
    });
    Table::of_texts(WIDE, rows.collect())
}

/// What each node has, as `1:20 3:5`.
fn leased(pool: &pb::LimitPool) -> String {
    let nodes = pool.leased.iter();
    let nodes = nodes.map(|of| format!("{}:{}", of.node, of.units));
    nodes.collect::<Vec<_>>().join(" ")
}

/// Empty where there is none.
fn number(value: Option<u64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::super::output::render;
    use super::*;

    fn told() -> pb::GetLimitsResponse {
        let text = str::to_owned;
        let units = |node, units| pb::LeasedUnits { node, units };
        let daily = pb::LimitPool {
            name: text("daily"),
            each: text("key"),
            value: text("acme/first"),
            unit: text("requests"),
            amount: 100,
            per: text("day"),
            window: text("calendar"),
            mode: text("strict"),
            window_begins: text("2026-03-01T00:00:00Z"),
            window_ends: text("2026-03-02T00:00:00Z"),
            cap: 100,
            used: Some(60),
            free: 15,
            leased: vec![units(1, 20), units(3, 5)],
            overshoot: Some(0),
            ..pb::LimitPool::default()
        };
        let alone = pb::LimitPool {
            name: text("alone"),
            unit: text("requests"),
            amount: 50,
            per: text("second"),
            window: text("bucket"),
            burst: Some(80),
            mode: text("local"),
            cap: 80,
            free: 80,
            ..pb::LimitPool::default()
        };
        let open = pb::LimitPool {
            tenant: text("acme"),
            name: text("open-calls"),
            each: text("consumer"),
            unit: text("concurrent"),
            amount: 7,
            mode: text("strict"),
            shadow: true,
            cap: 7,
            used: Some(0),
            free: 7,
            central: true,
            overshoot: Some(0),
            ..pb::LimitPool::default()
        };
        pb::GetLimitsResponse {
            limits: vec![alone, daily, open],
            more: false,
            applied_index: 41,
            time: text("2026-03-01T09:30:00.250Z"),
            warnings: Vec::new(),
        }
    }

    fn rendered(format: Format) -> String {
        let told = told();
        render(format, &columns(&told.limits, format), &ShownLimits(&told))
    }

    #[test]
    fn limits_are_printed_as_the_golden_files_say() {
        assert_eq!(rendered(Format::Table), include_str!("golden/limits.txt"));
        assert_eq!(rendered(Format::Json), include_str!("golden/limits.json"));
        assert_eq!(rendered(Format::Csv), include_str!("golden/limits.csv"));
    }

    #[test]
    fn every_field_of_an_object_is_a_column_of_csv() {
        let json: serde_json::Value = serde_json::from_str(&rendered(Format::Json)).unwrap();
        let names: Vec<_> = json["limits"][0].as_object().unwrap().keys().collect();
        assert!(names.iter().all(|name| WIDE.contains(&name.as_str())));
        assert_eq!(names.len(), WIDE.len());
    }
}

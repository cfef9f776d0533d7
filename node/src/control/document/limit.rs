//! How a limit reads and is written: its words, and the defaults that depend on other fields.
//!
//! A default is put in where it is read and left out where it is written, so a limit that states one is the same as a limit that
//! does not.

use mode_envoy_model::limit::{Dimension, Limit, Match, Mode, Per, Unit, Window};
use mode_envoy_model::object::Name;

use super::Faults;
use super::fields::Fields;
use super::kinds::choice;
use super::node::{Node, Value};
use super::write::map;

const UNITS: &str = "requests or concurrent";
const UNITS_LATER: &[&str] = &["tokens", "input_tokens", "output_tokens", "usd"];
/// Fields of limits of those units.
const FIELDS_LATER: [&str; 2] = ["on_tail", "assume_output"];
const DIMENSIONS: &str = "tenant, team, consumer, key, route or model";
const DIMENSIONS_LATER: &[&str] = &["api"];

/// Reads a limit.
pub(super) fn read(
    mut fields: Fields<'_>,
    tenant: Option<Name>,
    name: Option<Name>,
    faults: &mut Faults,
) -> Option<Limit> {
    let matches = read_match(&mut fields, faults);
    let each = word(
        &mut fields,
        "each",
        (&Dimension::ALL, Dimension::word),
        faults,
    )
    .filter(|each| *each != Dimension::Api);
    let unit = read_unit(&mut fields, faults);
    let amount = read_amount(&mut fields, unit, faults);
    let mode = word(&mut fields, "mode", (&Mode::ALL, Mode::word), faults);
    let time = read_time(&mut fields, unit, amount, faults);
    let shadow = fields.flag("shadow", faults);
    for later in FIELDS_LATER {
        if fields.take(later).is_some() {
            let problem = format!(
                "`{later}` is for limits of tokens, which are not in this version; its units are {UNITS}"
            );
            fields.fault_at(fields.position_of(later), later, problem, faults);
        }
    }
    fields.finish(&[], faults);
    let (unit, (per, window)) = (unit?, time?);
    Some(Limit {
        name: name?,
        tenant,
        matches,
        each,
        unit,
        amount: amount?,
        per,
        window,
        mode: mode.unwrap_or_else(|| Mode::default_of(unit, per)),
        shadow,
    })
}

/// A limit as a document states it.
pub(super) fn limit_node(limit: &Limit) -> Node {
    let word = |word: &str| Some(Node::text(word));
    let name = |name: &Option<Name>| name.as_deref().map(Node::text);
    let matches = &limit.matches;
    let matching = map([
        ("tenant", name(&matches.tenant)),
        ("team", name(&matches.team)),
        ("consumer", name(&matches.consumer)),
        ("key", name(&matches.key)),
        ("route", name(&matches.route)),
        ("api", name(&matches.api)),
        ("model", name(&matches.model)),
    ]);
    let has_time = limit.unit != Unit::Concurrent;
    let (window, burst) = match limit.window {
        Window::Calendar => (None, None),
        Window::Bucket { burst } => (
            (limit.per != Per::Second).then_some("bucket"),
            (burst != limit.amount).then_some(burst),
        ),
    };
    let mode = (limit.mode != Mode::default_of(limit.unit, limit.per)).then_some(limit.mode);
    map([
        ("name", word(&limit.name)),
        ("tenant", name(&limit.tenant)),
        ("match", (*matches != Match::default()).then_some(matching)),
        ("each", limit.each.map(|each| Node::text(each.word()))),
        ("unit", word(limit.unit.word())),
        ("amount", Some(Node::number(limit.amount))),
        ("per", has_time.then(|| Node::text(limit.per.word()))),
        ("window", window.map(Node::text)),
        ("burst", burst.map(Node::number)),
        ("mode", mode.map(|mode| Node::text(mode.word()))),
        ("shadow", limit.shadow.then(|| Node::of(Value::Bool(true)))),
    ])
}

fn read_match(fields: &mut Fields<'_>, faults: &mut Faults) -> Match {
    let mut matches = Match::default();
    if let Some(mut stated) = fields.map("match", faults) {
        for dimension in Dimension::ALL {
            if dimension != Dimension::Api {
                let name = stated.text(dimension.word(), faults);
                *matches.value_mut(dimension) = name.map(Name::from);
            }
        }
        stated.finish(DIMENSIONS_LATER, faults);
    }
    matches
}

fn read_unit(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Unit> {
    let text = fields.required("unit", faults)?;
    let unit = Unit::ALL.into_iter().find(|unit| unit.word() == &*text);
    if unit.is_none() {
        choice(fields, "unit", &text, UNITS, UNITS_LATER, faults);
    }
    unit
}

fn read_amount(fields: &mut Fields<'_>, unit: Option<Unit>, faults: &mut Faults) -> Option<u64> {
    if !fields.has("amount") {
        fields.take("amount");
        fields.fault("`amount` is missing; state how much may be used", faults);
        return None;
    }
    if unit.is_none() {
        // How it is written depends on the unit, which is a fault already.
        fields.take("amount");
        return None;
    }
    fields.number("amount", faults)
}

/// In which time the amount is, and how it comes back.
fn read_time(
    fields: &mut Fields<'_>,
    unit: Option<Unit>,
    amount: Option<u64>,
    faults: &mut Faults,
) -> Option<(Per, Window)> {
    if unit == Some(Unit::Concurrent) {
        for name in ["per", "window", "burst"] {
            if fields.take(name).is_some() {
                let problem =
                    "calls that are open are counted at every moment, not per time; leave it out";
                fields.fault_at(fields.position_of(name), name, problem, faults);
            }
        }
        return Some((Per::Total, Window::Calendar));
    }
    if unit.is_some() && !fields.has("per") {
        let problem = "`per` is missing; state second, minute, hour, day, month or total";
        fields.fault(problem, faults);
    }
    let per = word(fields, "per", (&Per::ALL, Per::word), faults);
    let window = fields.text("window", faults);
    let is_bucket = match (window, per) {
        (None, per) => per == Some(Per::Second),
        (Some("bucket"), _) => true,
        (Some("calendar"), Some(Per::Second)) => {
            let problem = "per second there is only a bucket; leave it out";
            fields.fault_at(fields.position_of("window"), "window", problem, faults);
            true
        }
        (Some("calendar"), _) => false,
        (Some(other), _) => {
            choice(fields, "window", other, "calendar or bucket", &[], faults);
            true
        }
    };
    let has_burst = fields.has("burst");
    let burst = fields.number("burst", faults);
    if has_burst && !is_bucket {
        let problem = "only a bucket has a burst; add `window: bucket`, or leave it out";
        fields.fault_at(fields.position_of("burst"), "burst", problem, faults);
    }
    let window = if is_bucket {
        let burst = if has_burst { burst } else { amount };
        Window::Bucket { burst: burst? }
    } else {
        Window::Calendar
    };
    Some((per?, window))
}

/// Takes a field that holds one of a few words.
fn word<T: Copy, const N: usize>(
    fields: &mut Fields<'_>,
    name: &'static str,
    (all, word_of): (&[T; N], fn(T) -> &'static str),
    faults: &mut Faults,
) -> Option<T> {
    let text = fields.text(name, faults)?;
    let found = all.iter().copied().find(|one| word_of(*one) == text);
    let later = if name == "each" {
        DIMENSIONS_LATER
    } else {
        &[]
    };
    if found.is_none() || later.contains(&text) {
        let words: Vec<_> = all.iter().copied().map(word_of).collect();
        let words = match (name, words.split_last()) {
            ("each", _) => DIMENSIONS.to_owned(),
            (_, Some((last, rest))) => format!("{} or {last}", rest.join(", ")),
            (_, None) => String::new(),
        };
        if later.contains(&text) {
            choice(fields, name, text, &words, later, faults);
        } else {
            let problem = format!("`{text}` is no value of `{name}`; use {words}");
            fields.fault_at(fields.position_of(name), name, problem, faults);
        }
    }
    found
}

//! What a series becomes when there are too many.
//!
//! Up to the cap (100,000 series in all, 20,000 at minute resolution) a series keeps every dimension.
//! Beyond it a new series takes the first of these forms that exists already or still has room; a form may be
//! created while there are fewer series than stated, as multiples of the cap:
//!
//! ```text
//! 1  upstream_model is __other__                        9/8
//! 2  and model                                          5/4
//! 3  and route, api, provider: one row per principal    2
//! 4  and key, consumer, team: one row per tenant        5/2
//! 5  and tenant                                         always
//! ```
//!
//! So totals by principal are exact up to twice the cap, and a replica is bounded whatever nodes claim. A dimension
//! that is empty stays empty; a series that lost one is `folded`. At minute resolution only the minute cell is
//! folded: hours and days keep what the series knows.

use crate::object::Name;
use crate::usage::series::{OTHER, SeriesKey};

/// The forms a series may be folded to.
const LEVELS: u32 = 5;

// === impl SeriesKey ===

impl SeriesKey {
    fn folded_to(&self, level: u32) -> Self {
        let mut key = self.clone();
        let dimensions = [
            (1, &mut key.upstream_model),
            (2, &mut key.model),
            (3, &mut key.route),
            (3, &mut key.api),
            (3, &mut key.provider),
            (4, &mut key.key),
            (4, &mut key.consumer),
            (4, &mut key.team),
            (5, &mut key.tenant),
        ];
        for (from, dimension) in dimensions {
            if from <= level && !dimension.is_empty() && &**dimension != OTHER {
                *dimension = Name::from(OTHER);
                key.folded = true;
            }
        }
        key
    }
}

/// The form that a new series takes when there are `count` of them.
pub(super) fn place(
    key: &SeriesKey,
    count: u32,
    cap: u32,
    exists: impl Fn(&SeriesKey) -> bool,
) -> SeriesKey {
    if count < cap {
        return key.clone();
    }
    for level in 1..LEVELS {
        let form = key.folded_to(level);
        let room = match level {
            1 => cap + cap / 8,
            2 => cap + cap / 4,
            3 => cap * 2,
            _ => cap * 2 + cap / 2,
        };
        let same = level < 3 && form == *key;
        if exists(&form) || (!same && count < room) {
            return form;
        }
    }
    key.folded_to(LEVELS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const CAP: u32 = 8;

    fn key(principal: &str, model: &str, upstream_model: &str) -> SeriesKey {
        let name = Name::from;
        SeriesKey {
            tenant: name("t"),
            team: name(""),
            consumer: name("c"),
            key: name(principal),
            route: name("r"),
            api: name(""),
            model: name(model),
            provider: name("p"),
            upstream_model: name(upstream_model),
            status_class: 2,
            folded: false,
        }
    }

    fn place_among(count: u32, existing: &[SeriesKey], key: &SeriesKey) -> SeriesKey {
        let existing: BTreeSet<&SeriesKey> = existing.iter().collect();
        place(key, count, CAP, |k| existing.contains(k))
    }

    #[test]
    fn below_the_cap_a_series_keeps_every_dimension() {
        let one = key("k", "m", "u");
        assert_eq!(place_among(CAP - 1, &[], &one), one);
    }

    #[test]
    fn each_level_folds_one_step_further_once_the_last_has_no_room() {
        let one = key("k", "m", "u");
        let levels = [
            (CAP, 1),
            (CAP + 1, 2),
            (CAP + 2, 3),
            (CAP * 2, 4),
            (CAP * 2 + 4, 5),
            (u32::MAX, 5),
        ];
        for (count, level) in levels {
            assert_eq!(
                place_among(count, &[], &one),
                one.folded_to(level),
                "{count}"
            );
        }
    }

    #[test]
    fn a_form_that_exists_is_used_though_there_is_no_room() {
        let one = key("k", "m", "u");
        let exists = [one.folded_to(2)];
        assert_eq!(place_among(u32::MAX, &exists, &one), exists[0]);
    }

    #[test]
    fn a_level_that_takes_nothing_away_is_no_way_around_the_cap() {
        let plain = key("k", "", "");
        assert_eq!(place_among(CAP, &[], &plain), plain.folded_to(3));
    }

    #[test]
    fn folding_marks_the_series_and_leaves_empty_dimensions_empty() {
        let folded = key("k", "m", "").folded_to(3);
        assert!(folded.folded);
        assert_eq!(
            (&*folded.model, &*folded.upstream_model, &*folded.api),
            (OTHER, "", "")
        );
        assert_eq!((&*folded.route, &*folded.key), (OTHER, "k"));
        assert_eq!(folded.folded_to(3), folded);
        let none = SeriesKey {
            route: "".into(),
            provider: "".into(),
            ..key("k", "", "")
        };
        assert!(!none.folded_to(3).folded);
    }
}

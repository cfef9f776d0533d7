//! What is wrong with a limit, taken by itself: amounts that are none, and fields that contradict one another.

use crate::check::Check;
use crate::command::Violation;
use crate::limit::{Dimension, Limit, Mode, Per, Unit, Window};
use crate::limits;
use crate::object::{Kind, Name, ObjectRef};
use crate::route::is_built_in_name;

// === impl Limit ===

impl Limit {
    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let at = ObjectRef {
            kind: Kind::Limit,
            tenant: self.tenant.clone(),
            name: Name::clone(&self.name),
        };
        let mut check = Check::of(at.path());
        check.name("name", &self.name);
        if let Some(tenant) = &self.tenant {
            check.name("tenant", tenant);
        }
        self.check_match(&mut check);
        self.check_each(&mut check);
        check_amount(&mut check, "amount", self.amount);
        self.check_time(&mut check);
        check.done()
    }

    fn check_match(&self, check: &mut Check) {
        for dimension in Dimension::ALL {
            let Some(name) = self.matches.value(dimension) else {
                continue;
            };
            let word = dimension.word();
            let field = format!("match.{word}");
            check.name(&field, name);
            let needs_tenant = match dimension {
                Dimension::Consumer | Dimension::Key => true,
                Dimension::Route => !is_built_in_name(name),
                Dimension::Tenant | Dimension::Team | Dimension::Api | Dimension::Model => false,
            };
            if needs_tenant && self.only_tenant().is_none() {
                let problem =
                    format!("a {word} belongs to a tenant: name it too, in `match.tenant`");
                check.fault(&field, problem);
            }
        }
        if let (Some(own), Some(other)) = (&self.tenant, &self.matches.tenant)
            && own != other
        {
            let problem = format!(
                "the limit is tenant {own}'s and matches its requests only; leave this out"
            );
            check.fault("match.tenant", problem);
        }
        if self.matches.api.is_some() {
            check.fault("match.api", NO_APIS);
        }
        if self
            .matches
            .route
            .as_deref()
            .is_some_and(|route| !is_built_in_name(route))
        {
            let problem = "only requests on built-in routes ask a model, so this would match nothing; leave it or the \
                           route out";
            if self.matches.model.is_some() {
                check.fault("match.model", problem);
            }
            if self.each == Some(Dimension::Model) {
                check.fault("each", problem);
            }
        }
    }

    fn check_each(&self, check: &mut Check) {
        let Some(each) = self.each else { return };
        let word = each.word();
        let fixed = match each {
            Dimension::Tenant => self.only_tenant().is_some(),
            other => self.matches.value(other).is_some(),
        };
        if each == Dimension::Api {
            check.fault("each", NO_APIS);
        } else if fixed {
            let problem = format!(
                "the limit is for one {word} alone, so there is one amount; leave `each` out, or that {word}"
            );
            check.fault("each", problem);
        }
    }

    /// How the amount comes back, and how strictly it is kept.
    fn check_time(&self, check: &mut Check) {
        if let Window::Bucket { burst } = self.window {
            check_amount(check, "burst", burst);
        }
        let is_bucket = matches!(self.window, Window::Bucket { .. });
        match (self.unit, self.per) {
            (Unit::Concurrent, Per::Total) => {
                if is_bucket {
                    check.fault("window", "concurrent calls have no window; leave it out");
                }
                if self.mode == Mode::Bounded {
                    let problem = "concurrent calls are limited strict or local; use one of these";
                    check.fault("mode", problem);
                }
            }
            (Unit::Concurrent, _) => {
                let problem =
                    "concurrent calls are counted at every moment, not per time; leave it out";
                check.fault("per", problem);
            }
            (Unit::Requests, Per::Second) if !is_bucket => {
                check.fault("window", "per second there is only a bucket; leave it out");
            }
            (Unit::Requests, Per::Month | Per::Total) if is_bucket => {
                let problem = "a bucket is for a second, a minute, an hour or a day; leave it out";
                check.fault("window", problem);
            }
            (Unit::Requests, _) => {}
        }
    }
}

const NO_APIS: &str = "there are no API products in this version; use another dimension";

fn check_amount(check: &mut Check, field: &str, amount: u64) {
    if amount == 0 || amount > limits::LIMIT_AMOUNT {
        let problem = format!("it must be from 1 to {}", limits::LIMIT_AMOUNT);
        check.fault(field, problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Match;

    fn limit() -> Limit {
        Limit {
            name: "l".into(),
            tenant: None,
            matches: Match::default(),
            each: None,
            unit: Unit::Requests,
            amount: 600,
            per: Per::Minute,
            window: Window::Calendar,
            mode: Mode::Bounded,
            shadow: false,
        }
    }

    fn faults(limit: &Limit) -> Vec<String> {
        let at = match &limit.tenant {
            Some(tenant) => format!("limits[{tenant}/l]."),
            None => "limits[l].".to_owned(),
        };
        let field = |v: Violation| v.path.strip_prefix(&at).unwrap().to_owned();
        limit.validate().into_iter().map(field).collect()
    }

    fn matching(fields: &[(Dimension, &str)]) -> Limit {
        let mut limit = limit();
        for (dimension, name) in fields {
            *limit.matches.value_mut(*dimension) = Some((*name).into());
        }
        limit
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn amounts_are_from_one_to_the_bound() {
        for (amount, sound) in [
            (0, false),
            (1, true),
            (limits::LIMIT_AMOUNT, true),
            (limits::LIMIT_AMOUNT + 1, false),
        ] {
            let per_amount = faults(&Limit { amount, ..limit() });
            assert_eq!(per_amount.is_empty(), sound, "{amount}");
            let window = Window::Bucket { burst: amount };
            let per_burst = faults(&Limit { window, ..limit() });
            assert_eq!(per_burst.is_empty(), sound, "{amount}");
        }
    }

    #[test]
    fn a_name_that_is_a_tenants_own_comes_with_its_tenant() {
        use Dimension::{Consumer, Key, Model, Route, Team, Tenant};
        for dimension in [Consumer, Key, Route] {
            let field = format!("match.{}", dimension.word());
            assert_eq!(faults(&matching(&[(dimension, "x")])), [field]);
            assert_eq!(
                faults(&matching(&[(dimension, "x"), (Tenant, "acme")])),
                NONE
            );
            let own = Limit {
                tenant: Some("acme".into()),
                ..matching(&[(dimension, "x")])
            };
            assert_eq!(faults(&own), NONE);
        }
        for alone in [
            (Team, "x"),
            (Model, "x"),
            (Route, "openai.chat_completions"),
        ] {
            assert_eq!(faults(&matching(&[alone])), NONE);
        }
    }

    #[test]
    fn a_tenants_limit_matches_no_other_tenant() {
        let of = |tenant: &str| Limit {
            tenant: Some(tenant.into()),
            ..matching(&[(Dimension::Tenant, "acme")])
        };
        assert_eq!(faults(&of("acme")), NONE);
        assert_eq!(faults(&of("beta")), ["match.tenant"]);
    }

    #[test]
    fn each_stands_beside_other_dimensions_only() {
        use Dimension::{Api, Consumer, Key, Tenant};
        let each = |each, limit: Limit| {
            faults(&Limit {
                each: Some(each),
                ..limit
            })
        };
        assert_eq!(each(Key, limit()), NONE);
        assert_eq!(each(Key, matching(&[(Tenant, "a"), (Consumer, "c")])), NONE);
        assert_eq!(each(Key, matching(&[(Tenant, "a"), (Key, "k")])), ["each"]);
        assert_eq!(each(Tenant, matching(&[(Tenant, "a")])), ["each"]);
        let own = Limit {
            tenant: Some("a".into()),
            ..limit()
        };
        assert_eq!(each(Tenant, own), ["each"]);
        assert_eq!(each(Api, limit()), ["each"]);
        assert_eq!(faults(&matching(&[(Api, "a")])), ["match.api"]);
    }

    #[test]
    fn a_limit_that_could_match_nothing_is_refused() {
        use Dimension::{Model, Route, Tenant};
        let user = [(Tenant, "a"), (Route, "orders")];
        assert_eq!(
            faults(&matching(&[user[0], user[1], (Model, "m")])),
            ["match.model"]
        );
        let each = Limit {
            each: Some(Model),
            ..matching(&user)
        };
        assert_eq!(faults(&each), ["each"]);
        let built_in = [(Route, "openai.chat_completions"), (Model, "m")];
        assert_eq!(faults(&matching(&built_in)), NONE);
    }

    fn of_time(unit: Unit, per: Per, window: Window, mode: Mode) -> Vec<String> {
        faults(&Limit {
            unit,
            per,
            window,
            mode,
            ..limit()
        })
    }

    #[test]
    fn requests_have_the_windows_of_their_time() {
        let bucket = Window::Bucket { burst: 1 };
        for per in Per::ALL {
            let said = |window| of_time(Unit::Requests, per, window, Mode::Bounded);
            let (no_calendar, no_bucket) = (per == Per::Second, per >= Per::Month);
            let refused = |is: bool| {
                if is {
                    vec!["window".to_owned()]
                } else {
                    Vec::new()
                }
            };
            assert_eq!(said(Window::Calendar), refused(no_calendar), "{per:?}");
            assert_eq!(said(bucket), refused(no_bucket), "{per:?}");
        }
    }

    #[test]
    fn concurrent_calls_have_no_time_and_are_strict_or_local() {
        let said = |per, window, mode| of_time(Unit::Concurrent, per, window, mode);
        let (calendar, bucket) = (Window::Calendar, Window::Bucket { burst: 1 });
        for mode in [Mode::Strict, Mode::Local] {
            assert_eq!(said(Per::Total, calendar, mode), NONE);
        }
        assert_eq!(said(Per::Total, calendar, Mode::Bounded), ["mode"]);
        assert_eq!(said(Per::Total, bucket, Mode::Strict), ["window"]);
        assert_eq!(said(Per::Minute, calendar, Mode::Strict), ["per"]);
    }

    #[test]
    fn names_are_checked_wherever_they_stand() {
        let bad = Limit {
            name: "L".into(),
            tenant: Some("A".into()),
            ..matching(&[(Dimension::Team, "x y")])
        };
        let paths: Vec<_> = bad.validate().into_iter().map(|v| v.path).collect();
        assert_eq!(
            paths,
            [
                "limits[A/L].name",
                "limits[A/L].tenant",
                "limits[A/L].match.team"
            ]
        );
    }

    #[test]
    fn amount_burst_mode_and_shadow_keep_what_was_used_and_nothing_else_does() {
        let old = Limit {
            window: Window::Bucket { burst: 5 },
            ..limit()
        };
        let same = Limit {
            amount: 1,
            window: Window::Bucket { burst: 9 },
            mode: Mode::Strict,
            shadow: true,
            ..old.clone()
        };
        assert!(old.counts_as(&same) && same.counts_as(&old));
        let others = [
            Limit {
                unit: Unit::Concurrent,
                ..old.clone()
            },
            Limit {
                per: Per::Hour,
                ..old.clone()
            },
            Limit {
                window: Window::Calendar,
                ..old.clone()
            },
            Limit {
                each: Some(Dimension::Key),
                ..old.clone()
            },
            Limit {
                window: old.window,
                ..matching(&[(Dimension::Team, "t")])
            },
        ];
        for other in others {
            assert!(!old.counts_as(&other), "{other:?}");
        }
    }

    #[test]
    fn the_default_mode_is_strict_where_an_excess_would_last() {
        for per in Per::ALL {
            let strict = per >= Per::Day;
            let mode = Mode::default_of(Unit::Requests, per);
            assert_eq!(mode == Mode::Strict, strict, "{per:?}");
            assert_eq!(Mode::default_of(Unit::Concurrent, per), Mode::Strict);
        }
    }
}

//! A model is the public name that clients ask for; its target is what serves it.

use std::sync::Arc;

use crate::check::Check;
use crate::command::Violation;
use crate::limits;
use crate::object::Name;
use crate::price::Price;

/// One concrete provider model.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Provider.
    pub provider: Name,
    /// The provider's own name of the model.
    pub model: Arc<str>,
    /// Price of this target, before the model's.
    pub price: Option<Price>,
}

/// Who may call a model: a tenant, or one consumer of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessEntry {
    /// Tenant.
    pub tenant: Name,
    /// One consumer of it, or all.
    pub consumer: Option<Name>,
}

/// A public model name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Model {
    /// Unique in the cluster.
    pub name: Name,
    /// What serves it.
    pub targets: Vec<Target>,
    /// Price, where the target states none.
    pub price: Option<Price>,
    /// Who may call it; everybody where absent.
    pub access: Option<Vec<AccessEntry>>,
}

// === impl Model ===

impl Model {
    /// What a target's tokens cost: its own price, or the model's.
    pub fn price_of(&self, target: &Target) -> Option<Price> {
        target.price.or(self.price)
    }

    /// Whether a consumer of a tenant may call it.
    pub fn admits(&self, tenant: &str, consumer: &str) -> bool {
        self.access.as_ref().is_none_or(|entries| {
            entries.iter().any(|entry| {
                &*entry.tenant == tenant && entry.consumer.as_deref().is_none_or(|c| c == consumer)
            })
        })
    }

    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("models[{}]", self.name));
        check.name("name", &self.name);
        match self.targets.len() {
            0 => check.fault(
                "targets",
                "a model needs a target: a provider and its model",
            ),
            1 => {}
            _ => check.fault(
                "targets",
                "more than one target comes in a later version; keep one",
            ),
        }
        for (at, target) in self.targets.iter().take(1).enumerate() {
            target.check(&mut check, &format!("targets[{at}]"));
        }
        if let Some(price) = &self.price {
            price.check(&mut check, "price");
        }
        if let Some(entries) = &self.access {
            check_access(&mut check, entries);
        }
        check.done()
    }
}

// === impl Target ===

impl Target {
    fn check(&self, check: &mut Check, at: &str) {
        check.name(format!("{at}.provider"), &self.provider);
        let sound = (1..=limits::UPSTREAM_MODEL).contains(&self.model.len())
            && !self.model.chars().any(char::is_control);
        if !sound {
            let problem = format!(
                "the provider's name of the model must have 1 to {} printable bytes",
                limits::UPSTREAM_MODEL
            );
            check.fault(format!("{at}.model"), problem);
        }
        if let Some(price) = &self.price {
            price.check(check, &format!("{at}.price"));
        }
    }
}

fn check_access(check: &mut Check, entries: &[AccessEntry]) {
    if entries.is_empty() {
        check.fault(
            "access",
            "nobody may call it; list tenants, or leave `access` out for all",
        );
    }
    check.count("access", entries.len(), 0, limits::ACCESS_ENTRIES);
    let entries = &entries[..entries.len().min(limits::ACCESS_ENTRIES)];
    check.distinct("access", entries);
    for (at, entry) in entries.iter().enumerate() {
        check.name(format!("access[{at}]"), &entry.tenant);
        if let Some(consumer) = &entry.consumer {
            check.name(format!("access[{at}]"), consumer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        input: 1,
        output: 2,
        cached_input: None,
        cache_write: None,
    };

    fn target() -> Target {
        Target {
            provider: "p".into(),
            model: "Org/Model:7b".into(),
            price: None,
        }
    }

    fn model() -> Model {
        Model {
            name: "fast".into(),
            targets: vec![target()],
            price: None,
            access: None,
        }
    }

    fn entry(tenant: &str, consumer: Option<&str>) -> AccessEntry {
        AccessEntry {
            tenant: tenant.into(),
            consumer: consumer.map(Into::into),
        }
    }

    fn paths(model: &Model) -> Vec<String> {
        model.validate().into_iter().map(|v| v.path).collect()
    }

    #[test]
    fn a_model_has_exactly_one_target() {
        assert_eq!(model().validate(), []);
        assert_eq!(
            paths(&Model {
                targets: Vec::new(),
                ..model()
            }),
            ["models[fast].targets"]
        );
        let two = Model {
            targets: vec![target(), target()],
            ..model()
        };
        assert!(two.validate()[0].problem.contains("later version"));
    }

    #[test]
    fn a_target_names_a_printable_model_and_a_sane_price() {
        for text in ["", "a\nb", &"x".repeat(257)] {
            let bad = Target {
                model: text.into(),
                ..target()
            };
            assert_eq!(
                paths(&Model {
                    targets: vec![bad],
                    ..model()
                }),
                ["models[fast].targets[0].model"]
            );
        }
        let dear = Price {
            output: limits::PRICE_PICO_USD + 1,
            ..PRICE
        };
        let bad = Model {
            targets: vec![Target {
                price: Some(dear),
                ..target()
            }],
            price: Some(dear),
            ..model()
        };
        assert_eq!(
            paths(&bad),
            [
                "models[fast].targets[0].price.output",
                "models[fast].price.output"
            ]
        );
    }

    #[test]
    fn the_price_of_a_target_goes_before_the_models() {
        let dearer = Price { input: 9, ..PRICE };
        let own = Target {
            price: Some(dearer),
            ..target()
        };
        let model = Model {
            price: Some(PRICE),
            ..model()
        };
        assert_eq!(model.price_of(&own), Some(dearer));
        assert_eq!(model.price_of(&target()), Some(PRICE));
    }

    #[test]
    fn access_is_for_all_for_a_tenant_or_for_one_consumer() {
        assert!(model().admits("any", "body"));
        let some = Model {
            access: Some(vec![entry("acme", None), entry("beta", Some("jobs"))]),
            ..model()
        };
        assert!(some.admits("acme", "x"));
        assert!(some.admits("beta", "jobs"));
        assert!(!some.admits("beta", "x"));
        assert!(!some.admits("gamma", "jobs"));
    }

    #[test]
    fn an_access_list_that_is_empty_or_repeats_is_refused() {
        assert_eq!(
            paths(&Model {
                access: Some(Vec::new()),
                ..model()
            }),
            ["models[fast].access"]
        );
        let twice = vec![entry("a", None), entry("a", None)];
        assert_eq!(
            paths(&Model {
                access: Some(twice),
                ..model()
            }),
            ["models[fast].access[1]"]
        );
    }
}

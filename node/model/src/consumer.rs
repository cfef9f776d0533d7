//! A consumer is an application of a tenant; keys authenticate as one.

use crate::check::Check;
use crate::command::Violation;
use crate::object::Name;

/// An application.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Consumer {
    /// Owner.
    pub tenant: Name,
    /// Unique within the tenant.
    pub name: Name,
    /// The group that usage is reported under, if any.
    pub team: Option<Name>,
}

// === impl Consumer ===

impl Consumer {
    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("consumers[{}/{}]", self.tenant, self.name));
        check.name("tenant", &self.tenant);
        check.name("name", &self.name);
        if let Some(team) = &self.team {
            check.name("team", team);
        }
        check.done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_of_a_consumer_is_checked() {
        let bad = Consumer {
            tenant: "A".into(),
            name: "".into(),
            team: Some("x y".into()),
        };
        let paths: Vec<_> = bad.validate().into_iter().map(|v| v.path).collect();
        assert_eq!(
            paths,
            [
                "consumers[A/].tenant",
                "consumers[A/].name",
                "consumers[A/].team"
            ]
        );
        let good = Consumer {
            tenant: "a".into(),
            name: "b".into(),
            team: None,
        };
        assert_eq!(good.validate(), []);
    }
}

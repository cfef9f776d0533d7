//! A limit: how much of what may be used, by whom, in which time, and how strictly that is kept.
//!
//! The scope belongs to the rule: whatever node or route sees a request, the same limits match it.

use crate::object::Name;

pub mod matching;
mod validate;

/// Number of a limit, given when it is made and again when what was used cannot count any more ([`Limit::counts_as`]); never used
/// twice.
pub type LimitId = u64;

/// What is counted.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Unit {
    /// Calls that were admitted.
    Requests,
    /// Calls that are open at the same time.
    Concurrent,
}

/// The time that an amount is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Per {
    /// Always a bucket.
    Second,
    /// Of UTC, as all of them.
    Minute,
    /// From minute 0.
    Hour,
    /// From midnight.
    Day,
    /// From the first.
    Month,
    /// Once and for all.
    Total,
}

/// How the amount comes back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Window {
    /// All of it when the next minute, hour, day or month of UTC begins.
    Calendar,
    /// Bit by bit: `amount` in the time that `per` says, up to `burst` at once.
    Bucket {
        /// What may be used at once; at least 1.
        burst: u64,
    },
}

/// How strictly an amount is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Never exceeded. A node that is cut off spends what it was granted, and refuses then.
    Strict,
    /// A node that is cut off may use one percent of the amount beyond what it was granted, in each window.
    Bounded,
    /// Every node alone keeps its share, the amount over the number of nodes; nothing goes through the log.
    Local,
}

/// A property of a request that limits go by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Dimension {
    /// Owner.
    Tenant,
    /// Group.
    Team,
    /// Application.
    Consumer,
    /// Credential, by name.
    Key,
    /// Route.
    Route,
    /// API product.
    Api,
    /// Public model name.
    Model,
}

/// Which requests count: those that have every value that is named here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Match {
    /// Owner.
    pub tenant: Option<Name>,
    /// Group.
    pub team: Option<Name>,
    /// Application.
    pub consumer: Option<Name>,
    /// Credential, by name.
    pub key: Option<Name>,
    /// Route.
    pub route: Option<Name>,
    /// API product.
    pub api: Option<Name>,
    /// Public model name.
    pub model: Option<Name>,
}

/// A limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limit {
    /// Unique among the limits of its tenant, or of the operator.
    pub name: Name,
    /// Whose limit it is; then it matches nothing but requests of this tenant. Absent: the operator's own.
    pub tenant: Option<Name>,
    /// Which requests count.
    pub matches: Match,
    /// Every value of this dimension has an amount of its own; a request without one is not limited.
    pub each: Option<Dimension>,
    /// What is counted.
    pub unit: Unit,
    /// How much of it; at least 1.
    pub amount: u64,
    /// In which time; [`Per::Total`] for concurrent calls, which have none.
    pub per: Per,
    /// How the amount comes back.
    pub window: Window,
    /// How strictly.
    pub mode: Mode,
    /// Counted and reported, never a reason to refuse.
    pub shadow: bool,
}

// === impl Unit ===

impl Unit {
    /// Those of this version.
    pub const ALL: [Self; 2] = [Self::Requests, Self::Concurrent];

    /// As documents say it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Concurrent => "concurrent",
        }
    }
}

// === impl Per ===

impl Per {
    /// From the shortest to the longest.
    pub const ALL: [Self; 6] = [
        Self::Second,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Month,
        Self::Total,
    ];

    /// As documents say it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

// === impl Mode ===

impl Mode {
    /// Every mode, the strictest first.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Bounded, Self::Local];

    /// As documents say it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Bounded => "bounded",
            Self::Local => "local",
        }
    }

    /// The mode of a limit that names none.
    pub const fn default_of(unit: Unit, per: Per) -> Self {
        match (unit, per) {
            (Unit::Concurrent, _) | (_, Per::Day | Per::Month | Per::Total) => Self::Strict,
            (Unit::Requests, Per::Second | Per::Minute | Per::Hour) => Self::Bounded,
        }
    }
}

// === impl Dimension ===

impl Dimension {
    /// Every dimension, in the order of their fields.
    pub const ALL: [Self; 7] = [
        Self::Tenant,
        Self::Team,
        Self::Consumer,
        Self::Key,
        Self::Route,
        Self::Api,
        Self::Model,
    ];

    /// As documents say it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Team => "team",
            Self::Consumer => "consumer",
            Self::Key => "key",
            Self::Route => "route",
            Self::Api => "api",
            Self::Model => "model",
        }
    }

    /// Whether each tenant gives names of its own, so that a name means nothing without its tenant.
    pub const fn is_tenants_own(self) -> bool {
        matches!(self, Self::Team | Self::Consumer | Self::Key | Self::Route)
    }
}

// === impl Match ===

impl Match {
    /// The value that a request must have in one dimension, if any.
    pub const fn value(&self, dimension: Dimension) -> Option<&Name> {
        match dimension {
            Dimension::Tenant => self.tenant.as_ref(),
            Dimension::Team => self.team.as_ref(),
            Dimension::Consumer => self.consumer.as_ref(),
            Dimension::Key => self.key.as_ref(),
            Dimension::Route => self.route.as_ref(),
            Dimension::Api => self.api.as_ref(),
            Dimension::Model => self.model.as_ref(),
        }
    }

    /// The same, to be set.
    pub const fn value_mut(&mut self, dimension: Dimension) -> &mut Option<Name> {
        match dimension {
            Dimension::Tenant => &mut self.tenant,
            Dimension::Team => &mut self.team,
            Dimension::Consumer => &mut self.consumer,
            Dimension::Key => &mut self.key,
            Dimension::Route => &mut self.route,
            Dimension::Api => &mut self.api,
            Dimension::Model => &mut self.model,
        }
    }
}

// === impl Limit ===

impl Limit {
    /// The only tenant whose requests it can match.
    pub fn only_tenant(&self) -> Option<&Name> {
        self.tenant.as_ref().or(self.matches.tenant.as_ref())
    }

    /// Whether what was used under this limit counts under the other one: the same is counted, of the same, in the same time.
    pub fn counts_as(&self, other: &Self) -> bool {
        let is_bucket = |limit: &Self| matches!(limit.window, Window::Bucket { .. });
        (self.unit, self.per, self.each) == (other.unit, other.per, other.each)
            && is_bucket(self) == is_bucket(other)
            && (&self.tenant, &self.matches) == (&other.tenant, &other.matches)
    }

    /// Whether a tenant is named in it, as owner or subject.
    pub(crate) fn names_tenant(&self, name: &str) -> bool {
        let is = |tenant: &Option<Name>| tenant.as_deref() == Some(name);
        is(&self.tenant) || is(&self.matches.tenant)
    }
}

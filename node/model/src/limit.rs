//! A limit: how much of what may be used, by whom, in which time, and how strictly that is kept.
//!
//! The scope belongs to the rule: whatever node or route sees a request, the same limits match it.

use crate::object::Name;

/// Number of a limit, given when it is made and again when its unit, its time, its window or its `each` change; never used twice.
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
    /// Unique.
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

// === impl Mode ===

impl Mode {
    /// As documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Bounded => "bounded",
            Self::Local => "local",
        }
    }
}

//! Token counts in one shape, whatever dialect reported them.
//!
//! Dialects disagree on whether a prompt's count includes cached tokens, so the classes here are
//! disjoint and every sum is taken in one place:
//! * input = `input_uncached` + `cache_read` + `cache_write`;
//! * `reasoning` is a part of `output`, never added to it.

/// Tokens of one call, by disjoint class.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Prompt tokens that were neither read from nor written to the provider's cache.
    pub input_uncached: u64,
    /// Prompt tokens that the provider read from its cache.
    pub cache_read: u64,
    /// Prompt tokens that the provider wrote to its cache.
    pub cache_write: u64,
    /// Generated tokens, reasoning included.
    pub output: u64,
    /// The part of `output` that was reasoning.
    pub reasoning: u64,
}

/// Where a call's token counts come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UsageSource {
    /// The provider counted them.
    Reported,
    /// The provider gave none that can be used; they were estimated from bytes.
    Estimated,
}

// === impl Usage ===

impl Usage {
    /// All prompt tokens, cached ones included.
    pub fn input(&self) -> u64 {
        self.input_uncached
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write)
    }

    /// All tokens of the call.
    pub fn total(&self) -> u64 {
        self.input().saturating_add(self.output)
    }
}

// === impl UsageSource ===

impl UsageSource {
    /// The name that records and reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Estimated => "estimated",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_and_reasoning_is_not_added_twice() {
        let usage = Usage {
            input_uncached: 10,
            cache_read: 5,
            cache_write: 2,
            output: 7,
            reasoning: 3,
        };
        assert_eq!(usage.input(), 17);
        assert_eq!(usage.total(), 24);
    }
}

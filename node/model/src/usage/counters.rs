//! The integers of a cell. Adding saturates, so that no input can make replicas differ or panic.

/// How many integers a cell has.
pub const COUNTERS: usize = 15;

/// The integers of a cell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Calls, each on the row of the attempt that answered.
    pub calls: u64,
    /// Calls that ended with 400 or more, or were cut; rejected ones excluded.
    pub errors: u64,
    /// Calls refused before any attempt.
    pub rejected: u64,
    /// Calls whose tokens were estimated.
    pub estimated: u64,
    /// Calls that were open when their node died.
    pub presumed: u64,
    /// Attempts.
    pub attempts: u64,
    /// Input tokens that touched no cache.
    pub input_uncached: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written to the provider's cache.
    pub cache_write: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
    /// Cost in nano-dollars.
    pub nano_usd: u64,
    /// Attempts with tokens but no known price.
    pub unpriced: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of answer bodies.
    pub bytes_out: u64,
}

// === impl Counters ===

impl Counters {
    /// Adds another cell's, each field by itself.
    pub const fn add(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.errors = self.errors.saturating_add(other.errors);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.estimated = self.estimated.saturating_add(other.estimated);
        self.presumed = self.presumed.saturating_add(other.presumed);
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.input_uncached = self.input_uncached.saturating_add(other.input_uncached);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.output = self.output.saturating_add(other.output);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
        self.nano_usd = self.nano_usd.saturating_add(other.nano_usd);
        self.unpriced = self.unpriced.saturating_add(other.unpriced);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
    }

    /// All of them, in the order of the struct.
    pub const fn values(&self) -> [u64; COUNTERS] {
        [
            self.calls,
            self.errors,
            self.rejected,
            self.estimated,
            self.presumed,
            self.attempts,
            self.input_uncached,
            self.cache_read,
            self.cache_write,
            self.output,
            self.reasoning,
            self.nano_usd,
            self.unpriced,
            self.bytes_in,
            self.bytes_out,
        ]
    }

    /// From [`Self::values`].
    pub const fn of(values: [u64; COUNTERS]) -> Self {
        let [
            calls,
            errors,
            rejected,
            estimated,
            presumed,
            attempts,
            input_uncached,
            cache_read,
            cache_write,
            output,
            reasoning,
            nano_usd,
            unpriced,
            bytes_in,
            bytes_out,
        ] = values;
        Self {
            calls,
            errors,
            rejected,
            estimated,
            presumed,
            attempts,
            input_uncached,
            cache_read,
            cache_write,
            output,
            reasoning,
            nano_usd,
            unpriced,
            bytes_in,
            bytes_out,
        }
    }

    /// Input tokens as reports show them: the cached and cache-write ones included.
    pub const fn input_tokens(&self) -> u64 {
        self.input_uncached
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write)
    }

    /// Input and output tokens.
    pub const fn total_tokens(&self) -> u64 {
        self.input_tokens().saturating_add(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_saturates_instead_of_wrapping() {
        let mut a = Counters {
            calls: u64::MAX,
            nano_usd: 7,
            ..Counters::default()
        };
        a.add(&Counters {
            calls: 3,
            nano_usd: 5,
            ..Counters::default()
        });
        assert_eq!((a.calls, a.nano_usd), (u64::MAX, 12));
    }

    #[test]
    fn counters_come_back_from_their_values() {
        let values = std::array::from_fn(|at| at as u64 + 1);
        assert_eq!(Counters::of(values).values(), values);
    }

    #[test]
    fn input_includes_what_was_cached_and_total_counts_reasoning_once() {
        let c = Counters {
            input_uncached: 1,
            cache_read: 10,
            cache_write: 100,
            output: 1_000,
            reasoning: 900,
            ..Counters::default()
        };
        assert_eq!((c.input_tokens(), c.total_tokens()), (111, 1_111));
    }
}

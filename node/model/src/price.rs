//! What tokens cost, in whole pico-dollars, so that no replica ever rounds.

use crate::check::Check;
use crate::limits;
use crate::usage::counters::Counters;

/// Pico-dollars per token. A price that is absent is charged as input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Price {
    /// Uncached input.
    pub input: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// Input read from the provider's cache.
    pub cached_input: Option<u64>,
    /// Input written to the provider's cache.
    pub cache_write: Option<u64>,
}

// === impl Price ===

impl Price {
    /// What the tokens of one attempt cost, in nano-dollars: summed in pico-dollars, rounded half up once.
    pub fn nano_usd(&self, tokens: &Counters) -> u64 {
        let of = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let pico = of(tokens.input_uncached, self.input)
            .saturating_add(of(
                tokens.cache_read,
                self.cached_input.unwrap_or(self.input),
            ))
            .saturating_add(of(
                tokens.cache_write,
                self.cache_write.unwrap_or(self.input),
            ))
            .saturating_add(of(tokens.output, self.output));
        u64::try_from(pico.saturating_add(500) / 1_000).unwrap_or(u64::MAX)
    }

    pub(crate) fn check(&self, check: &mut Check, at: &str) {
        let prices = [
            ("input", Some(self.input)),
            ("output", Some(self.output)),
            ("cached_input", self.cached_input),
            ("cache_write", self.cache_write),
        ];
        for (field, price) in prices {
            if price.is_some_and(|price| price > limits::PRICE_PICO_USD) {
                check.fault(
                    format!("{at}.{field}"),
                    "the price is above one dollar per token; state dollars per million tokens",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        input: 150_000,
        output: 600_000,
        cached_input: Some(75_000),
        cache_write: None,
    };

    #[test]
    fn a_cost_is_summed_exactly_and_rounded_half_up_once() {
        let cost = |input_uncached, output| {
            PRICE.nano_usd(&Counters {
                input_uncached,
                output,
                ..Counters::default()
            })
        };
        assert_eq!(cost(1_000_000, 0), 150_000_000); // $0.15
        assert_eq!(cost(3, 1), 1_050);
        let half = Price {
            input: 500,
            output: 499,
            cached_input: None,
            cache_write: None,
        };
        let one = |input_uncached, output| {
            half.nano_usd(&Counters {
                input_uncached,
                output,
                ..Counters::default()
            })
        };
        assert_eq!((one(1, 0), one(0, 1), one(1, 1)), (1, 0, 1));
    }

    #[test]
    fn a_price_that_is_absent_is_charged_as_input() {
        let tokens = Counters {
            cache_read: 10,
            cache_write: 10,
            ..Counters::default()
        };
        assert_eq!(PRICE.nano_usd(&tokens), 10 * 75 + 10 * 150);
    }

    #[test]
    fn no_amount_overflows() {
        let price = Price {
            input: u64::MAX,
            output: u64::MAX,
            cached_input: None,
            cache_write: None,
        };
        let tokens = Counters {
            input_uncached: u64::MAX,
            cache_read: u64::MAX,
            output: u64::MAX,
            ..Counters::default()
        };
        assert_eq!(price.nano_usd(&tokens), u64::MAX);
    }
}

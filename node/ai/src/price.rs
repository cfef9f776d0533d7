//! Prices and costs without floats.
//!
//! A price is written in USD per million tokens with at most six decimals, which is a whole number
//! of pico-dollars per token: "0.15" is 150 000. A cost is summed in pico-dollars (u128) and
//! rounded half up to nano-dollars once, so that costs add up to what the price table says.
//! Reasoning tokens are output tokens and cost what those cost.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::usage::Usage;

/// The dearest price accepted, in USD per million tokens.
pub const USD_PER_MILLION_MAX: u64 = 1_000_000;

const DECIMALS_MAX: usize = 6;
const INTEGER_DIGITS_MAX: usize = 7;
const PICO_PER_USD_PER_MILLION: u64 = 1_000_000;
const PICO_PER_NANO: u128 = 1_000;
const NANO_PER_USD: u64 = 1_000_000_000;

/// The price of one token, in whole pico-dollars.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct TokenPrice(u64);

/// What a model's tokens cost, by class.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Price {
    /// Of a prompt token.
    pub input: TokenPrice,
    /// Of a generated token.
    pub output: TokenPrice,
    /// Of a prompt token read from the provider's cache; where absent, as `input`.
    pub cached_input: Option<TokenPrice>,
    /// Of a prompt token written to the provider's cache; where absent, as `input`.
    pub cache_write: Option<TokenPrice>,
}

/// Why a text is not a price.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PriceError {
    /// It is not digits with at most one decimal point between them.
    #[error("reading a price: write USD per million tokens as plain digits, such as \"0.15\"")]
    NotDecimal,
    /// It is finer than a pico-dollar per token.
    #[error("reading a price: at most {DECIMALS_MAX} decimals can be kept exactly")]
    TooFine,
    /// It is more than [`USD_PER_MILLION_MAX`].
    #[error("reading a price: more than {USD_PER_MILLION_MAX} USD per million tokens")]
    TooDear,
}

// === impl TokenPrice ===

impl TokenPrice {
    /// The price of `pico` pico-dollars per token.
    ///
    /// # Errors
    ///
    /// [`PriceError::TooDear`] above [`USD_PER_MILLION_MAX`].
    pub fn from_pico_dollars(pico: u64) -> Result<Self, PriceError> {
        if pico > USD_PER_MILLION_MAX * PICO_PER_USD_PER_MILLION {
            return Err(PriceError::TooDear);
        }
        Ok(Self(pico))
    }

    /// Pico-dollars per token.
    pub fn pico_dollars(self) -> u64 {
        self.0
    }
}

impl FromStr for TokenPrice {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(PriceError::NotDecimal),
            Some((whole, fraction)) => (whole, fraction),
            None => (text, ""),
        };
        let digits_only = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits_only(whole) || !digits_only(fraction) {
            return Err(PriceError::NotDecimal);
        }
        if fraction.len() > DECIMALS_MAX {
            return Err(PriceError::TooFine);
        }
        if whole.len() > INTEGER_DIGITS_MAX {
            return Err(PriceError::TooDear);
        }
        let value = |digits: &str| digits.bytes().fold(0, |n, b| n * 10 + u64::from(b - b'0'));
        let scale = (fraction.len()..DECIMALS_MAX).fold(1, |n, _| n * 10);
        Self::from_pico_dollars(value(whole) * PICO_PER_USD_PER_MILLION + value(fraction) * scale)
    }
}

impl fmt::Display for TokenPrice {
    /// The shortest decimal that reads back as the same price, in USD per million tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shortest_decimal(
            self.0,
            PICO_PER_USD_PER_MILLION,
            DECIMALS_MAX,
        ))
    }
}

// === free functions ===

/// The cost of `usage` in nano-dollars, rounded half up; saturates.
pub fn cost(usage: &Usage, price: &Price) -> u64 {
    let classes = [
        (usage.input_uncached, price.input),
        (usage.cache_read, price.cached_input.unwrap_or(price.input)),
        (usage.cache_write, price.cache_write.unwrap_or(price.input)),
        (usage.output, price.output),
    ];
    let pico = classes.iter().fold(0_u128, |sum, (tokens, price)| {
        sum.saturating_add(u128::from(*tokens) * u128::from(price.0))
    });
    let nano = pico.saturating_add(PICO_PER_NANO / 2) / PICO_PER_NANO;
    u64::try_from(nano).unwrap_or(u64::MAX)
}

/// Nano-dollars as a decimal string of USD, with at most nine decimals and no trailing zeros.
pub fn format_usd(nano_dollars: u64) -> String {
    shortest_decimal(nano_dollars, NANO_PER_USD, 9)
}

fn shortest_decimal(value: u64, scale: u64, decimals: usize) -> String {
    let text = format!("{}.{:0decimals$}", value / scale, value % scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(text: &str) -> TokenPrice {
        text.parse().unwrap()
    }

    #[test]
    fn a_price_is_whole_pico_dollars_per_token() {
        assert_eq!(price("0.15").pico_dollars(), 150_000);
        assert_eq!(price("0.000001").pico_dollars(), 1);
        assert_eq!(price("1000000").pico_dollars(), 1_000_000_000_000);
        assert_eq!(price("0"), TokenPrice::default());
        assert_eq!(price("0.150").to_string(), "0.15");
        assert_eq!(price("20").to_string(), "20");
    }

    #[test]
    fn what_is_not_a_plain_decimal_is_refused() {
        for text in [
            "", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", " 1", "1.2.3", "0x1", "NaN",
        ] {
            assert_eq!(
                text.parse::<TokenPrice>(),
                Err(PriceError::NotDecimal),
                "{text:?}"
            );
        }
        assert_eq!("0.1234567".parse::<TokenPrice>(), Err(PriceError::TooFine));
        assert_eq!(
            "1000000.000001".parse::<TokenPrice>(),
            Err(PriceError::TooDear)
        );
        assert_eq!(
            "99999999999999999999".parse::<TokenPrice>(),
            Err(PriceError::TooDear)
        );
    }

    #[test]
    fn a_class_without_a_price_of_its_own_costs_what_input_costs() {
        let usage = Usage {
            input_uncached: 1_000,
            cache_read: 500,
            cache_write: 200,
            output: 100,
            reasoning: 60,
        };
        let plain = Price {
            input: price("0.15"),
            output: price("0.6"),
            ..Price::default()
        };
        assert_eq!(cost(&usage, &plain), (1_700 * 150 + 100 * 600));

        let detailed = Price {
            cached_input: Some(price("0.075")),
            cache_write: Some(price("0.2")),
            ..plain
        };
        assert_eq!(
            cost(&usage, &detailed),
            1_000 * 150 + 500 * 75 + 200 * 200 + 100 * 600
        );
    }

    #[test]
    fn half_a_nano_dollar_rounds_up_and_only_once() {
        let one = |pico| Price {
            input: TokenPrice(pico),
            output: TokenPrice(pico),
            ..Price::default()
        };
        let usage = Usage {
            input_uncached: 1,
            output: 1,
            ..Usage::default()
        };
        assert_eq!(cost(&usage, &one(249)), 0);
        assert_eq!(cost(&usage, &one(250)), 1);
        assert_eq!(cost(&usage, &one(750)), 2);
    }

    #[test]
    fn an_absurd_cost_saturates() {
        let usage = Usage {
            output: u64::MAX,
            ..Usage::default()
        };
        let dear = Price {
            output: price("1000000"),
            ..Price::default()
        };
        assert_eq!(cost(&usage, &dear), u64::MAX);
    }

    #[test]
    fn dollars_are_written_without_trailing_zeros() {
        assert_eq!(format_usd(0), "0");
        assert_eq!(format_usd(1_234), "0.000001234");
        assert_eq!(format_usd(1_500_000_000), "1.5");
        assert_eq!(format_usd(20_000_000_000), "20");
        assert_eq!(format_usd(u64::MAX), "18446744073.709551615");
    }

    proptest! {
        #[test]
        fn a_price_reads_back_as_it_was_written(pico in 0..=1_000_000_000_000_u64) {
            let price = TokenPrice::from_pico_dollars(pico).unwrap();
            prop_assert_eq!(price.to_string().parse::<TokenPrice>(), Ok(price));
        }

        #[test]
        fn any_text_reads_or_is_refused(text in ".{0,24}") {
            if let Ok(price) = text.parse::<TokenPrice>() {
                prop_assert_eq!(price.to_string().parse::<TokenPrice>(), Ok(price));
            }
        }

        #[test]
        fn a_cost_is_within_half_a_nano_dollar_of_the_exact_sum(
            tokens in prop::array::uniform4(0..=1_000_000_000_u64),
            prices in prop::array::uniform4(0..=1_000_000_u64),
        ) {
            let usage = Usage {
                input_uncached: tokens[0],
                cache_read: tokens[1],
                cache_write: tokens[2],
                output: tokens[3],
                reasoning: 0,
            };
            let price = Price {
                input: TokenPrice(prices[0]),
                cached_input: Some(TokenPrice(prices[1])),
                cache_write: Some(TokenPrice(prices[2])),
                output: TokenPrice(prices[3]),
            };
            let exact: u128 = (0..4).map(|i| u128::from(tokens[i]) * u128::from(prices[i])).sum();
            let rounded = u128::from(cost(&usage, &price)) * 1_000;
            prop_assert!(rounded <= exact + 500 && exact < rounded + 500);
        }

        #[test]
        fn dollars_never_have_more_than_nine_decimals(nano: u64) {
            let text = format_usd(nano);
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            prop_assert!(fraction.len() <= 9 && !fraction.ends_with('0'));
            let padded = format!("{whole}{fraction:0<9}");
            prop_assert_eq!(padded.parse::<u128>().unwrap(), u128::from(nano));
        }
    }
}

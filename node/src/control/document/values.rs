//! Values that are written as texts: durations (`250ms`, `1m30s`, `7d`) and prices (`"0.15"`).

use mode_envoy_ai::price::TokenPrice;
use mode_envoy_model::price::Price;

use super::Faults;
use super::fields::Fields;
use super::node::Node;

/// Longest first, so that a duration is written with the largest unit that divides it.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const DURATION_HELP: &str = "write a duration such as 250ms, 5s, 10m, 2h or 7d";

/// Reads a duration, in milliseconds: whole numbers, each with a unit, such as `1m30s`.
///
/// # Errors
///
/// A sentence that says how durations are written.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let refused = || format!("`{text}` is not a duration; {DURATION_HELP}");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refused());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| refused())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = UNITS
            .iter()
            .find(|(unit, _)| *unit == &rest[..letters])
            .ok_or_else(refused)?;
        rest = &rest[letters..];
        let part = number.checked_mul(unit.1).ok_or_else(refused)?;
        total = total.checked_add(part).ok_or_else(refused)?;
    }
    Ok(total)
}

/// Writes a duration so that [`parse_duration`] reads it back.
pub fn format_duration(ms: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, size)| ms != 0 && ms.is_multiple_of(*size));
    let (name, size) = unit.copied().unwrap_or(("ms", 1));
    format!("{}{name}", ms / size)
}

/// Reads the field `price` of a model or a target.
pub(super) fn read_price(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Price> {
    let mut price = fields.map("price", faults)?;
    let input = required_price(&mut price, "input", faults);
    let output = required_price(&mut price, "output", faults);
    let cached_input = token_price(&mut price, "cached_input", faults);
    let cache_write = token_price(&mut price, "cache_write", faults);
    price.finish(&[], faults);
    Some(Price {
        input: input?,
        output: output?,
        cached_input,
        cache_write,
    })
}

/// The field `price` of a model or a target.
pub(super) fn price_node(price: &Price) -> Node {
    let text = |pico: u64| {
        let exact = TokenPrice::from_pico_dollars(pico);
        // A price in the catalog was read from a text or held to the same bound, so it is never out of range.
        Node::text(exact.map_or_else(|_| pico.to_string(), |price| price.to_string()))
    };
    super::write::map([
        ("input", Some(text(price.input))),
        ("output", Some(text(price.output))),
        ("cached_input", price.cached_input.map(text)),
        ("cache_write", price.cache_write.map(text)),
    ])
}

fn required_price(fields: &mut Fields<'_>, name: &'static str, faults: &mut Faults) -> Option<u64> {
    if !fields.has(name) {
        let problem =
            format!("`{name}` is missing; state it in USD per million tokens, such as \"0.15\"");
        fields.fault(problem, faults);
        return None;
    }
    token_price(fields, name, faults)
}

fn token_price(fields: &mut Fields<'_>, name: &'static str, faults: &mut Faults) -> Option<u64> {
    let node = fields.take(name)?;
    let text = fields.text_of(node, name, faults)?;
    match text.parse::<TokenPrice>() {
        Ok(price) => Some(price.pico_dollars()),
        Err(error) => {
            fields.fault_at(node.at, name, format!("`{text}`: {error}"), faults);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("10m", 600_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "5y",
            "99999999999999999999s",
            "5ſ",
            "9999999999999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_with_the_largest_unit_that_divides_them() {
        for (ms, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (90_000, "90s"),
            (60_000, "1m"),
            (86_400_000, "1d"),
        ] {
            assert_eq!(format_duration(ms), text);
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_back(ms in any::<u64>()) {
            prop_assert_eq!(parse_duration(&format_duration(ms)), Ok(ms));
        }
    }
}

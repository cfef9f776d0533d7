//! What a call is taken to have used where its provider does not say.
//!
//! One token for each four bytes of text, rounded up: crude, but the same on every node, known to
//! the user from the documentation, and exact for the embedded model. An estimate is always
//! flagged as one.

use crate::usage::{Usage, UsageSource};

/// Bytes of text that count as one token.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Tokens of a text of `bytes` bytes.
pub fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The usage of a call with `prompt_bytes` bytes of text sent and `output_bytes` received.
pub fn usage(prompt_bytes: u64, output_bytes: u64) -> Usage {
    Usage {
        input_uncached: tokens(prompt_bytes),
        output: tokens(output_bytes),
        ..Usage::default()
    }
}

/// The reported usage where there is one, else the estimate.
pub fn reported_or_estimated(
    reported: Option<Usage>,
    prompt_bytes: u64,
    output_bytes: u64,
) -> (Usage, UsageSource) {
    match reported {
        Some(usage) => (usage, UsageSource::Reported),
        None => (usage(prompt_bytes, output_bytes), UsageSource::Estimated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bytes_make_a_token_and_a_rest_makes_one_more() {
        let counts: Vec<u64> = [0, 1, 4, 5, 8].map(tokens).to_vec();
        assert_eq!(counts, [0, 1, 1, 2, 2]);
        assert_eq!(tokens(u64::MAX), u64::MAX / 4 + 1);
    }

    #[test]
    fn what_the_provider_reports_wins_over_the_estimate() {
        let reported = Usage {
            output: 3,
            ..Usage::default()
        };
        assert_eq!(
            reported_or_estimated(Some(reported), 100, 100),
            (reported, UsageSource::Reported)
        );
        let (estimated, source) = reported_or_estimated(None, 9, 4);
        assert_eq!(source, UsageSource::Estimated);
        assert_eq!((estimated.input(), estimated.output), (3, 1));
    }
}

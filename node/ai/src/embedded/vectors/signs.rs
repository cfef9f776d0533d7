//! The vector of one text: for each entry the sign of a sum over its words.
//!
//! Each word has a sign for each dimension; a text's entry is the sign of the sum over its words (a similarity hash). All
//! entries have one magnitude, and as many of them are set as the greatest power of four that fits, so that the length of
//! each vector is exactly one, in numbers that every machine writes alike.
//!
//! Of an input [`TEXT_BYTES_MAX`] bytes are looked at and [`WORDS_MAX`] words count, each hashed once. The signs of a word
//! come by the block, and the words are counted for a whole block at a time.

use crate::embedded::digest;
use crate::openai::embeddings::{Begin, Input, Keep};

/// What of an input is looked at.
pub(super) const KEEP: Keep = Keep {
    text_bytes: TEXT_BYTES_MAX,
    tokens: WORDS_MAX,
};
/// Bytes of an input's text in which words are looked for.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Words of an input that count; whatever comes later says nothing new.
const WORDS_MAX: usize = 256;
/// Signs that are counted at once.
const BLOCK: usize = 128;
/// Binary digits of a count of words.
const DIGITS: usize = WORDS_MAX.ilog2() as usize + 1;

/// The signs of one text's vector, and how many entries it has in all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Vector {
    signs: Vec<bool>,
    dimensions: usize,
}

/// For each bit of a block, how many words have it set: the binary digits of all counts, lowest first.
#[derive(Clone, Copy, Debug, Default)]
struct Counts([u128; DIGITS]);

// === impl Vector ===

impl Vector {
    pub(super) fn of(input: &Input<'_>, dimensions: usize) -> Self {
        let set = 1 << (dimensions.ilog2() / 2 * 2);
        let words = digests(&input.begin);
        let signs = (0..).flat_map(|nth| {
            let mut counts = Counts::default();
            for word in &words {
                counts.add(digest::block(*word, nth));
            }
            let all = words.len();
            (0..BLOCK).map(move |at| 2 * counts.at(at) >= all)
        });
        Self {
            signs: signs.take(set).collect(),
            dimensions,
        }
    }

    /// The entries; a power of two each, or zero.
    pub(super) fn entries(&self) -> impl Iterator<Item = f32> {
        let halvings = self.signs.len().ilog2() / 2;
        let magnitude = (0..halvings).fold(1.0_f32, |magnitude, _| magnitude / 2.0);
        let set = self
            .signs
            .iter()
            .map(move |plus| if *plus { magnitude } else { -magnitude });
        set.chain(std::iter::repeat_n(0.0, self.dimensions - self.signs.len()))
    }
}

// === impl Counts ===

impl Counts {
    /// Counts each bit that is set; as with a pencil, a carry goes to the next digit.
    fn add(&mut self, bits: u128) {
        let mut carry = bits;
        for digit in &mut self.0 {
            (*digit, carry) = (*digit ^ carry, *digit & carry);
        }
    }

    /// How often the bit was set.
    fn at(&self, bit: usize) -> usize {
        let digits = self.0.iter().rev();
        digits.fold(0, |count, digit| {
            2 * count + usize::from(digit >> bit & 1 == 1)
        })
    }
}

// === free functions ===

/// One for each word that counts.
fn digests(begin: &Begin<'_>) -> Vec<u128> {
    match begin {
        Begin::Text(text) => {
            let words = text.split(|c: char| !c.is_alphanumeric());
            let words = words.filter(|word| !word.is_empty()).take(WORDS_MAX);
            let digest = |word: &str| digest::of(word.to_lowercase().as_bytes());
            words.map(digest).collect()
        }
        Begin::Tokens(tokens) => {
            let words = tokens.iter().take(WORDS_MAX);
            words
                .map(|token| digest::of(&token.to_le_bytes()))
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_adding_one_by_one() {
        let mut counts = Counts::default();
        let mut expected = [0_usize; BLOCK];
        for nth in 0..WORDS_MAX as u128 {
            let bits = digest::block(7, nth) | 1;
            counts.add(bits);
            for (at, count) in expected.iter_mut().enumerate() {
                *count += usize::from(bits >> at & 1 == 1);
            }
        }
        assert_eq!(expected[0], WORDS_MAX);
        for (at, expected) in expected.into_iter().enumerate() {
            assert_eq!(counts.at(at), expected, "{at}");
        }
    }
}

//! What an embeddings request wants embedded, counted while it is read.
//!
//! Nothing is kept but what [`Keep`] asks for: no tree is built of a body that may hold millions of numbers, and reading
//! stops at the first thing that is too much or of the wrong kind.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use super::INPUTS_MAX;
use crate::estimate::BYTES_PER_TOKEN;

/// How much of the begin of each input is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Keep {
    pub(crate) text_bytes: usize,
    pub(crate) tokens: usize,
}

/// One input; it is not empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Input<'a> {
    /// All its bytes, for the estimate of its tokens; a token counts as four.
    pub(crate) bytes: u64,
    pub(crate) begin: Begin<'a>,
}

/// As much of an input as was to be kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Begin<'a> {
    Text(Cow<'a, str>),
    Tokens(Vec<u32>),
}

/// Reads all inputs: one at least, [`INPUTS_MAX`] at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct InputsSeed(pub(super) Keep);

/// Reads what may stand in the outer array.
#[derive(Clone, Copy, Debug)]
struct ElementSeed(Keep);

#[derive(Debug)]
enum Element<'a> {
    /// The outer array is one input.
    Token(u32),
    Input(Input<'a>),
}

/// An array of tokens on its way through.
#[derive(Debug, Default)]
struct Tokens {
    count: u64,
    begin: Vec<u32>,
}

// === impl Keep ===

impl Keep {
    /// For those who only count.
    pub(crate) const NOTHING: Self = Self {
        text_bytes: 0,
        tokens: 0,
    };

    fn begin_of(self, text: &str) -> &str {
        &text[..text.floor_char_boundary(self.text_bytes)]
    }
}

// === impl Input ===

impl<'a> Input<'a> {
    fn new<E: Error>(bytes: u64, begin: Begin<'a>) -> Result<Self, E> {
        if bytes == 0 {
            return Err(E::custom("an input is empty"));
        }
        Ok(Self { bytes, begin })
    }

    fn borrowed<E: Error>(text: &'a str, keep: Keep) -> Result<Self, E> {
        let begin = Cow::Borrowed(keep.begin_of(text));
        Self::new(text.len() as u64, Begin::Text(begin))
    }

    fn owned<E: Error>(text: &str, keep: Keep) -> Result<Self, E> {
        let begin = Cow::Owned(keep.begin_of(text).to_owned());
        Self::new(text.len() as u64, Begin::Text(begin))
    }
}

// === impl Tokens ===

impl Tokens {
    fn push(&mut self, token: u32, keep: Keep) {
        self.count += 1;
        if self.begin.len() < keep.tokens {
            self.begin.push(token);
        }
    }

    /// Reads to the end of the array.
    fn rest<'a, 'de, A>(mut self, mut seq: A, keep: Keep) -> Result<Input<'a>, A::Error>
    where
        A: SeqAccess<'de>,
    {
        while let Some(token) = seq.next_element()? {
            self.push(token, keep);
        }
        let bytes = self.count.saturating_mul(BYTES_PER_TOKEN);
        Input::new(bytes, Begin::Tokens(self.begin))
    }
}

// === impl InputsSeed ===

impl<'de> DeserializeSeed<'de> for InputsSeed {
    type Value = Vec<Input<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for InputsSeed {
    type Value = Vec<Input<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or an array")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(vec![Input::borrowed(text, self.0)?])
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![Input::owned(text, self.0)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut inputs = Vec::new();
        while let Some(element) = seq.next_element_seed(ElementSeed(self.0))? {
            match element {
                Element::Token(first) if inputs.is_empty() => {
                    let mut tokens = Tokens::default();
                    tokens.push(first, self.0);
                    return Ok(vec![tokens.rest(seq, self.0)?]);
                }
                Element::Token(_) => return Err(A::Error::custom("a number among inputs")),
                Element::Input(_) if inputs.len() == INPUTS_MAX => {
                    return Err(A::Error::custom("too many inputs"));
                }
                Element::Input(input) => inputs.push(input),
            }
        }
        if inputs.is_empty() {
            return Err(A::Error::custom("no inputs"));
        }
        Ok(inputs)
    }
}

// === impl ElementSeed ===

impl<'de> DeserializeSeed<'de> for ElementSeed {
    type Value = Element<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed {
    type Value = Element<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a token or an array of tokens")
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<Self::Value, E> {
        let token = u32::try_from(token).map_err(|_| E::custom("a token that is too large"))?;
        Ok(Element::Token(token))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Input::borrowed(text, self.0).map(Element::Input)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Input::owned(text, self.0).map(Element::Input)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Tokens::default().rest(seq, self.0).map(Element::Input)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::de::value::{Error as ValueError, SeqDeserializer};

    use super::*;

    const SOME: Keep = Keep {
        text_bytes: 4,
        tokens: 3,
    };

    fn read(json: &str, keep: Keep) -> Option<Vec<Input<'_>>> {
        let mut json = serde_json::Deserializer::from_str(json);
        InputsSeed(keep).deserialize(&mut json).ok()
    }

    #[test]
    fn millions_of_tokens_are_counted_and_hardly_any_kept() {
        let many = format!("[1{}]", ",1".repeat(3_000_000));
        let nested = format!("[{many}, [2]]");
        for (json, of_each) in [(&many, vec![3]), (&nested, vec![3, 1])] {
            for (keep, at_most) in [(Keep::NOTHING, 0), (SOME, 3)] {
                let inputs = read(json, keep).unwrap();
                assert_eq!(inputs[0].bytes, 4 * 3_000_001);
                assert_eq!(inputs.len(), of_each.len());
                for (input, held) in inputs.iter().zip(&of_each) {
                    let Begin::Tokens(begin) = &input.begin else {
                        panic!("{:?}", input.begin);
                    };
                    assert_eq!(begin.len(), at_most.min(*held));
                    // What the vector has room for is what it took from the allocator.
                    assert!(begin.capacity() <= 4, "{}", begin.capacity());
                }
            }
        }
    }

    #[test]
    fn a_long_text_is_counted_whole_and_kept_as_far_as_asked_for() {
        let long = "xyé".repeat(100_000);
        for json in [format!("\"{long}\""), format!("\"\\u0078{}\"", &long[1..])] {
            let inputs = read(&json, SOME).unwrap();
            assert_eq!(inputs[0].bytes, 400_000);
            assert_eq!(inputs[0].begin, Begin::Text("xyé".into()));
            let counted = read(&json, Keep::NOTHING).unwrap();
            assert_eq!(counted[0].begin, Begin::Text("".into()));
        }
        let json = format!("\"{long}\"");
        let inputs = read(&json, SOME).unwrap();
        assert!(matches!(inputs[0].begin, Begin::Text(Cow::Borrowed(_))));
    }

    #[test]
    fn reading_stops_at_the_first_input_too_many() {
        let asked = Cell::new(0);
        let endless = std::iter::repeat_with(|| {
            asked.set(asked.get() + 1);
            "text"
        });
        let refused = InputsSeed(SOME).visit_seq(SeqDeserializer::<_, ValueError>::new(endless));
        assert_eq!(refused.unwrap_err().to_string(), "too many inputs");
        assert_eq!(asked.get(), INPUTS_MAX + 1);
    }

    #[test]
    fn kinds_may_stand_side_by_side_but_a_number_only_among_numbers() {
        let mixed = read(r#"["ab", [7, 8], "c"]"#, SOME).unwrap();
        let bytes: Vec<u64> = mixed.iter().map(|input| input.bytes).collect();
        assert_eq!(bytes, [2, 8, 1]);
        assert_eq!(mixed[1].begin, Begin::Tokens(vec![7, 8]));
        for json in [
            r#"["a", 1]"#,
            r#"[1, "a"]"#,
            "[[1], 2]",
            "[1, [2]]",
            "[[[1]]]",
            r#"[["a"]]"#,
            "[1.5]",
            "[1, 1e2]",
            "[4294967296]",
            "[1, 4294967296]",
            "[[4294967296]]",
            "[1, -1]",
            "[null]",
            "[true]",
            "[{}]",
            "[1, [], 2]",
            "[[1], []]",
            "null",
        ] {
            assert_eq!(read(json, SOME), None, "{json}");
        }
        assert!(read("[4294967295]", SOME).is_some());
    }
}

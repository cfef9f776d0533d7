//! The stream that says the same as a completion, frame by frame.
//!
//! Order: a chunk with the role for each choice, pieces of one token each with the choices taking
//! turns, a chunk with the finish reason, usage where it was asked for, `[DONE]`. Chunks are written
//! when they are asked for, so a stream costs little memory beyond its text.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;

use crate::embedded::answer::{Choice, Output};
use crate::embedded::wire::{
    CallOut, Completion, FunctionOut, Null, Nullable, UsageOut, to_json, whole_call,
};

const PIECE_BYTES: usize = 4;

/// The frames of a stream, each as the bytes of one server-sent event.
#[derive(Clone, Debug)]
pub struct Frames {
    completion: Completion,
    steps: Vec<Vec<Step>>,
    include_usage: bool,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Step {
    Role,
    Text(Range<usize>),
    Call(usize),
    Arguments(usize, Range<usize>),
    Finish,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Steps { step: usize, choice: usize },
    Usage,
    Done,
    Over,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Null,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Nullable<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Null>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallOut<'a>; 1]>,
}

// === impl Frames ===

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Phase::Steps { step, choice } = self.phase
            && let Some((choice, nth)) = self.next_step(step, choice)
        {
            self.phase = Phase::Steps {
                step: nth,
                choice: choice + 1,
            };
            return Some(self.chunk(choice, &self.steps[choice][nth]));
        }
        match self.phase {
            Phase::Steps { .. } if self.include_usage => {
                self.phase = Phase::Usage;
                let usage = Some(Nullable::Value(self.completion.usage));
                Some(self.frame(Vec::new(), usage))
            }
            Phase::Steps { .. } | Phase::Usage => {
                self.phase = Phase::Done;
                Some(Bytes::from_static(b"data: [DONE]\n\n"))
            }
            Phase::Done | Phase::Over => {
                self.phase = Phase::Over;
                None
            }
        }
    }
}

impl Frames {
    pub(crate) fn new(completion: Completion, include_usage: bool) -> Self {
        Self {
            steps: completion.choices.iter().map(steps).collect(),
            completion,
            include_usage,
            phase: Phase::Steps { step: 0, choice: 0 },
        }
    }

    /// The next choice, from `choice` on, that has a step `step`, or the first with the one after.
    fn next_step(&self, step: usize, choice: usize) -> Option<(usize, usize)> {
        let has = |choice: &usize, step: usize| self.steps[*choice].len() > step;
        let all = self.steps.len();
        let same = (choice..all).find(|choice| has(choice, step));
        let next = || (0..all).find(|choice| has(choice, step + 1));
        same.map(|choice| (choice, step))
            .or_else(|| next().map(|choice| (choice, step + 1)))
    }

    fn chunk(&self, index: usize, step: &Step) -> Bytes {
        let choice = &self.completion.choices[index];
        let finish_reason = match step {
            Step::Finish => Some(choice.finish),
            Step::Role | Step::Text(_) | Step::Call(_) | Step::Arguments(..) => None,
        };
        let chunk = ChunkChoice {
            index,
            delta: delta(&choice.output, step),
            logprobs: Null,
            finish_reason,
        };
        let usage = self.include_usage.then_some(Nullable::Null);
        self.frame(vec![chunk], usage)
    }

    fn frame(&self, choices: Vec<ChunkChoice<'_>>, usage: Option<Nullable<UsageOut>>) -> Bytes {
        let envelope = self
            .completion
            .envelope("chat.completion.chunk", choices, usage);
        let mut frame = b"data: ".to_vec();
        frame.append(&mut to_json(&envelope));
        frame.extend_from_slice(b"\n\n");
        Bytes::from(frame)
    }
}

// === free functions ===

fn steps(choice: &Choice) -> Vec<Step> {
    let mut steps = vec![Step::Role];
    match &choice.output {
        Output::Text(text) => steps.extend(pieces(text).map(Step::Text)),
        Output::Calls(calls) => {
            for (nth, call) in calls.iter().enumerate() {
                steps.push(Step::Call(nth));
                steps.extend(pieces(&call.arguments).map(|piece| Step::Arguments(nth, piece)));
            }
        }
    }
    steps.push(Step::Finish);
    steps
}

/// Ranges of at most four bytes that do not cut a character.
fn pieces(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        at = text.floor_char_boundary(start + PIECE_BYTES);
        (start < at).then_some(start..at)
    })
}

fn delta<'a>(output: &'a Output, step: &Step) -> Delta<'a> {
    let none = Delta::default();
    match (output, step) {
        (output, Step::Role) => Delta {
            role: Some("assistant"),
            content: Some(match output {
                Output::Text(_) => Nullable::Value(""),
                Output::Calls(_) => Nullable::Null,
            }),
            refusal: Some(Null),
            ..none
        },
        (Output::Text(text), Step::Text(piece)) => Delta {
            content: Some(Nullable::Value(&text[piece.clone()])),
            ..none
        },
        (Output::Calls(calls), Step::Call(nth)) => Delta {
            tool_calls: Some([CallOut {
                index: Some(*nth),
                function: FunctionOut {
                    name: Some(&calls[*nth].name),
                    arguments: "",
                },
                ..whole_call(&calls[*nth])
            }]),
            ..none
        },
        (Output::Calls(calls), Step::Arguments(nth, piece)) => Delta {
            tool_calls: Some([CallOut {
                index: Some(*nth),
                function: FunctionOut {
                    name: None,
                    arguments: &calls[*nth].arguments[piece.clone()],
                },
                ..CallOut::default()
            }]),
            ..none
        },
        _ => none,
    }
}

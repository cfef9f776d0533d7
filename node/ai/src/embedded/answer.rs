//! What the embedded model says: a function of the prompt and the choice's number.

use crate::embedded::prompt::{Format, Prompt, Tool, ToolChoice};
use crate::embedded::{digest, refusal, schema};
use crate::error::ErrorBody;
use crate::estimate::{self, BYTES_PER_TOKEN};
use crate::openai::request::ChatRequest;

/// Most bytes of a message that an answer quotes.
const QUOTE_BYTES_MAX: usize = 1024;
/// Most bytes of all arguments of one choice.
const ARGUMENTS_BYTES_MAX: usize = 64 << 10;

const SENTENCES: [&str; 4] = [
    "The same words always get the same answer here.",
    "This model is a function, and it enjoys its work.",
    "Every four bytes of this text count as one token.",
    "Ask again and nothing will have changed.",
];

/// One choice of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) output: Output,
    pub(crate) finish: &'static str,
}

#[derive(Clone, Debug)]
pub(crate) enum Output {
    Text(String),
    Calls(Vec<Call>),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

// === impl Choice ===

impl Choice {
    /// The tokens that this choice counts.
    pub(crate) fn tokens(&self) -> u64 {
        let bytes = match &self.output {
            Output::Text(text) => text.len(),
            Output::Calls(calls) => calls.iter().map(|call| call.arguments.len()).sum(),
        };
        estimate::tokens(bytes as u64)
    }
}

// === free functions ===

/// All choices that `request` asks for.
pub(crate) fn generate(
    request: &ChatRequest,
    prompt: &Prompt,
    digest: u128,
) -> Result<Vec<Choice>, ErrorBody> {
    // A length that does not fit is no limit: no answer is that long.
    let limit = request
        .max_output
        .and_then(|tokens| usize::try_from(tokens.checked_mul(BYTES_PER_TOKEN)?).ok());
    let tools = called(prompt);
    if !tools.is_empty() {
        let arguments = arguments_of(&tools, prompt)?;
        return Ok((0..request.choices)
            .map(|nth| {
                call(
                    &tools,
                    &arguments,
                    limit,
                    digest.wrapping_add(u128::from(nth)),
                )
            })
            .collect());
    }
    let fixed = match &prompt.format {
        Format::Schema(schema) => Some(schema::least(schema).map_err(|error| {
            refusal("response_format.json_schema.schema", &error.to_string())
                .with_code("invalid_json_schema")
        })?),
        Format::Text | Format::AnyObject => None,
    };
    Ok((0..request.choices)
        .map(|nth| {
            let text = fixed.clone().unwrap_or_else(|| text(prompt, nth));
            cut(text, &prompt.stops, limit)
        })
        .collect())
}

/// The tools that are called: those that `call NAME …` names, or the one that must be.
fn called(prompt: &Prompt) -> Vec<&Tool> {
    let tool = |name: &str| prompt.tools.iter().find(|tool| tool.name == name);
    let asked = match prompt.last_user.strip_prefix("call ") {
        Some(names) if prompt.tool_result.is_none() => names
            .split_whitespace()
            .map_while(|name| tool(name.trim_end_matches(',')))
            .take(if prompt.parallel {
                prompt.tools.len()
            } else {
                1
            })
            .collect(),
        _ => Vec::new(),
    };
    match &prompt.tool_choice {
        ToolChoice::None => Vec::new(),
        ToolChoice::Auto => asked,
        ToolChoice::Required if asked.is_empty() => prompt.tools.first().into_iter().collect(),
        ToolChoice::Required => asked,
        ToolChoice::Named(name) => tool(name).into_iter().collect(),
    }
}

fn arguments_of(tools: &[&Tool], prompt: &Prompt) -> Result<Vec<String>, ErrorBody> {
    let mut total = 0;
    let mut all = Vec::with_capacity(tools.len());
    for tool in tools {
        let nth = prompt
            .tools
            .iter()
            .position(|known| known.name == tool.name)
            .unwrap_or(0);
        let refuse = |why: &str| {
            refusal(format!("tools[{nth}].function.parameters"), why)
                .with_code("invalid_json_schema")
        };
        let arguments = match &tool.parameters {
            Some(parameters) => {
                schema::least(parameters).map_err(|error| refuse(&error.to_string()))?
            }
            None => "{}".to_owned(),
        };
        total += arguments.len();
        if total > ARGUMENTS_BYTES_MAX {
            return Err(refuse(
                "needs arguments that are too large for the embedded model",
            ));
        }
        all.push(arguments);
    }
    Ok(all)
}

fn call(tools: &[&Tool], arguments: &[String], limit: Option<usize>, digest: u128) -> Choice {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut finish = "tool_calls";
    let mut calls = Vec::with_capacity(tools.len());
    for (nth, (tool, arguments)) in tools.iter().zip(arguments).enumerate() {
        let kept = arguments.floor_char_boundary(left);
        if kept < arguments.len() {
            finish = "length";
        }
        left -= kept;
        let seed = [digest.to_be_bytes().as_slice(), &nth.to_be_bytes()].concat();
        calls.push(Call {
            id: format!("call_{:024x}", digest::of(&seed) >> 32),
            name: tool.name.clone(),
            arguments: arguments[..kept].to_owned(),
        });
        if finish == "length" {
            break;
        }
    }
    Choice {
        output: Output::Calls(calls),
        finish,
    }
}

fn text(prompt: &Prompt, nth: u32) -> String {
    let (lead, quoted) = match &prompt.tool_result {
        Some(result) => ("The tool returned", result),
        None => ("You said", &prompt.last_user),
    };
    let quote = &quoted[..quoted.floor_char_boundary(QUOTE_BYTES_MAX)];
    let turn = digest::of(quoted.as_bytes()).wrapping_add(u128::from(nth));
    let sentence = match turn % 4 {
        0 => SENTENCES[0],
        1 => SENTENCES[1],
        2 => SENTENCES[2],
        _ => SENTENCES[3],
    };
    let text = format!("{lead}: \"{quote}\". {sentence}");
    match prompt.format {
        Format::Text | Format::Schema(_) => text,
        Format::AnyObject => serde_json::json!({ "answer": text }).to_string(),
    }
}

/// Ends the text before the first stop string, then at the limit.
fn cut(mut text: String, stops: &[String], limit: Option<usize>) -> Choice {
    if let Some(stop) = stops.iter().filter_map(|stop| text.find(stop)).min() {
        text.truncate(stop);
    }
    let kept = text.floor_char_boundary(limit.unwrap_or(usize::MAX));
    let finish = if kept < text.len() { "length" } else { "stop" };
    text.truncate(kept);
    Choice {
        output: Output::Text(text),
        finish,
    }
}

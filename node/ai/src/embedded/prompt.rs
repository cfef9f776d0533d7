//! What the embedded model reads of a request, beyond what the gateway itself reads.
//!
//! Each field is parsed by itself, so that a refusal names it. Limits are OpenAI's: four stop
//! strings, 128 tools, 64 characters of a tool's name.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::embedded::refusal;
use crate::error::ErrorBody;

const STOPS_MAX: usize = 4;
const TOOLS_MAX: usize = 128;
const TOOL_NAME_BYTES_MAX: usize = 64;
const ROLES: [&str; 6] = [
    "developer",
    "system",
    "user",
    "assistant",
    "tool",
    "function",
];

/// A prompt and what shape its answer shall have.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// The text of the last user message; empty where there is none.
    pub(crate) last_user: String,
    /// The text of the last message, where a tool wrote it.
    pub(crate) tool_result: Option<String>,
    pub(crate) stops: Vec<String>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: ToolChoice,
    pub(crate) parallel: bool,
    pub(crate) format: Format,
}

#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) parameters: Option<Value>,
}

#[derive(Debug, Eq, PartialEq)]
pub(crate) enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

#[derive(Debug)]
pub(crate) enum Format {
    Text,
    AnyObject,
    Schema(Value),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    messages: &'a RawValue,
    #[serde(borrow)]
    stop: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow)]
    parallel_tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct WireTool {
    r#type: String,
    function: Option<WireFunction>,
}

#[derive(Deserialize)]
struct WireFunction {
    name: String,
    parameters: Option<Value>,
}

// === impl Content ===

impl Content {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect(),
        }
    }
}

// === free functions ===

/// Reads a body that the gateway has already found to be a chat completions request.
pub(crate) fn read(body: &[u8]) -> Result<Prompt, ErrorBody> {
    let wire: Wire<'_> =
        serde_json::from_slice(body).map_err(|_| refusal("messages", "cannot be read"))?;
    let messages = parse(
        Some(wire.messages),
        "messages",
        "must be message objects with a role",
    )?;
    let (last_user, tool_result) = read_messages(messages.unwrap_or_default())?;
    let tools = read_tools(wire.tools)?;
    Ok(Prompt {
        last_user,
        tool_result,
        stops: read_stops(wire.stop)?,
        tool_choice: read_tool_choice(wire.tool_choice, &tools)?,
        tools,
        parallel: parse(
            wire.parallel_tool_calls,
            "parallel_tool_calls",
            "must be true or false",
        )?
        .unwrap_or(true),
        format: read_format(wire.response_format)?,
    })
}

fn parse<T: DeserializeOwned>(
    raw: Option<&RawValue>,
    param: &str,
    must: &str,
) -> Result<Option<T>, ErrorBody> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    serde_json::from_str(raw.get()).map_err(|_| refusal(param, must))
}

/// The text of the last user message, and of the last message if a tool wrote it.
fn read_messages(messages: Vec<WireMessage>) -> Result<(String, Option<String>), ErrorBody> {
    let mut last_user = String::new();
    let mut tool_result = None;
    for (nth, message) in messages.into_iter().enumerate() {
        let role = message.role.as_str();
        if !ROLES.contains(&role) {
            let why = "must be developer, system, user, assistant or tool";
            return Err(refusal(format!("messages[{nth}].role"), why));
        }
        let text = message.content.map(Content::into_text).unwrap_or_default();
        tool_result = None;
        match role {
            "user" => last_user = text,
            "tool" | "function" => tool_result = Some(text),
            _ => {}
        }
    }
    Ok((last_user, tool_result))
}

fn read_stops(raw: Option<&RawValue>) -> Result<Vec<String>, ErrorBody> {
    const MUST: &str = "must be a string or up to four, none of them empty";
    let stops = match parse(raw, "stop", MUST)? {
        None => Vec::new(),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Many(stops)) => stops,
    };
    if stops.len() > STOPS_MAX || stops.iter().any(String::is_empty) {
        return Err(refusal("stop", MUST));
    }
    Ok(stops)
}

fn read_tools(raw: Option<&RawValue>) -> Result<Vec<Tool>, ErrorBody> {
    let wire: Vec<WireTool> =
        parse(raw, "tools", "must be tools of type function")?.unwrap_or_default();
    if wire.len() > TOOLS_MAX {
        return Err(refusal("tools", "must be at most 128"));
    }
    let mut tools = Vec::with_capacity(wire.len());
    for (nth, tool) in wire.into_iter().enumerate() {
        let function = match tool.function {
            Some(function) if tool.r#type == "function" => function,
            _ => return Err(refusal(format!("tools[{nth}].type"), "must be function")),
        };
        let name = function.name;
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > TOOL_NAME_BYTES_MAX || !name.bytes().all(known) {
            let why = "must be 1 to 64 letters, digits, underscores and dashes";
            return Err(refusal(format!("tools[{nth}].function.name"), why));
        }
        tools.push(Tool {
            name,
            parameters: function.parameters,
        });
    }
    Ok(tools)
}

fn read_tool_choice(raw: Option<&RawValue>, tools: &[Tool]) -> Result<ToolChoice, ErrorBody> {
    const PARAM: &str = "tool_choice";
    const MUST: &str = "must be none, auto, required or a function of `tools`";
    let Some(choice) = parse::<Value>(raw, PARAM, MUST)? else {
        return Ok(ToolChoice::Auto);
    };
    let choice = match choice.as_str() {
        Some("none") => ToolChoice::None,
        Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        Some(_) => return Err(refusal(PARAM, MUST)),
        None => {
            let name = choice.pointer("/function/name").and_then(Value::as_str);
            ToolChoice::Named(name.unwrap_or_default().to_owned())
        }
    };
    let possible = match &choice {
        ToolChoice::None | ToolChoice::Auto => true,
        ToolChoice::Required => !tools.is_empty(),
        ToolChoice::Named(name) => tools.iter().any(|tool| tool.name == *name),
    };
    if possible {
        Ok(choice)
    } else {
        Err(refusal(PARAM, MUST))
    }
}

fn read_format(raw: Option<&RawValue>) -> Result<Format, ErrorBody> {
    const PARAM: &str = "response_format";
    const MUST: &str = "must have the type text, json_object or json_schema";
    let Some(mut format) = parse::<Value>(raw, PARAM, MUST)? else {
        return Ok(Format::Text);
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::AnyObject),
        Some("json_schema") => match format.pointer_mut("/json_schema/schema") {
            Some(schema) => Ok(Format::Schema(schema.take())),
            None => Err(refusal("response_format.json_schema", "must have a schema")),
        },
        _ => Err(refusal(PARAM, MUST)),
    }
}

//! The embedded provider: a deterministic model server as a function of its request.
//!
//! It speaks the OpenAI wire, so that the product can be tried and tested with no cloud account and
//! the gateway treats it like any upstream. The same request gives the same answer, id included,
//! plain or streamed.
//!
//! What it answers:
//! * text that quotes the last user message (1024 bytes at most) and adds a sentence; each further
//!   choice adds another sentence;
//! * tool calls, where `tool_choice` demands them or the last user message is `call NAME …`, with
//!   the least arguments that satisfy the required properties; several names give parallel calls;
//! * the least JSON that satisfies `response_format`;
//! * embeddings in which texts that share words lie near one another (`vectors.rs`).
//!
//! One token is four bytes of text, rounded up (`estimate.rs`); `stop` and the token limits are
//! kept. Sampling parameters are accepted and mean nothing. What would need another kind of model
//! (custom tools, audio) is refused with status 400, naming the field.

use bytes::Bytes;

use crate::error::{ErrorBody, ErrorCode};
use crate::openai::request::ChatRequest;

mod answer;
mod digest;
mod frames;
mod prompt;
mod schema;
mod vectors;
mod wire;

pub use frames::Frames;
pub use vectors::embeddings;

/// What the embedded model answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole JSON body.
    Json(Bytes),
    /// The frames of an event stream, each complete, `[DONE]` included.
    Stream(Frames),
}

// === free functions ===

/// Answers a chat completions request. `now_unix` is in seconds.
///
/// # Errors
///
/// [`ErrorBody`] with status 400, naming the field at fault.
pub fn chat(body: Bytes, now_unix: u64) -> Result<Reply, ErrorBody> {
    let request = ChatRequest::read(body).map_err(|error| ErrorBody::from(&error))?;
    let prompt = prompt::read(request.body())?;
    let digest = digest::of(request.body());
    let choices = answer::generate(&request, &prompt, digest)?;
    let completion = wire::Completion::new(&request, digest, now_unix, choices);
    Ok(if request.stream {
        Reply::Stream(Frames::new(completion, request.client_wants_usage))
    } else {
        Reply::Json(completion.to_json())
    })
}

fn refusal(param: impl Into<String>, why: &str) -> ErrorBody {
    let param = param.into();
    let message = format!("answering by the embedded model: `{param}` {why}");
    ErrorBody::new(ErrorCode::RequestInvalid, message).with_param(param)
}

#[cfg(test)]
#[path = "embedded/embedded_test.rs"]
mod tests;
#[cfg(test)]
#[path = "embedded/tools_test.rs"]
mod tools_tests;

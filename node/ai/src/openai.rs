//! OpenAI's dialect: chat completions, plain and streaming, and the list of models.

pub mod models;
pub mod relay;
pub mod request;
pub mod response;
pub mod stream;
pub mod usage;

mod answer;
mod fields;
mod probe;
mod text;

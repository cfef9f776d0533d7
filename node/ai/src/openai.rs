//! OpenAI's dialect: chat completions, plain and streaming, embeddings, and the list of models.

pub mod embeddings;
pub mod models;
pub mod relay;
pub mod request;
pub mod response;
pub mod stream;
pub mod usage;

mod answer;
pub(crate) mod fields;
mod probe;
mod text;

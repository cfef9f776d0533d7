//! `explain`: a call in sentences.

use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::calls_client::CallsClient;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::Ended;
use super::calls::shown::ShownCall;
use super::calls::tell;
use super::client::{Client, api};
use super::output::{Format, Table, answer, data};

/// Why a call was answered as it was.
#[derive(Args, Clone, Debug)]
pub(super) struct ExplainArgs {
    /// The value of x-request-id or x-mode-envoy-call-id of its answer
    #[arg(value_name = "REQUEST_ID")]
    id: String,
}

struct ShownExplanations<'a>(&'a pb::ExplainResponse);

struct ShownExplanation<'a>(&'a pb::Explanation);

pub(super) async fn run(
    client: Client,
    args: ExplainArgs,
    format: Format,
) -> anyhow::Result<Ended> {
    let message = pb::ExplainRequest { id: args.id };
    let found = client
        .call(message, |channel, request| async move {
            api!(CallsClient, channel).explain(request).await
        })
        .await?;
    if format == Format::Table {
        data(&text(&found));
    } else {
        answer(format, &table(&found), &ShownExplanations(&found));
    }
    tell(&found.warnings, &found.missing_nodes);
    Ok(Ended::Done)
}

/// Each call under its id, a sentence a line.
fn text(found: &pb::ExplainResponse) -> String {
    let calls = found.explanations.iter().map(|explanation| {
        let id = explanation.call.as_ref().map_or("", |call| &*call.call_id);
        let sentences = explanation.sentences.iter();
        let lines =
            std::iter::once(format!("call {id}")).chain(sentences.map(|s| format!("  {s}")));
        lines.collect::<Vec<_>>().join("\n") + "\n"
    });
    calls.collect::<Vec<_>>().join("\n")
}

fn table(found: &pb::ExplainResponse) -> Table {
    let rows = found.explanations.iter().flat_map(|explanation| {
        let id = explanation.call.as_ref().map_or("", |call| &*call.call_id);
        let sentences = explanation.sentences.iter();
        sentences.map(move |sentence| [id.to_owned(), sentence.clone()])
    });
    Table::of_texts(["call_id", "sentence"], rows.collect())
}

impl Serialize for ShownExplanations<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let calls: Vec<_> = self.0.explanations.iter().map(ShownExplanation).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("explanations", &calls)?;
        map.serialize_entry("missing_nodes", &self.0.missing_nodes)?;
        map.end()
    }
}

impl Serialize for ShownExplanation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("call", &self.0.call.as_ref().map(ShownCall))?;
        map.serialize_entry("sentences", &self.0.sentences)?;
        map.end()
    }
}

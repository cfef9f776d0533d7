//! The bodies of `GET /v1/models` and `GET /v1/models/{id}`.
//!
//! The names are the gateway's own public names; which provider serves them is nobody's business
//! but the operator's, so `owned_by` is always the gateway.

use bytes::Bytes;
use serde::Serialize;

const OWNER: &str = "mode-envoy";

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

// === free functions ===

/// The list of the models called `names`, in their order. `created_unix` is in seconds.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>, created_unix: u64) -> Bytes {
    let data = names
        .into_iter()
        .map(|name| model(name, created_unix))
        .collect();
    to_json(&List {
        object: "list",
        data,
    })
}

/// The one model called `name`. `created_unix` is in seconds.
pub fn one(name: &str, created_unix: u64) -> Bytes {
    to_json(&model(name, created_unix))
}

fn model(id: &str, created: u64) -> Model<'_> {
    Model {
        id,
        object: "model",
        created,
        owned_by: OWNER,
    }
}

fn to_json(value: &impl Serialize) -> Bytes {
    // Strings and integers cannot fail to be written.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_list_keeps_the_order_of_its_names() {
        let body: Value = serde_json::from_slice(&list(["smart", "fast"], 7)).unwrap();
        let model =
            |id| json!({"id": id, "object": "model", "created": 7, "owned_by": "mode-envoy"});
        assert_eq!(
            body,
            json!({"object": "list", "data": [model("smart"), model("fast")]})
        );
        let empty: Value = serde_json::from_slice(&list([], 7)).unwrap();
        assert_eq!(empty, json!({"object": "list", "data": []}));
    }

    #[test]
    fn one_model_is_an_object_of_its_own() {
        let body: Value = serde_json::from_slice(&one("fast", 7)).unwrap();
        assert_eq!(body["id"], "fast");
        assert_eq!(body["object"], "model");
    }
}

//! Where a request goes: a route of its own host, a built-in AI path, or a route of any host, in this order.

use std::sync::Arc;

use http::{HeaderValue, Method};

use super::error::Error;
use super::head::Subject;
use super::table::{Found, RouteEntry, Table};

const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const MODELS: &str = "/v1/models";
const MODEL: &str = "/v1/models/";

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Destination<'a> {
    /// To a service.
    Route(&'a Arc<RouteEntry>),
    /// Chat completions.
    Chat,
    /// Embeddings.
    Embeddings,
    /// The list of models.
    Models,
    /// One model.
    Model(&'a str),
}

/// Finds where a request goes.
pub(crate) fn find<'a>(
    table: &'a Table,
    subject: &'a Subject<'_>,
    method: &Method,
) -> Result<Destination<'a>, Error> {
    if let Some(route) = taken(table.route_of_host(&subject.host, &subject.path, method))? {
        return Ok(Destination::Route(route));
    }
    if let Some(destination) = built_in(&subject.path, method)? {
        return Ok(destination);
    }
    match taken(table.route_of_any(&subject.path, method))? {
        Some(route) => Ok(Destination::Route(route)),
        None => Err(Error::UnknownPath),
    }
}

fn taken(found: Found<'_>) -> Result<Option<&Arc<RouteEntry>>, Error> {
    match found {
        Found::Route(route) => Ok(Some(route)),
        Found::OtherMethods(allow) => Err(Error::Method { allow }),
        Found::Nothing => Ok(None),
    }
}

fn built_in<'a>(path: &'a str, method: &Method) -> Result<Option<Destination<'a>>, Error> {
    let (destination, takes) = match path {
        CHAT => (Destination::Chat, Method::POST),
        EMBEDDINGS => (Destination::Embeddings, Method::POST),
        MODELS => (Destination::Models, Method::GET),
        _ => match path.strip_prefix(MODEL) {
            Some(id) if !id.is_empty() && !id.contains('/') => {
                (Destination::Model(id), Method::GET)
            }
            _ => return Ok(None),
        },
    };
    if *method == takes {
        return Ok(Some(destination));
    }
    let allow = if takes == Method::POST { "POST" } else { "GET" };
    Err(Error::Method {
        allow: HeaderValue::from_static(allow),
    })
}

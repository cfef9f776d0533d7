//! Who a request is: the API key it carries, wherever its client puts it.
//!
//! A key may come as `Authorization: Bearer`, `x-api-key`, `x-goog-api-key`, `api-key`, `apikey` or `?key=`, since
//! every official client has a place of its own. Two that differ are refused, so that it is never a matter of order
//! whose the request is. `?key=` counts where no header carries a credential, or where it looks like one of our keys:
//! elsewhere it is a parameter of the application behind.
//!
//! The secret is hashed and looked up; it is never logged, and what carried it is not sent on (see `hygiene.rs`).

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::Error;
use super::table::{KeyEntry, Table};
use crate::secrets::{API_KEY_PREFIX, hash_api_key, same_hash};

/// Headers that carry nothing but a key.
pub(super) const KEY_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("apikey"),
];

/// A request's key, and whether its query carries it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) key: Arc<KeyEntry>,
    pub(crate) in_query: bool,
}

/// Finds the key of a request. `now_ms` is Unix time in milliseconds.
pub(crate) fn identify(
    headers: &HeaderMap,
    query: Option<&str>,
    table: &Table,
    now_ms: u64,
) -> Result<Identity, Error> {
    let of_headers = credential(headers)?;
    let of_query = query.and_then(key_of_query);
    let (secret, in_query) = match (of_headers, of_query) {
        (Some(header), Some(query)) if header == query => (header, true),
        (Some(_), Some(query)) if query.starts_with(API_KEY_PREFIX) => {
            return Err(Error::TwoCredentials);
        }
        (Some(header), _) => (header, false),
        (None, Some(query)) => (query, true),
        (None, None) => return Err(Error::NoCredential),
    };
    let hash = hash_api_key(secret);
    let key = table.key(&hash).ok_or(Error::UnknownCredential)?;
    // The map has compared the hashes already; this says which of the key's two it was, and until when it counts.
    let known = same_hash(&key.key.hash, &hash)
        || key
            .key
            .previous
            .as_ref()
            .is_some_and(|(previous, _)| same_hash(previous, &hash));
    if !known || !key.key.accepts(&hash, now_ms) {
        return Err(Error::UnknownCredential);
    }
    Ok(Identity {
        key: Arc::clone(key),
        in_query,
    })
}

/// The one credential of the header fields, if there is any.
fn credential(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut found = None;
    for value in headers.get_all(AUTHORIZATION) {
        if let Some(secret) = bearer(value) {
            merge(&mut found, secret)?;
        }
    }
    for name in &KEY_HEADERS {
        for value in headers.get_all(name) {
            let secret = value.to_str().map_err(|_| Error::UnknownCredential)?.trim();
            if !secret.is_empty() {
                merge(&mut found, secret)?;
            }
        }
    }
    Ok(found)
}

fn merge<'a>(found: &mut Option<&'a str>, secret: &'a str) -> Result<(), Error> {
    match found {
        Some(other) if *other != secret => Err(Error::TwoCredentials),
        _ => {
            *found = Some(secret);
            Ok(())
        }
    }
}

/// The token of a `Bearer` credential (RFC 6750, 2.1); other schemes are the application's own.
pub(super) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The first `key` of a query. Our keys need no decoding.
fn key_of_query(query: &str) -> Option<&str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("key="))
        .filter(|key| !key.is_empty())
}

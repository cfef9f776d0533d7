//! Answers that go on until their reader has had enough: how many of them one token may have open on this node.
//!
//! Other requests are over within seconds and share a bound (`gate.rs`). These take a connection, tasks and memory for as long as
//! their reader pleases, so each token has a share: none can take away what the others need.
//!
//! Invariant: a place is taken before anything is done for the answer, and is free again when the answer is dropped.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use mode_envoy_model::command::{Rejected, RejectedCode, Violation};
use mode_envoy_model::key::SecretHash;
use mode_envoy_model::object::Name;
use tokio_stream::Stream;

use crate::control::{ControlError, Principal};

/// Answers of one token, or of all tokens of one tenant, at once.
pub(super) const OF_ONE: usize = 8;

/// Whose share it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Owner {
    /// A tenant may have many tokens.
    Tenant(Name),
    Token(SecretHash),
}

/// The answers that go on now. A cheap clone of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    open: Arc<Mutex<BTreeMap<Owner, usize>>>,
}

/// A place for one of them.
#[derive(Debug)]
pub(super) struct StreamPlace {
    open: Arc<Mutex<BTreeMap<Owner, usize>>>,
    owner: Owner,
}

/// An answer, and the place that it takes.
#[derive(Debug)]
pub(super) struct Placed<S> {
    stream: S,
    _place: StreamPlace,
}

// === impl Streams ===

impl Streams {
    /// A place for one more of whoever asks.
    pub(super) fn begin(&self, who: &Principal) -> Result<StreamPlace, ControlError> {
        let owner = match &who.tenant {
            Some(tenant) => Owner::Tenant(Name::clone(tenant)),
            None => Owner::Token(who.hash),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.entry(owner.clone()).or_default();
        if *own >= OF_ONE {
            return Err(too_many(&owner));
        }
        *own += 1;
        Ok(StreamPlace {
            open: Arc::clone(&self.open),
            owner,
        })
    }
}

// === impl StreamPlace ===

impl StreamPlace {
    /// The answer takes this place until it is dropped.
    pub(super) const fn with<S>(self, stream: S) -> Placed<S> {
        Placed {
            stream,
            _place: self,
        }
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.owner) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.owner);
            }
        }
    }
}

impl<S: Stream + Unpin> Stream for Placed<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.stream).poll_next(cx)
    }
}

fn too_many(owner: &Owner) -> ControlError {
    let whose = match owner {
        Owner::Tenant(_) => "the tokens of this tenant have",
        Owner::Token(_) => "this token has",
    };
    let problem = format!(
        "{whose} {OF_ONE} answers open on this node that go on (calls --follow, audit --verify, cluster backup), which is the \
         most; end one of them, or ask another node"
    );
    ControlError::Rejected(Rejected {
        code: RejectedCode::Limit,
        violations: vec![Violation {
            path: "token".to_owned(),
            problem,
        }],
    })
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::token::Role;

    use super::*;

    fn who(name: &str, tenant: Option<&str>) -> Principal {
        Principal {
            name: name.into(),
            role: Role::Viewer,
            tenant: tenant.map(Into::into),
            hash: [u8::try_from(name.len()).unwrap(); 32],
            request: None,
        }
    }

    #[test]
    fn a_tenant_has_one_share_for_all_its_tokens_and_everybody_else_one_each() {
        let streams = Streams::default();
        let mut acme = Vec::new();
        for number in 0..OF_ONE {
            let name = "t".repeat(1 + number % 2);
            acme.push(streams.begin(&who(&name, Some("acme"))).unwrap());
        }
        let refused = streams.begin(&who("ttt", Some("acme"))).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("the tokens of this tenant have 8")
        );
        let _beta = streams.begin(&who("t", Some("beta"))).unwrap();
        let own: Vec<_> = (0..OF_ONE)
            .map(|_| streams.begin(&who("t", None)).unwrap())
            .collect();
        let refused = streams.begin(&who("t", None)).unwrap_err();
        assert!(
            refused.to_string().contains("this token has 8"),
            "{refused}"
        );
        let _other = streams.begin(&who("tt", None)).unwrap();
        drop((acme.pop(), own));
        let _again = streams.begin(&who("t", Some("acme"))).unwrap();
        let _again = streams.begin(&who("t", None)).unwrap();
    }
}

//! Providers with their credentials opened, and models with their target and price.
//!
//! A credential exists in the clear here and nowhere else: in a header value that is never printed.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use mode_envoy_ai::price::{Price, TokenPrice};
use mode_envoy_model::catalog::{Catalog, Versioned};
use mode_envoy_model::model::Model;
use mode_envoy_model::object::Name;
use mode_envoy_model::price;
use mode_envoy_model::provider::{Protocol, Provider};

use super::{CompileError, Endpoint, PROVIDER_TIMEOUTS, timeouts};
use crate::secrets::{Keyring, Place};
use crate::supervisor::Chain;
use crate::upstream::Timeouts;

/// A provider, ready to be called.
#[derive(Debug)]
pub(crate) struct ProviderEntry {
    source: Arc<Provider>,
    pub(crate) name: Name,
    /// `None` for the embedded provider, which needs no address.
    pub(crate) endpoint: Option<Endpoint>,
    /// `Bearer …`, of the first key.
    pub(crate) authorization: Option<HeaderValue>,
    /// The first key cannot be sent. One such provider does not keep the rest of a catalog out of force.
    pub(crate) unusable: bool,
    pub(crate) timeouts: Timeouts,
}

/// A model, ready to be asked.
#[derive(Debug)]
pub(crate) struct ModelEntry {
    source: Arc<Model>,
    pub(crate) name: Name,
    pub(crate) provider: Arc<ProviderEntry>,
    /// What the provider calls it.
    pub(crate) upstream_model: Arc<str>,
    /// The price, and the revision that set it.
    pub(crate) price: Option<(Price, u64)>,
    revision: u64,
}

// === impl ModelEntry ===

impl ModelEntry {
    /// Whether this consumer may call it.
    pub(crate) fn admits(&self, tenant: &str, consumer: &str) -> bool {
        self.source.admits(tenant, consumer)
    }
}

// === free functions ===

pub(super) fn compile(
    catalog: &Catalog,
    keyring: Option<&Keyring>,
    previous: &BTreeMap<Name, Arc<ProviderEntry>>,
) -> Result<BTreeMap<Name, Arc<ProviderEntry>>, CompileError> {
    let mut providers = BTreeMap::new();
    for provider in catalog.providers() {
        let source = &provider.value;
        let entry = match previous.get(&source.name) {
            Some(old) if Arc::ptr_eq(&old.source, source) => Arc::clone(old),
            _ => Arc::new(entry(source, keyring)?),
        };
        providers.insert(Name::clone(&source.name), entry);
    }
    Ok(providers)
}

pub(super) fn compile_models(
    catalog: &Catalog,
    providers: &BTreeMap<Name, Arc<ProviderEntry>>,
    previous: &BTreeMap<Name, Arc<ModelEntry>>,
) -> Result<BTreeMap<Name, Arc<ModelEntry>>, CompileError> {
    let mut models = BTreeMap::new();
    for model in catalog.models() {
        let new = model_entry(model, providers)?;
        let entry = match previous.get(&new.name) {
            Some(old) if old.is_same(&new) => Arc::clone(old),
            _ => Arc::new(new),
        };
        models.insert(Name::clone(&entry.name), entry);
    }
    Ok(models)
}

impl ModelEntry {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source)
            && Arc::ptr_eq(&self.provider, &other.provider)
            && self.revision == other.revision
    }
}

fn entry(source: &Arc<Provider>, keyring: Option<&Keyring>) -> Result<ProviderEntry, CompileError> {
    let endpoint = match source.protocol {
        Protocol::Openai => Some(Endpoint::of(&source.base_url, || {
            format!("provider {}", source.name)
        })?),
        Protocol::Embedded => None,
    };
    let authorization = authorization(source, keyring)?;
    let unusable = authorization.is_none() && !source.keys.is_empty();
    Ok(ProviderEntry {
        source: Arc::clone(source),
        name: Name::clone(&source.name),
        endpoint,
        authorization,
        unusable,
        timeouts: timeouts(&source.timeouts, PROVIDER_TIMEOUTS),
    })
}

/// The first key is the one that is used; further ones wait for retries. `None` where there is none, or where it
/// cannot be sent, which is logged.
fn authorization(
    source: &Provider,
    keyring: Option<&Keyring>,
) -> Result<Option<HeaderValue>, CompileError> {
    let Some(sealed) = source.keys.first() else {
        return Ok(None);
    };
    let Some(keyring) = keyring else {
        return Err(CompileError::NoKeyring {
            provider: Name::clone(&source.name),
        });
    };
    let unusable = |why: &str| {
        tracing::error!(provider = %source.name, why, "a provider's key cannot be used; apply it again");
        Ok(None)
    };
    let secret = match keyring.open(sealed, Place::provider_keys(&source.name)) {
        Ok(secret) => secret,
        Err(error) => return unusable(&Chain(&error).to_string()),
    };
    let text = zeroize::Zeroizing::new(format!("Bearer {}", secret.expose()));
    let Ok(mut value) = HeaderValue::from_str(&text) else {
        return unusable("it holds characters that no header may hold");
    };
    value.set_sensitive(true);
    Ok(Some(value))
}

fn model_entry(
    model: &Versioned<Model>,
    providers: &BTreeMap<Name, Arc<ProviderEntry>>,
) -> Result<ModelEntry, CompileError> {
    let source = &model.value;
    let missing = |wanted: String| CompileError::Missing {
        what: format!("model {}", source.name),
        wanted,
    };
    let target = source
        .targets
        .first()
        .ok_or_else(|| missing("target".to_owned()))?;
    let provider = providers
        .get(&target.provider)
        .ok_or_else(|| missing(format!("provider {}", target.provider)))?;
    let price = match source.price_of(target) {
        Some(price) => {
            let price = price_of(&price);
            let price = price.ok_or_else(|| CompileError::Price {
                model: Name::clone(&source.name),
            })?;
            Some((price, model.revision))
        }
        None => None,
    };
    Ok(ModelEntry {
        source: Arc::clone(source),
        name: Name::clone(&source.name),
        provider: Arc::clone(provider),
        upstream_model: Arc::clone(&target.model),
        price,
        revision: model.revision,
    })
}

fn price_of(price: &price::Price) -> Option<Price> {
    let token = |pico: u64| TokenPrice::from_pico_dollars(pico).ok();
    Some(Price {
        input: token(price.input)?,
        output: token(price.output)?,
        cached_input: price
            .cached_input
            .map(token)
            .map_or(Some(None), |p| p.map(Some))?,
        cache_write: price
            .cache_write
            .map(token)
            .map_or(Some(None), |p| p.map(Some))?,
    })
}

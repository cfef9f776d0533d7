//! The configuration's objects.

use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::key::Key;
use mode_envoy_model::limits;
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::price::Price;
use mode_envoy_model::provider::{Protocol, Provider, SealedSecret};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;
use mode_envoy_model::token::{Role, Token};
use mode_envoy_proto::log::v1 as wire;

use super::{
    DecodeError, Wire, bounded, fixed, missing, none_if_empty, none_if_zero, optional,
    optional_text, read_list, text, unknown, write_list,
};

impl Wire for Tenant {
    type Message = wire::Tenant;

    fn to_wire(&self) -> Self::Message {
        wire::Tenant {
            name: text(&self.name),
            hosts: self.hosts.iter().map(|host| text(host)).collect(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let hosts = bounded("Tenant.hosts", limits::TENANT_HOSTS, message.hosts)?;
        Ok(Self {
            name: message.name.into(),
            hosts: hosts.into_iter().map(Into::into).collect(),
        })
    }
}

impl Wire for Consumer {
    type Message = wire::Consumer;

    fn to_wire(&self) -> Self::Message {
        wire::Consumer {
            tenant: text(&self.tenant),
            name: text(&self.name),
            team: optional_text(self.team.as_ref()),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            tenant: message.tenant.into(),
            name: message.name.into(),
            team: none_if_empty(message.team),
        })
    }
}

impl Wire for Timeouts {
    type Message = wire::Timeouts;

    fn to_wire(&self) -> Self::Message {
        wire::Timeouts {
            connect_ms: self.connect_ms.unwrap_or_default(),
            first_byte_ms: self.first_byte_ms.unwrap_or_default(),
            idle_ms: self.idle_ms.unwrap_or_default(),
            total_ms: self.total_ms.unwrap_or_default(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            connect_ms: none_if_zero(message.connect_ms),
            first_byte_ms: none_if_zero(message.first_byte_ms),
            idle_ms: none_if_zero(message.idle_ms),
            total_ms: none_if_zero(message.total_ms),
        })
    }
}

impl Wire for SealedSecret {
    type Message = wire::SealedSecret;

    fn to_wire(&self) -> Self::Message {
        wire::SealedSecret {
            wrapped_data_key: self.wrapped_data_key.to_vec(),
            ciphertext: self.ciphertext.to_vec(),
            fingerprint: self.fingerprint.to_vec(),
            generation: self.generation,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            wrapped_data_key: message.wrapped_data_key.into(),
            ciphertext: message.ciphertext.into(),
            fingerprint: fixed("SealedSecret.fingerprint", &message.fingerprint)?,
            generation: message.generation,
        })
    }
}

impl Wire for Provider {
    type Message = wire::Provider;

    fn to_wire(&self) -> Self::Message {
        let protocol = match self.protocol {
            Protocol::Openai => wire::Protocol::Openai,
            Protocol::Embedded => wire::Protocol::Embedded,
        };
        wire::Provider {
            name: text(&self.name),
            protocol: protocol.into(),
            base_url: text(&self.base_url),
            keys: write_list(&self.keys),
            timeouts: Some(self.timeouts.to_wire()),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let protocol = match wire::Protocol::try_from(message.protocol) {
            Ok(wire::Protocol::Openai) => Protocol::Openai,
            Ok(wire::Protocol::Embedded) => Protocol::Embedded,
            _ => return Err(unknown("Provider.protocol", message.protocol)),
        };
        Ok(Self {
            name: message.name.into(),
            protocol,
            base_url: message.base_url.into(),
            keys: read_list("Provider.keys", limits::PROVIDER_KEYS, message.keys)?,
            timeouts: optional(message.timeouts)?.unwrap_or_default(),
        })
    }
}

impl Wire for Price {
    type Message = wire::Price;

    fn to_wire(&self) -> Self::Message {
        wire::Price {
            input: self.input,
            output: self.output,
            cached_input: self.cached_input,
            cache_write: self.cache_write,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            input: message.input,
            output: message.output,
            cached_input: message.cached_input,
            cache_write: message.cache_write,
        })
    }
}

impl Wire for Target {
    type Message = wire::Target;

    fn to_wire(&self) -> Self::Message {
        wire::Target {
            provider: text(&self.provider),
            model: text(&self.model),
            price: self.price.as_ref().map(Wire::to_wire),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            provider: message.provider.into(),
            model: message.model.into(),
            price: optional(message.price)?,
        })
    }
}

/// `tenant` or `tenant/consumer`; names hold no slash.
impl Wire for AccessEntry {
    type Message = String;

    fn to_wire(&self) -> Self::Message {
        match &self.consumer {
            Some(consumer) => format!("{}/{consumer}", self.tenant),
            None => text(&self.tenant),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(match message.split_once('/') {
            Some((tenant, consumer)) => Self {
                tenant: tenant.into(),
                consumer: Some(consumer.into()),
            },
            None => Self {
                tenant: message.into(),
                consumer: None,
            },
        })
    }
}

impl Wire for Model {
    type Message = wire::Model;

    fn to_wire(&self) -> Self::Message {
        wire::Model {
            name: text(&self.name),
            targets: write_list(&self.targets),
            price: self.price.as_ref().map(Wire::to_wire),
            access: self.access.as_ref().map(|entries| wire::AccessList {
                entries: write_list(entries),
            }),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let access = message
            .access
            .map(|list| read_list("Model.access", limits::ACCESS_ENTRIES, list.entries))
            .transpose()?;
        Ok(Self {
            name: message.name.into(),
            targets: read_list("Model.targets", MODEL_TARGETS, message.targets)?,
            price: optional(message.price)?,
            access,
        })
    }
}

impl Wire for Endpoint {
    type Message = wire::Endpoint;

    fn to_wire(&self) -> Self::Message {
        wire::Endpoint {
            url: text(&self.url),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            url: message.url.into(),
        })
    }
}

impl Wire for Service {
    type Message = wire::Service;

    fn to_wire(&self) -> Self::Message {
        wire::Service {
            name: text(&self.name),
            endpoints: write_list(&self.endpoints),
            timeouts: Some(self.timeouts.to_wire()),
            access: self.access.iter().map(|tenant| text(tenant)).collect(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let access = bounded("Service.access", limits::SERVICE_ACCESS, message.access)?;
        Ok(Self {
            name: message.name.into(),
            access: access.into_iter().map(Into::into).collect(),
            endpoints: read_list("Service.endpoints", limits::ENDPOINTS, message.endpoints)?,
            timeouts: optional(message.timeouts)?.unwrap_or_default(),
        })
    }
}

impl Wire for Route {
    type Message = wire::Route;

    fn to_wire(&self) -> Self::Message {
        let auth = match self.auth {
            Auth::None => wire::Auth::None,
            Auth::Key => wire::Auth::Key,
        };
        wire::Route {
            tenant: text(&self.tenant),
            name: text(&self.name),
            service: text(&self.service),
            hosts: self.hosts.iter().map(|v| text(v)).collect(),
            paths: self.paths.iter().map(|v| text(v)).collect(),
            methods: self.methods.iter().map(|v| text(v)).collect(),
            auth: auth.into(),
            strip_prefix: optional_text(self.strip_prefix.as_ref()),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let auth = match wire::Auth::try_from(message.auth) {
            Ok(wire::Auth::None) => Auth::None,
            Ok(wire::Auth::Key) => Auth::Key,
            _ => return Err(unknown("Route.auth", message.auth)),
        };
        let texts = |what, max, list: Vec<String>| -> Result<Vec<std::sync::Arc<str>>, _> {
            Ok(bounded(what, max, list)?
                .into_iter()
                .map(Into::into)
                .collect())
        };
        Ok(Self {
            tenant: message.tenant.into(),
            name: message.name.into(),
            service: message.service.into(),
            hosts: texts("Route.hosts", limits::ROUTE_HOSTS, message.hosts)?,
            paths: texts("Route.paths", limits::ROUTE_PATHS, message.paths)?,
            methods: texts("Route.methods", limits::ROUTE_METHODS, message.methods)?,
            auth,
            strip_prefix: none_if_empty(message.strip_prefix),
        })
    }
}

impl Wire for Key {
    type Message = wire::Key;

    fn to_wire(&self) -> Self::Message {
        let (previous_hash, previous_until_ms) = match &self.previous {
            Some((hash, until)) => (hash.to_vec(), *until),
            None => (Vec::new(), 0),
        };
        wire::Key {
            tenant: text(&self.tenant),
            consumer: text(&self.consumer),
            name: text(&self.name),
            id: text(&self.id),
            hash: self.hash.to_vec(),
            created_ms: self.created_ms,
            expires_ms: self.expires_ms.unwrap_or_default(),
            previous_hash,
            previous_until_ms,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let previous = if message.previous_hash.is_empty() {
            None
        } else {
            Some((
                fixed("Key.previous_hash", &message.previous_hash)?,
                message.previous_until_ms,
            ))
        };
        Ok(Self {
            tenant: message.tenant.into(),
            consumer: message.consumer.into(),
            name: message.name.into(),
            id: message.id.into(),
            hash: fixed("Key.hash", &message.hash)?,
            created_ms: message.created_ms,
            expires_ms: none_if_zero(message.expires_ms),
            previous,
        })
    }
}

impl Wire for Token {
    type Message = wire::Token;

    fn to_wire(&self) -> Self::Message {
        let role = match self.role {
            Role::Viewer => wire::Role::Viewer,
            Role::Admin => wire::Role::Admin,
            Role::Root => wire::Role::Root,
        };
        wire::Token {
            name: text(&self.name),
            role: role.into(),
            hash: self.hash.to_vec(),
            created_ms: self.created_ms,
            tenant: optional_text(self.tenant.as_ref()),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let role = match wire::Role::try_from(message.role) {
            Ok(wire::Role::Viewer) => Role::Viewer,
            Ok(wire::Role::Admin) => Role::Admin,
            Ok(wire::Role::Root) => Role::Root,
            Ok(wire::Role::Unspecified) => return Err(missing("Token.role")),
            Err(_) => return Err(unknown("Token.role", message.role)),
        };
        Ok(Self {
            name: message.name.into(),
            role,
            hash: fixed("Token.hash", &message.hash)?,
            created_ms: message.created_ms,
            tenant: none_if_empty(message.tenant),
        })
    }
}

/// More than a model may have, so that a later version's models still decode within a bound.
const MODEL_TARGETS: usize = 64;

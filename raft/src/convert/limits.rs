//! Limits, and the numbers that they were given.

use mode_envoy_model::limit::{Dimension, Limit, LimitId, Match, Mode, Per, Unit, Window};
use mode_envoy_proto::log::v1 as wire;

use super::{
    DecodeError, Wire, missing, none_if_empty, none_if_zero, optional, optional_text, required,
    text, unknown,
};

impl Wire for Match {
    type Message = wire::LimitMatch;

    fn to_wire(&self) -> Self::Message {
        wire::LimitMatch {
            tenant: optional_text(self.tenant.as_ref()),
            team: optional_text(self.team.as_ref()),
            consumer: optional_text(self.consumer.as_ref()),
            key: optional_text(self.key.as_ref()),
            route: optional_text(self.route.as_ref()),
            api: optional_text(self.api.as_ref()),
            model: optional_text(self.model.as_ref()),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            tenant: none_if_empty(message.tenant),
            team: none_if_empty(message.team),
            consumer: none_if_empty(message.consumer),
            key: none_if_empty(message.key),
            route: none_if_empty(message.route),
            api: none_if_empty(message.api),
            model: none_if_empty(message.model),
        })
    }
}

impl Wire for Limit {
    type Message = wire::Limit;

    fn to_wire(&self) -> Self::Message {
        let each = self
            .each
            .map_or(wire::LimitDimension::Unspecified, write_dimension);
        let burst = match self.window {
            Window::Calendar => 0,
            Window::Bucket { burst } => burst,
        };
        wire::Limit {
            name: text(&self.name),
            tenant: optional_text(self.tenant.as_ref()),
            matches: Some(self.matches.to_wire()),
            each: each.into(),
            unit: write_unit(self.unit).into(),
            amount: self.amount,
            per: write_per(self.per).into(),
            burst,
            mode: write_mode(self.mode).into(),
            shadow: self.shadow,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let window = match none_if_zero(message.burst) {
            Some(burst) => Window::Bucket { burst },
            None => Window::Calendar,
        };
        Ok(Self {
            name: message.name.into(),
            tenant: none_if_empty(message.tenant),
            matches: optional(message.matches)?.unwrap_or_default(),
            each: read_each(message.each)?,
            unit: read_unit(message.unit)?,
            amount: message.amount,
            per: read_per(message.per)?,
            window,
            mode: read_mode(message.mode)?,
            shadow: message.shadow,
        })
    }
}

pub(super) fn write_numbered(id: LimitId, limit: &Limit) -> wire::NumberedLimit {
    wire::NumberedLimit {
        id,
        limit: Some(limit.to_wire()),
    }
}

pub(super) fn read_numbered(message: wire::NumberedLimit) -> Result<(LimitId, Limit), DecodeError> {
    let id = none_if_zero(message.id).ok_or_else(|| missing("NumberedLimit.id"))?;
    Ok((id, required("NumberedLimit.limit", message.limit)?))
}

const fn write_unit(unit: Unit) -> wire::LimitUnit {
    match unit {
        Unit::Requests => wire::LimitUnit::Requests,
        Unit::Concurrent => wire::LimitUnit::Concurrent,
    }
}

fn read_unit(unit: i32) -> Result<Unit, DecodeError> {
    Ok(match wire::LimitUnit::try_from(unit) {
        Ok(wire::LimitUnit::Requests) => Unit::Requests,
        Ok(wire::LimitUnit::Concurrent) => Unit::Concurrent,
        Ok(wire::LimitUnit::Unspecified) | Err(_) => return Err(unknown("Limit.unit", unit)),
    })
}

const fn write_per(per: Per) -> wire::LimitPer {
    match per {
        Per::Second => wire::LimitPer::Second,
        Per::Minute => wire::LimitPer::Minute,
        Per::Hour => wire::LimitPer::Hour,
        Per::Day => wire::LimitPer::Day,
        Per::Month => wire::LimitPer::Month,
        Per::Total => wire::LimitPer::Total,
    }
}

fn read_per(per: i32) -> Result<Per, DecodeError> {
    Ok(match wire::LimitPer::try_from(per) {
        Ok(wire::LimitPer::Second) => Per::Second,
        Ok(wire::LimitPer::Minute) => Per::Minute,
        Ok(wire::LimitPer::Hour) => Per::Hour,
        Ok(wire::LimitPer::Day) => Per::Day,
        Ok(wire::LimitPer::Month) => Per::Month,
        Ok(wire::LimitPer::Total) => Per::Total,
        Ok(wire::LimitPer::Unspecified) | Err(_) => return Err(unknown("Limit.per", per)),
    })
}

const fn write_mode(mode: Mode) -> wire::LimitMode {
    match mode {
        Mode::Strict => wire::LimitMode::Strict,
        Mode::Bounded => wire::LimitMode::Bounded,
        Mode::Local => wire::LimitMode::Local,
    }
}

fn read_mode(mode: i32) -> Result<Mode, DecodeError> {
    Ok(match wire::LimitMode::try_from(mode) {
        Ok(wire::LimitMode::Strict) => Mode::Strict,
        Ok(wire::LimitMode::Bounded) => Mode::Bounded,
        Ok(wire::LimitMode::Local) => Mode::Local,
        Ok(wire::LimitMode::Unspecified) | Err(_) => return Err(unknown("Limit.mode", mode)),
    })
}

const fn write_dimension(dimension: Dimension) -> wire::LimitDimension {
    match dimension {
        Dimension::Tenant => wire::LimitDimension::Tenant,
        Dimension::Team => wire::LimitDimension::Team,
        Dimension::Consumer => wire::LimitDimension::Consumer,
        Dimension::Key => wire::LimitDimension::Key,
        Dimension::Route => wire::LimitDimension::Route,
        Dimension::Api => wire::LimitDimension::Api,
        Dimension::Model => wire::LimitDimension::Model,
    }
}

fn read_each(each: i32) -> Result<Option<Dimension>, DecodeError> {
    Ok(Some(match wire::LimitDimension::try_from(each) {
        Ok(wire::LimitDimension::Unspecified) => return Ok(None),
        Ok(wire::LimitDimension::Tenant) => Dimension::Tenant,
        Ok(wire::LimitDimension::Team) => Dimension::Team,
        Ok(wire::LimitDimension::Consumer) => Dimension::Consumer,
        Ok(wire::LimitDimension::Key) => Dimension::Key,
        Ok(wire::LimitDimension::Route) => Dimension::Route,
        Ok(wire::LimitDimension::Api) => Dimension::Api,
        Ok(wire::LimitDimension::Model) => Dimension::Model,
        Err(_) => return Err(unknown("Limit.each", each)),
    }))
}

//! How much the tokens of tenants have changed today, in a checkpoint's meta record; one of a version that did not count has none.

use mode_envoy_model::growth::Growth;
use mode_envoy_proto::log::v1 as wire;

use super::super::text;

pub(super) fn write(growth: &Growth) -> wire::Growth {
    let tenants = growth.iter().map(|(tenant, bytes)| wire::TenantGrowth {
        tenant: text(tenant),
        bytes,
    });
    wire::Growth {
        day: growth.day(),
        tenants: tenants.collect(),
    }
}

pub(super) fn read(growth: wire::Growth) -> Growth {
    let tenants = growth.tenants.into_iter();
    Growth::restore(growth.day, tenants.map(|t| (t.tenant.into(), t.bytes)))
}

//! One sample of every log message about a new encryption key, about a restored backup, and about what tenants change in a day.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check("ResealedSecrets", &resealed());
    golden.check("Restored", &restored());
    golden.check("Growth", &growth());
    golden.check("TenantGrowth", &tenant_growth());
    golden.check_as("SealedSecret.generation", &sealed());
    golden.check_as("Founded.generation", &founded());
    golden.check_as("Rotation.generation", &rotation());
    golden.check_as("ClientRequest.nonce", &request());
}

pub(crate) fn events() -> Vec<log::event::Kind> {
    use log::event::Kind;
    vec![Kind::Resealed(resealed()), Kind::Restored(restored())]
}

fn resealed() -> log::ResealedSecrets {
    log::ResealedSecrets {
        provider: "remote".to_owned(),
        keys: vec![sealed()],
    }
}

fn restored() -> log::Restored {
    log::Restored {
        cluster_id: vec![1; 16],
        from_cluster_id: vec![2; 16],
        from_revision: 41,
        from_index: 1_000,
        node: 4,
    }
}

fn growth() -> log::Growth {
    log::Growth {
        day: 20_782,
        tenants: vec![tenant_growth()],
    }
}

fn tenant_growth() -> log::TenantGrowth {
    log::TenantGrowth {
        tenant: "acme".to_owned(),
        bytes: 3_000_000_000,
    }
}

fn sealed() -> log::SealedSecret {
    log::SealedSecret {
        wrapped_data_key: vec![3; 61],
        ciphertext: vec![4; 40],
        fingerprint: vec![5; 16],
        generation: 2,
    }
}

fn founded() -> log::Founded {
    log::Founded {
        cluster_id: vec![1; 16],
        wrapped_key: vec![6; 125],
        generation: 2,
    }
}

fn rotation() -> log::Rotation {
    log::Rotation {
        check: vec![12; 32],
        wrapped_key: vec![13; 125],
        old_root: vec![14; 32],
        new_root: vec![15; 32],
        switched: true,
        old_wrapped_key: vec![16; 61],
        generation: 1,
    }
}

fn request() -> log::ClientRequest {
    log::ClientRequest {
        id: vec![7; 32],
        body: vec![8; 32],
        nonce: vec![9; 16],
    }
}

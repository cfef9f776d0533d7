# `just verify` never writes; `just fix` does. CI calls only these verbs and the README's commands.
set shell := ["bash", "-euo", "pipefail", "-c"]

# Everything that must hold before a change lands, except the tests with foreign clients and real faults (`just external`).
verify: lock fmt-check clippy doc deny test doctest

# The lock file is current.
lock:
    cargo metadata --locked --format-version 1 >/dev/null

fmt-check:
    cargo fmt --all --check

clippy:
    cargo clippy --locked --workspace --all-targets -- -D warnings
    cargo clippy --locked -p mode-envoy-cluster-tests --all-targets --features external -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

# Without the advisories, which need network: see `just advisories`.
deny:
    cargo deny check --hide-inclusion-graph bans licenses sources

advisories:
    cargo deny check advisories

test:
    cargo nextest run --locked --workspace

doctest:
    cargo test --locked --workspace --doc

# Tests that need Python clients (cluster-tests/external/requirements.txt), curl, a minute of load, network namespaces of their
# own (iproute2 and util-linux, as root or where user namespaces are allowed), or what is delivered and the places where it runs (as
# root: podman with crun, netavark and aardvark-dns, iptables, systemd with systemd-container).
external:
    deploy/build-static.sh
    cargo nextest run --locked -p mode-envoy-cluster-tests --features external --run-ignored default -E 'binary(/external/)'

# Clusters in one thread where networks, disks and clocks fail as a seed says: 200 seeds, or one with its trace.
sim seed="":
    #!/usr/bin/env bash
    set -euo pipefail
    export RUSTFLAGS="--cfg tokio_unstable" CARGO_TARGET_DIR=target/sim
    sim="cargo test --locked --profile sim -p mode-envoy-cluster-tests --no-default-features --features sim"
    if [ -n "{{seed}}" ]; then
        SIM_SEED="{{seed}}" $sim --test sim one_seed -- --exact --nocapture
    else
        $sim --lib sim::
        $sim --test sim -- --nocapture --test-threads 1
    fi

# One flipped byte at so many places of each file of a stopped node; `just one-byte 10000000` for every byte of all of them.
one-byte flips="50":
    MODE_ENVOY_FLIPS={{flips}} cargo test --locked -p mode-envoy-cluster-tests --test one_byte a_node_with -- --nocapture

# The simulation must find faults put in on purpose: openraft 0.9.24, which can commit without a quorum (#1802; needs crates.io),
# or those of cluster-tests/faults by name, or `all`.
sim-proof *faults:
    cluster-tests/sim-proof {{faults}}

# Clippy and docs do not see the simulation without its feature.
sim-lint:
    RUSTFLAGS="--cfg tokio_unstable" CARGO_TARGET_DIR=target/sim cargo clippy --locked --profile sim -p mode-envoy-raft -p mode-envoy-node -p mode-envoy-cluster-tests --no-default-features --features mode-envoy-cluster-tests/sim --lib --test sim -- -D warnings

# Format, and apply what clippy can.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# One crate's tests: `just crate storage`.
crate name:
    cargo nextest run -p mode-envoy-{{name}}

# The property tests with other cases than usual: `just explore 7`.
explore seed:
    PROPTEST_RNG_SEED={{seed}} cargo nextest run --locked --workspace -E 'not package(mode-envoy-cluster-tests)'

# Benchmarks; docs/performance.md says how to read them.
bench *args:
    cargo bench --workspace {{args}}

# CPU per request beside nginx as a gateway, in alternating runs; needs nginx, wrk and a release build. `--help` says more.
beside-nginx *args:
    cluster-tests/peers/beside_nginx.py {{args}}

# Three nodes on loopback, an embedded model, live calls.
demo:
    cargo run --release -- demo

# Accept the current bytes and texts as golden; review the diff.
golden:
    REWRITE=1 cargo test --workspace golden

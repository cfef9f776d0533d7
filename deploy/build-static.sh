#!/usr/bin/env bash
# A release binary that needs nothing of the machine that it runs on: no loader, no libc, no other file. The container image holds it.
#
#   deploy/build-static.sh [OUT]      build, and leave the binary at OUT (target/static/mode-envoy)
#   deploy/build-static.sh --env      only print the environment of this build, for other commands of cargo that shall share it:
#                                     env $(deploy/build-static.sh --env) cargo run --release -- demo
#
# It takes a Rust toolchain and a C compiler with the static archive of its libc (on Debian in libc6-dev, on Fedora in glibc-static).
# What it builds is kept in a folder of its own, target/static (or static/ in CARGO_TARGET_DIR).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${CARGO_TARGET_DIR:-$root/target}
case "$folder" in /*) ;; *) folder=$PWD/$folder ;; esac
case "$folder" in */static) ;; *) folder=$folder/static ;; esac      # `--env` may have set it already

die() { printf 'build-static: %s\n' "$*" >&2; exit 1; }

command -v rustc >/dev/null || die "there is no rustc on the PATH; https://rustup.rs installs one"
host=$(rustc -vV | sed -n 's/^host: //p')
case "$host" in *-linux-gnu) ;; *) die "static binaries are built on Linux with glibc, not on $host" ;; esac

# The target is named although it is the host's own: only then do the flags not reach build scripts and macros, which must stay dynamic.
settings=(CARGO_BUILD_TARGET="$host" CARGO_TARGET_DIR="$folder" RUSTFLAGS=-Ctarget-feature=+crt-static)

if [ "${1:-}" = --env ]; then
  printf '%s\n' "${settings[@]}"
  exit
fi
case "${1:-}" in -*) die "unknown option '$1': give the path of the binary, --env, or nothing" ;; esac
out=${1:-$folder/mode-envoy}

(cd "$root" && env -u CARGO_ENCODED_RUSTFLAGS "${settings[@]}" cargo build --release --locked --package mode-envoy-node --bin mode-envoy)
mkdir -p "$(dirname "$out")"
# In one step, since the one that is replaced may be running.
cp "$folder/$host/release/mode-envoy" "$out.new"
mv "$out.new" "$out"
printf '%s\n' "$out"

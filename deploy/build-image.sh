#!/usr/bin/env bash
# The container image: the static binary, two empty directories, and nothing else. No other image is pulled for it.
#
#   deploy/build-image.sh [NAME]      build the binary (deploy/build-static.sh) and the image NAME (mode-envoy)
#
# Settings, by environment: BUILDER (docker, podman or buildah; else the first of these on the PATH), MODE_ENVOY (a static binary that is
# there already).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
name=${1:-mode-envoy}

die() { printf 'build-image: %s\n' "$*" >&2; exit 1; }

builder=${BUILDER:-}
for tool in docker podman buildah; do
  [ -n "$builder" ] || ! command -v "$tool" >/dev/null || builder=$tool
done
[ -n "$builder" ] || die "none of docker, podman and buildah is on the PATH"
command -v "$builder" >/dev/null || die "BUILDER=$builder is not on the PATH"
binary=${MODE_ENVOY:-$("$root/deploy/build-static.sh")}
[ -x "$binary" ] || die "$binary is no program; set MODE_ENVOY to a static binary"

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/root" "$context/image"
install -m 755 "$binary" "$context/root/mode-envoy"
mkdir -m 700 "$context/root/data" "$context/root/secret"
# An archive keeps owners and modes with every builder. The same binary gives the same bytes.
pack() { tar -C "$context/root" --file "$context/image/root.tar" --format gnu --mtime @0 --numeric-owner "$@"; }
pack --create --owner 65532 --group 65532 data secret
pack --append --owner 0 --group 0 mode-envoy
"$builder" build -f "$root/deploy/docker/Dockerfile" -t "$name" "$context/image"

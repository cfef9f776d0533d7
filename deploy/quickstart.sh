#!/usr/bin/env bash
# A cluster of three nodes on this machine, with an example configuration and an API key: to try things out, not for production.
#
#   deploy/quickstart.sh [start]      start (or start again) and print what to call
#   deploy/quickstart.sh stop         end the nodes in order; everything is kept
#   deploy/quickstart.sh status       the cluster as it sees itself
#   deploy/quickstart.sh clean        stop, and delete everything
#
# Settings, by environment: DIR (mode-envoy-data), GATEWAY_PORT (8080), ADMIN_PORT (7070), PEER_PORT (7071), STEP (100: the second node
# listens at 8180, …), MODE_ENVOY (the binary; else the one on the PATH, else target/release, which is built where it is missing).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${DIR:-mode-envoy-data}
gateway=${GATEWAY_PORT:-8080}
admin=${ADMIN_PORT:-7070}
peer=${PEER_PORT:-7071}
step=${STEP:-100}
nodes=(1 2 3)

die() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
port() { echo $(($1 + ($2 - 1) * step)); }      # of node $2, where node 1 has port $1

binary() {
  if [ -n "${MODE_ENVOY:-}" ]; then echo "$MODE_ENVOY"
  elif command -v mode-envoy >/dev/null; then command -v mode-envoy
  else
    [ -x "$root/target/release/mode-envoy" ] || (cd "$root" && cargo build --release --locked >&2)
    echo "$root/target/release/mode-envoy"
  fi
}

# The nodes keep nothing in the user's own configuration directory.
ask() { XDG_CONFIG_HOME="$dir/config" "$bin" --admin "http://127.0.0.1:$admin" "$@"; }

alive() {
  local pid
  pid=$(cat "$dir/$1.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null && [ "$(readlink "/proc/$pid/exe")" = "$(readlink -f "$bin")" ]
}

start_node() {
  local id=$1 members="" n
  for n in "${nodes[@]}"; do members+="${members:+,}$n=127.0.0.1:$(port "$peer" "$n")"; done
  XDG_CONFIG_HOME="$dir/config" "$bin" serve --node-id "$id" --data-dir "$dir/node-$id" --cluster-secret-file "$dir/cluster.secret" \
    --gateway-addr "127.0.0.1:$(port "$gateway" "$id")" --admin-addr "127.0.0.1:$(port "$admin" "$id")" \
    --peer-addr "127.0.0.1:$(port "$peer" "$id")" --initial-cluster "$members" --log-format json >>"$dir/node-$id.log" 2>&1 </dev/null &
  echo $! >"$dir/$id.pid"
}

wait_for_cluster() {
  local tries=0 n
  # A write needs a quorum and is applied on every node that can be reached: when it returns, all three serve.
  until ask apply -f "$dir/example.yaml" --wait >"$dir/apply.out" 2>&1; do
    for n in "${nodes[@]}"; do alive "$n" || die "node $n ended; the last line of its log: $(tail -n 1 "$dir/node-$n.log")"; done
    tries=$((tries + 1))
    [ "$tries" -lt 120 ] || die "the cluster did not form within a minute: $(tail -n 1 "$dir/apply.out"); see $dir/node-1.log"
    sleep 0.5
  done
}

example() {
  cat <<'YAML'
tenants:
  - name: acme
consumers:
  - {name: mobile-app, tenant: acme, team: retail}
providers:
  - {name: local, protocol: embedded}        # a model server inside the binary: no account is needed
models:
  - name: fast
    targets: [{provider: local, model: echo}]
    price: {input: "0.15", output: "0.60"}   # USD per million tokens
YAML
}

start() {
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  [ -s "$dir/cluster.secret" ] || "$bin" certs secret --out "$dir/cluster.secret" >&2
  [ -s "$dir/example.yaml" ] || example >"$dir/example.yaml"
  local n
  for n in "${nodes[@]}"; do alive "$n" || start_node "$n"; done
  wait_for_cluster
  if [ ! -s "$dir/api-key" ]; then
    (umask 077; ask keys create --tenant acme --consumer mobile-app --name quickstart -o json | sed -n 's/.*"secret": *"\([^"]*\)".*/\1/p' >"$dir/api-key")
  fi
  ask cluster status
  cat <<TEXT

Three nodes are running; their files and logs are in $dir.
  gateways  http://127.0.0.1:$(port "$gateway" 1)  http://127.0.0.1:$(port "$gateway" 2)  http://127.0.0.1:$(port "$gateway" 3)
  admin     http://127.0.0.1:$(port "$admin" 1)

Call a model through any node:
  curl -s http://127.0.0.1:$(port "$gateway" 2)/v1/chat/completions -H "Authorization: Bearer \$(cat $dir/api-key)" \\
    -H 'content-type: application/json' -d '{"model": "fast", "messages": [{"role": "user", "content": "Hello"}]}'

Ask any node:
  export MODE_ENVOY_TOKEN_FILE=$dir/node-1/admin.token MODE_ENVOY_ADMIN=http://127.0.0.1:$(port "$admin" 3)
  $bin usage --group-by consumer,model --linearizable

End it with: DIR=$dir $0 stop
TEXT
}

stop() {
  [ -d "$dir" ] || die "there is no $dir"
  dir=$(cd "$dir" && pwd)
  local n
  for n in "${nodes[@]}"; do if alive "$n"; then kill "$(cat "$dir/$n.pid")"; fi; done
  for n in "${nodes[@]}"; do
    local tries=0
    while alive "$n"; do
      tries=$((tries + 1))
      [ "$tries" -lt 450 ] || die "node $n does not end (pid $(cat "$dir/$n.pid"))"
      sleep 0.1
    done
    rm -f "$dir/$n.pid"
  done
}

bin=$(binary)
[ -x "$bin" ] || die "$bin is no program; set MODE_ENVOY to the mode-envoy binary"
case "${1:-start}" in
  start) start ;;
  stop) stop ;;
  status) dir=$(cd "$dir" 2>/dev/null && pwd) || die "there is no ${DIR:-mode-envoy-data}"; ask cluster status ;;
  clean) stop; rm -rf "$dir" ;;
  *) die "unknown verb '$1': start, stop, status or clean" ;;
esac

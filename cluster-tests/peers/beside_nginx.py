#!/usr/bin/env python3
"""CPU per request of a node beside nginx as a gateway, in alternating runs on one machine: `just beside-nginx`.

Both take an API key, limit its requests (nginx: `limit_req`), write down every call and pass to the same upstream, an
nginx with a fixed answer of 1 KB. What is compared is user and system time of the proxy's processes over the requests
that were answered; the load generator and the upstream share the cores, so requests a second say little.

Needs nginx and wrk on the PATH, and a release build. Everything listens on loopback and ends with the script.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

NGINX = """
worker_processes {workers};
pid {dir}/{name}.pid;
error_log {dir}/{name}.error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log {log};
  keepalive_requests 100000000;
  {extra}
  server {{ listen 127.0.0.1:{port} reuseport; {server} }}
}}
"""
GATEWAY = """
  map_hash_bucket_size 256;
  map $http_authorization $consumer { default ""; "Bearer %s" "app"; }
  limit_req_zone $consumer zone=rpm:10m rate=100000000r/m;
  upstream up { server 127.0.0.1:%d; keepalive 256; keepalive_requests 100000000; }
"""
PASS = 'proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";'


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children(pid):
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *map(int, path.read_text().split())]


def answers(url, seconds=20, headers=None):
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=2) as answer:
                return answer.status
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def nginx(home, name, port, extra="", server="", log="off", workers=1):
    conf = home / f"{name}.conf"
    conf.write_text(NGINX.format(dir=home, name=name, port=port, extra=extra, server=server, log=log, workers=workers))
    process = subprocess.Popen(["nginx", "-p", str(home), "-c", str(conf), "-g", "daemon off;"])
    return process


def node(home, binary, ports, upstream, limited):
    admin = f"http://127.0.0.1:{ports[1]}"
    process = subprocess.Popen(
        [binary, "serve", "--node-id", "1", "--data-dir", home / "node", "--gateway-addr", f"127.0.0.1:{ports[0]}",
         "--admin-addr", f"127.0.0.1:{ports[1]}", "--peer-addr", f"127.0.0.1:{ports[2]}", "--disk-min-free-bytes", "0"],
        env={**os.environ, "XDG_CONFIG_HOME": str(home / "config")}, stdout=subprocess.DEVNULL, stderr=(home / "node.log").open("w"))
    answers(f"{admin}/readyz")
    document = {"tenants": [{"name": "acme"}], "consumers": [{"name": "app", "tenant": "acme"}],
                "services": [{"name": "s", "endpoints": [{"url": f"http://127.0.0.1:{upstream}"}]}],
                "routes": [{"name": "r", "tenant": "acme", "service": "s", "auth": ["key"], "match": {"paths": ["/{*rest}"]}}]}
    if limited:
        document["limits"] = [{"name": "rpm", "match": {"tenant": "acme"}, "each": "key", "unit": "requests",
                               "amount": 100_000_000, "per": "minute", "mode": "strict"}]
    (home / "config.json").write_text(json.dumps(document))

    def cli(*args):
        return subprocess.run([binary, "--admin", admin, *args], check=True, capture_output=True, text=True,
                              env={**os.environ, "MODE_ENVOY_TOKEN_FILE": str(home / "node/admin.token")}).stdout
    cli("apply", "-f", str(home / "config.json"), "--wait")
    secret = json.loads(cli("keys", "create", "--tenant", "acme", "--consumer", "app", "-o", "json"))["secret"]
    return process, secret


def load(url, secret, seconds):
    out = subprocess.run(["wrk", "-t1", "-c64", f"-d{seconds}s", "-H", f"Authorization: Bearer {secret}", url],
                         check=True, capture_output=True, text=True).stdout
    requests = next(int(line.split()[0]) for line in out.splitlines() if " requests in " in line)
    if "Non-2xx" in out:
        raise SystemExit(f"{url} answered with errors:\n{out}")
    return requests


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", default="target/release/mode-envoy")
    arguments.add_argument("--pairs", type=int, default=15)
    arguments.add_argument("--seconds", type=int, default=4)
    arguments.add_argument("--unlimited", action="store_true", help="the node has no limit, as before there were any")
    given = arguments.parse_args()
    home = pathlib.Path(tempfile.mkdtemp(prefix="beside-nginx-"))
    home.chmod(0o755)  # nginx's workers are of another user
    (home / "body").mkdir()
    (home / "body/index.html").write_bytes(b"x" * 1024)
    ports = {"up": 19701, "plain": 19702, "gateway": 19703, "node": (19704, 19705, 19706)}
    started = []
    try:
        started.append(nginx(home, "up", ports["up"], server=f"root {home}/body; location / {{ try_files /index.html =404; }}"))
        process, secret = node(home, given.binary, ports["node"], ports["up"], not given.unlimited)
        started.append(process)
        extra = GATEWAY % (secret, ports["up"])
        started.append(nginx(home, "plain", ports["plain"], extra, f"location / {{ {PASS} }}"))
        refuse = 'if ($consumer = "") { return 401; } limit_req zone=rpm burst=1000000 nodelay;'
        started.append(nginx(home, "gateway", ports["gateway"], extra, f"location / {{ {refuse} {PASS} }}", log=f"{home}/access.log"))
        proxies = {"nginx": (ports["plain"], started[2]), "nginx as a gateway": (ports["gateway"], started[3]),
                   "Mode Envoy": (ports["node"][0], process)}
        figures = {name: [] for name in proxies}
        for port, _ in proxies.values():
            answers(f"http://127.0.0.1:{port}/x", headers={"Authorization": f"Bearer {secret}"})
            load(f"http://127.0.0.1:{port}/x", secret, 1)
        for _ in range(given.pairs):
            for name, (port, process) in proxies.items():
                pids = children(process.pid)
                before = cpu_seconds(pids)
                requests = load(f"http://127.0.0.1:{port}/x", secret, given.seconds)
                figures[name].append(((cpu_seconds(pids) - before) / requests * 1e6, requests / given.seconds))
        base = [cpu for cpu, _ in figures["nginx as a gateway"]]
        for name, runs in figures.items():
            cpu = [run[0] for run in runs]
            quartiles = statistics.quantiles(cpu, n=4)
            ratios = [mine / theirs for mine, theirs in zip(cpu, base)]
            rate = statistics.median(run[1] for run in runs)
            print(f"{name:20} {statistics.median(cpu):6.1f} us a request ({quartiles[0]:.1f} to {quartiles[2]:.1f}), "
                  f"{statistics.median(ratios):.2f} x nginx as a gateway, {rate / 1e3:.0f} k requests/s")
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(40)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()

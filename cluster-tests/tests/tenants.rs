//! Two tenants, each with an admin of its own, trying everything on each other through real processes; and requests that
//! are asked again when their leader dies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::Full;
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::program::Output;
use mode_envoy_cluster_tests::{http, wait};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_secs(20);
const REQUEST: &str = "8d1f0c3a5b7e92644e1d3c5a7b9f0e21";

/// What acme's own admin declares.
const OWN: &str = r#"
consumers: [{name: web, tenant: acme}]
routes:
  - {name: orders, tenant: acme, service: orders, auth: [key], match: {hosts: [api.acme.test], paths: ["/orders/{*rest}"]}}
"#;

/// What a token of a tenant may ask.
const READINGS: [&str; 15] = [
    "export",
    "get tenants",
    "get consumers",
    "get routes",
    "get services",
    "get providers",
    "get models",
    "keys list",
    "keys list --tenant acme",
    "history --limit 100",
    "history consumer",
    "history token",
    "audit --limit 100",
    "usage --group-by tenant,consumer,key,route,provider",
    "usage --linearizable",
];

/// What it asks of others, by name.
const OF_OTHERS: [&str; 10] = [
    "get tenant zebra",
    "get consumer zapp",
    "get consumers --tenant zebra",
    "get route zroute --tenant zebra",
    "get service zservice",
    "get service orders",
    "get provider local",
    "keys list --tenant zebra",
    "history route zroute --tenant zebra",
    "usage --filter tenant=zebra",
];

fn operators(origin: &str) -> String {
    format!(
        r#"
tenants:
  - {{name: acme, hosts: [api.acme.test]}}
  - {{name: zebra, hosts: [api.zebra.test]}}
consumers:
  - {{name: app, tenant: acme}}
  - {{name: zapp, tenant: zebra}}
providers: [{{name: local, protocol: embedded}}]
models: [{{name: fast, targets: [{{provider: local, model: echo}}]}}]
services:
  - {{name: orders, endpoints: [{{url: "{origin}"}}], access: [acme]}}
  - {{name: zservice, endpoints: [{{url: "{origin}"}}], access: [zebra]}}
routes:
  - {{name: zroute, tenant: zebra, service: zservice, auth: [key], match: {{hosts: [api.zebra.test], paths: ["/z"]}}}}
"#
    )
}

/// One who holds a token.
struct Who {
    token: String,
}

// === impl Who ===

impl Who {
    async fn made(node: &Node, name: &str, role: &str, tenant: &str) -> Result<Self> {
        let line = format!("tokens create --name {name} --role {role} --tenant {tenant} -o json");
        let made: Value = serde_json::from_str(&node.ok(&line).await?)?;
        ensure!(made["tenant"] == tenant, "{made}");
        let token = made["token"].as_str().context("a token")?.to_owned();
        Ok(Self { token })
    }

    async fn run(&self, node: &Node, line: &str, input: &str) -> Result<Output> {
        let mut words: Vec<_> = line.split_whitespace().collect();
        words.extend(["--token", &self.token]);
        node.run(&words, input).await
    }

    async fn ok(&self, node: &Node, line: &str, input: &str) -> Result<String> {
        self.run(node, line, input).await?.ok()
    }

    /// What it is told when it is refused, which never speaks of the other tenant but in the caller's own words.
    async fn refused(&self, node: &Node, line: &str, input: &str) -> Result<String> {
        self.run(node, line, input).await?.fails(1)
    }
}

#[tokio::test]
async fn two_tenants_cannot_see_change_or_guess_anything_of_each_other() -> Result<()> {
    let origin = Origin::start("orders").await?;
    let cluster = Cluster::start(NODE, 3).await?;
    cluster.apply(&operators(&origin.url())).await?;
    let zkey = cluster.key("zebra", "zapp", "zkey").await?;
    let node = cluster.node(1);
    let acme = Who::made(node, "acme-ops", "admin", "acme").await?;
    let looker = Who::made(node, "acme-look", "viewer", "acme").await?;
    let zebra = Who::made(node, "zebra-ops", "admin", "zebra").await?;
    let refused = node
        .refuses("tokens create --name x --role root --tenant acme")
        .await?;
    ensure!(
        refused.contains("root is for the whole cluster"),
        "{refused}"
    );
    for node in cluster.nodes() {
        wait::until("the tokens to be known", SOON, async || {
            for who in [&acme, &looker, &zebra] {
                who.ok(node, "get tenants --local", "").await?;
            }
            Ok(())
        })
        .await?;
    }

    // Its own work, through every node.
    for node in cluster.nodes() {
        acme.ok(node, "apply -f - --wait", OWN).await?;
    }
    let made = acme
        .ok(
            node,
            "keys create --tenant acme --consumer web --name mine -o json",
            "",
        )
        .await?;
    let made: Value = serde_json::from_str(&made)?;
    let key = made["secret"].as_str().context("a secret")?.to_owned();
    for node in cluster.nodes() {
        node.wait_key(&key, 200).await?;
        answers_on(node, "api.acme.test", "/orders/1", &key, 200).await?;
    }
    // A host that is another tenant's is not reached by a key of this one.
    answers_on(node, "api.zebra.test", "/z", &key, 403).await?;
    answers_on(node, "api.zebra.test", "/z", &zkey, 200).await?;

    sees_only_its_own(&cluster, &acme, &looker).await?;
    changes_only_its_own(&cluster, &acme, &looker).await?;
    usage_is_its_own(node, &acme, &zkey).await?;

    // The other one is untouched, and its tokens go with it.
    let seen = zebra.ok(node, "export", "").await?;
    ensure!(seen.contains("zroute") && !seen.contains("acme"), "{seen}");
    for line in [
        "delete route zroute --tenant zebra",
        "keys revoke zkey --tenant zebra",
        "delete consumer zapp --tenant zebra",
    ] {
        zebra.ok(cluster.node(2), line, "").await?;
    }
    let unshared = operators(&origin.url()).replace(", access: [zebra]", "");
    let service = unshared
        .lines()
        .find(|line| line.contains("name: zservice"));
    let service = format!("services:\n{}\n", service.context("the service")?);
    node.apply(&service).await?;
    let gone = node.ok("delete tenant zebra").await?;
    ensure!(gone.contains("deleted"), "{gone}");
    let refused = zebra.refused(node, "get tenants", "").await?;
    ensure!(refused.contains("knows no such admin token"), "{refused}");
    let listed = node.ok("tokens list").await?;
    ensure!(
        !listed.contains("zebra-ops") && listed.contains("acme-ops"),
        "{listed}"
    );
    cluster.finish().await
}

async fn answers_on(node: &Node, host: &str, path: &str, key: &str, status: u16) -> Result<()> {
    let what = format!("{host}{path} to answer {status}");
    wait::until(&what, SOON, async || {
        let request = hyper::Request::get(path)
            .header("host", host)
            .header("authorization", format!("Bearer {key}"))
            .body(Full::default())?;
        http::send(node.gateway(), request).await?.expect(status)
    })
    .await
    .map(drop)
}

/// Every reading, on every node: nothing of the other tenant, nor of what the operators keep.
async fn sees_only_its_own(cluster: &Cluster, acme: &Who, looker: &Who) -> Result<()> {
    for node in cluster.nodes() {
        for who in [acme, looker] {
            for line in READINGS {
                let said = who.ok(node, line, "").await?;
                for word in ["zebra", "zapp", "zservice", "zroute", "zkey", "local"] {
                    ensure!(!said.contains(word), "{line}: {said}");
                }
            }
            for line in OF_OTHERS {
                let theirs = who.refused(node, line, "").await?;
                let nobodys = who.refused(node, &nobodys(line), "").await?;
                ensure!(theirs.contains("there is no"), "{line}: {theirs}");
                ensure!(
                    nobodys == self::nobodys(&theirs),
                    "{line}: {theirs}, {nobodys}"
                );
            }
            for line in ["cluster status", "tokens list", "audit --verify"] {
                let refused = who.refused(node, line, "").await?;
                ensure!(refused.contains("use another token"), "{line}: {refused}");
            }
        }
        // What was exported is applied unchanged.
        let exported = acme.ok(node, "export", "").await?;
        ensure!(
            exported.contains("api.acme.test") && exported.contains("web"),
            "{exported}"
        );
        let again = acme.ok(node, "apply -f -", &exported).await?;
        ensure!(
            !again.contains("created") && !again.contains("updated"),
            "{again}"
        );
        let same = looker.run(node, "diff -f -", &exported).await?;
        ensure!(same.code == Some(0), "{same}");
    }
    Ok(())
}

/// The same words about what is not there at all.
fn nobodys(words: &str) -> String {
    let names = [
        ("zebra", "nobody"),
        ("zapp", "none"),
        ("zroute", "none"),
        ("zservice", "none"),
    ];
    names
        .into_iter()
        .fold(words.to_owned(), |words, (theirs, nobodys)| {
            words.replace(theirs, nobodys)
        })
}

/// Every change it might try, asked of a node that may have to forward it.
async fn changes_only_its_own(cluster: &Cluster, acme: &Who, looker: &Who) -> Result<()> {
    let before = cluster.node(1).ok("export").await?;
    let keys = cluster.node(1).ok("keys list").await?;
    let route = |fields: &str| format!("routes: [{{name: new, auth: [key], {fields}}}]");
    let documents = [
        "consumers: [{name: zapp, tenant: zebra, team: mine}]".to_owned(),
        "tenants: [{name: zebra}]".to_owned(),
        "tenants: [{name: acme, hosts: [api.acme.test, api.zebra.test]}]".to_owned(),
        "providers: [{name: local, protocol: openai, base_url: \"http://127.0.0.1:9\"}]".to_owned(),
        "models: [{name: fast, targets: [{provider: local, model: other}]}]".to_owned(),
        "services: [{name: mine, endpoints: [{url: \"http://127.0.0.1:7070\"}], access: [acme]}]"
            .to_owned(),
        route("tenant: zebra, service: zservice, match: {hosts: [api.zebra.test], paths: [/y]}"),
        route("tenant: acme, service: zservice, match: {hosts: [api.acme.test], paths: [/y]}"),
        route("tenant: acme, service: orders, match: {hosts: [api.zebra.test], paths: [/z]}"),
        route("tenant: acme, service: orders, match: {hosts: [elsewhere.test], paths: [/z]}"),
        route("tenant: acme, service: orders, match: {paths: [/z]}"),
    ];
    for node in cluster.nodes() {
        for document in &documents {
            for line in [
                "apply -f -",
                "apply -f - --dry-run",
                "apply -f - --prune --yes",
                "diff -f -",
            ] {
                acme.refused(node, line, document).await?;
            }
        }
        for line in [
            "delete tenant zebra",
            "delete tenant acme",
            "delete consumer zapp --tenant zebra",
            "delete route zroute --tenant zebra",
            "delete service orders",
            "delete provider local",
            "delete model fast",
            "keys create --tenant zebra --consumer zapp --name spy",
            "keys create --tenant acme --consumer zapp --name spy",
            "keys rotate zkey",
            "keys rotate zkey --tenant zebra",
            "keys revoke zkey",
            "keys revoke zkey --tenant zebra",
            "tokens create --name mine --role admin",
            "tokens create --name mine --role admin --tenant acme",
            "tokens revoke zebra-ops",
            "rollback 1",
        ] {
            acme.refused(node, line, "").await?;
        }
        for line in ["delete route orders --tenant acme", "keys revoke mine"] {
            let refused = looker.refused(node, line, "").await?;
            ensure!(refused.contains("takes the role admin"), "{refused}");
        }
        // A prune of its own leaves what is the other one's.
        let pruned = acme.ok(node, "apply -f - --prune --yes", OWN).await?;
        ensure!(pruned.contains("consumer acme/app deleted"), "{pruned}");
        ensure!(!pruned.contains("zebra"), "{pruned}");
        let back = "consumers: [{name: app, tenant: acme}]";
        acme.ok(node, "apply -f -", back).await?;
    }
    let node = cluster.node(1);
    ensure!(node.ok("export").await? == before, "something was changed");
    ensure!(node.ok("keys list").await? == keys, "a key was changed");
    Ok(())
}

async fn usage_is_its_own(node: &Node, acme: &Who, zkey: &str) -> Result<()> {
    let body = http::chat("fast", "hello");
    http::post(node.gateway(), "/v1/chat/completions", zkey, &body)
        .await?
        .expect(200)?;
    let all = node
        .usage(&["--linearizable", "--group-by", "tenant"])
        .await?;
    ensure!(all.to_string().contains("zebra"), "{all}");
    for line in [
        "usage --linearizable --group-by tenant -o json",
        "usage --linearizable --group-by tenant --filter tenant=acme -o json",
        "usage --linearizable --group-by tenant,node -o json",
    ] {
        let own: Value = serde_json::from_str(&acme.ok(node, line, "").await?)?;
        let rows = own["rows"].as_array().context("rows")?;
        ensure!(
            !rows.is_empty() && rows.iter().all(|row| row["tenant"] == "acme"),
            "{own}"
        );
    }
    // Single calls too, and not where they went.
    let line = "calls --linearizable --since 1h -o json";
    let all = node.ok(line).await?;
    ensure!(all.contains("zebra") && all.contains("http://"), "{all}");
    let own = acme.ok(node, line, "").await?;
    ensure!(!own.contains("zebra") && !own.contains("http://"), "{own}");
    let own: Value = serde_json::from_str(&own)?;
    let calls = own["calls"].as_array().context("calls")?;
    let attempts = calls.iter().filter_map(|call| call["attempts"].as_array());
    ensure!(attempts.flatten().count() > 0, "{own}");
    Ok(())
}

#[tokio::test]
async fn a_key_whose_leader_died_before_the_answer_is_made_once_and_shown_by_the_retry()
-> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    cluster
        .apply("tenants: [{name: acme}]\nconsumers: [{name: app, tenant: acme}]\n")
        .await?;
    let leader = leader_of(&cluster).await?;
    let others: Vec<usize> = (1..=3).filter(|id| *id != leader).collect();

    // The answer is lost: the same request on another node, once that leader is gone.
    let line = format!("keys create --tenant acme --consumer app --request-id {REQUEST} -o json");
    let first = cluster.node(leader).ok(&line).await?;
    cluster.node_mut(leader).kill().await?;
    for id in &others {
        let again = cluster.node(*id).ok(&line).await?;
        ensure!(again == first, "{again} is not {first}");
    }
    let secret = secret_of(&first)?;
    cluster.node(others[0]).wait_key(&secret, 200).await?;
    let other = format!("{line} --name other");
    let refused = cluster.node(others[0]).refuses(&other).await?;
    ensure!(
        refused.contains("x-request-id: this id named another request"),
        "{refused}"
    );
    let short = line.replace(REQUEST, "short");
    let refused = cluster.node(others[0]).refuses(&short).await?;
    ensure!(refused.contains("128 random bits"), "{refused}");

    // Rotated since: the secret of then is not told as if it were good.
    cluster
        .node(others[0])
        .ok(&format!("keys rotate {}", name_of(&first)?))
        .await?;
    let refused = cluster.node(others[1]).refuses(&line).await?;
    ensure!(
        refused.contains("was rotated or removed since"),
        "{refused}"
    );

    // The leader dies while it is asked; the command line goes on by itself.
    cluster.node_mut(leader).start()?;
    cluster.wait_ready().await?;
    for round in 0..3 {
        a_leader_dies_while_it_is_asked(&mut cluster, round).await?;
    }
    cluster.finish().await
}

async fn a_leader_dies_while_it_is_asked(cluster: &mut Cluster, round: usize) -> Result<()> {
    let leader = leader_of(cluster).await?;
    let mut urls = vec![cluster.node(leader).admin_url()];
    let others = (1..=3).filter(|id| *id != leader);
    urls.extend(others.map(|id| cluster.node(id).admin_url()));
    let name = format!("dying-{round}");
    let urls = urls.join(",");
    let arguments = [
        "keys",
        "create",
        "--tenant",
        "acme",
        "--consumer",
        "app",
        "--name",
        &name,
        "-o",
        "json",
        "--admin",
        &urls,
    ];
    let program = cluster.node(leader).launch.program.clone();
    let asked = program.run(&arguments, "");
    let (asked, killed) = tokio::join!(asked, cluster.node_mut(leader).kill());
    killed?;
    let secret = secret_of(&asked?.ok()?)?;
    let other = if leader == 1 { 2 } else { 1 };
    let listed: Value = serde_json::from_str(&cluster.node(other).ok("keys list -o json").await?)?;
    let keys = listed["keys"].as_array().context("keys")?;
    let made = keys.iter().filter(|key| key["name"] == *name).count();
    ensure!(made == 1, "{made} keys {name}: {listed}");
    cluster.node(other).wait_key(&secret, 200).await?;
    cluster.node_mut(leader).start()?;
    cluster.wait_ready().await
}

async fn leader_of(cluster: &Cluster) -> Result<usize> {
    wait::until("a leader", Duration::from_secs(20), async || {
        let status = cluster.node(1).status().await?;
        let leader = status["leader"].as_u64().context("a leader")?;
        Ok(usize::try_from(leader)?)
    })
    .await
}

fn secret_of(made: &str) -> Result<String> {
    let made: Value = serde_json::from_str(made)?;
    Ok(made["secret"].as_str().context("a secret")?.to_owned())
}

fn name_of(made: &str) -> Result<String> {
    let made: Value = serde_json::from_str(made)?;
    Ok(made["name"].as_str().context("a name")?.to_owned())
}

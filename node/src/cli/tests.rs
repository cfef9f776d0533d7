//! What the command line takes, as the documentation spells it.

use super::*;

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("mode-envoy").chain(line.split(' ')))
}

#[test]
fn the_definition_holds_together() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn every_documented_line_is_taken() {
    for line in [
        "serve",
        "demo",
        "apply -f config.yaml",
        "apply -f a.yaml -f b --dry-run --wait",
        "apply -f -",
        "apply -f config.yaml --prune --yes",
        "diff -f config.yaml",
        "diff -f - --prune --local -o json",
        "history",
        "history route orders --tenant acme --limit 5 --before 7",
        "history keys",
        "rollback 5",
        "rollback 5 --dry-run --wait -o json",
        "audit",
        "audit --since 30d --limit 10 -o csv",
        "audit --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z",
        "audit --verify",
        "check -f config.yaml -o json",
        "export",
        "export --local --admin http://127.0.0.1:7070,http://127.0.0.1:7071",
        "get routes",
        "get route orders --tenant acme --revision 3",
        "export --revision 3",
        "get route orders --tenant acme -o yaml",
        "delete route orders --tenant acme",
        "delete tenant acme",
        "keys create --tenant acme --consumer app",
        "keys create --tenant acme --consumer app --name ci --expires 30d -o json",
        "keys list --tenant acme",
        "keys rotate ci --grace 10m",
        "keys revoke ci --tenant acme",
        "tokens create --name ci --role admin -o json",
        "tokens list",
        "tokens revoke ci",
        "usage",
        "usage --since 30m --interval minute --group-by tenant,model --filter status=2xx,status=5xx",
        "usage --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z --linearizable -o csv",
        "limits",
        "limits daily --tenant acme --limit 10000 -o csv",
        "cluster status -o json",
        "cluster backup b.backup",
        "cluster rotate-secret",
        "cluster rotate-secret --abort -o json",
        "cluster backup - --local",
        "cluster backup --verify b.backup -o json",
        "cluster restore b.backup --data-dir d",
        "cluster restore - --data-dir d --cluster-secret-file s --node-id 9",
        "certs secret",
        "--admin http://127.0.0.1:1 --token met-x cluster status",
    ] {
        let result = parsed(line);
        assert!(result.is_ok(), "{line}: {}", result.unwrap_err());
    }
}

#[test]
fn lines_that_make_no_sense_are_used_wrongly() {
    for line in [
        "",
        "applly -f x",
        "apply",
        "keys create --tenant acme",
        "keys create --tenant acme --consumer app --expires soon",
        "tokens create --name x --role god",
        "usage --interval week",
        "usage --since 1h --from 2026-03-01T00:00:00Z",
        "usage --filter fast",
        "limits --limit 0",
        "limits --limit 10001",
        "limits daily weekly",
        "cluster",
        "export -o xml",
        "apply -f x --yes",
        "rollback",
        "rollback 0",
        "history --limit 0",
        "audit --verify --since 1h",
        "cluster backup",
        "cluster backup b --verify --local",
        "cluster restore b --node-id x --data-dir d",
        "audit --since 1h --from 2026-03-01T00:00:00Z",
    ] {
        let args = std::iter::once("mode-envoy")
            .chain(line.split_whitespace())
            .map(OsString::from);
        let error = Cli::try_parse_from(args).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn help_and_version_are_no_failure() {
    for line in ["--help", "--version", "apply --help"] {
        assert_eq!(parsed(line).unwrap_err().exit_code(), 0, "{line}");
    }
}

#[test]
fn a_token_is_never_shown_by_help() {
    use clap::CommandFactory as _;
    let help = Cli::command().render_long_help().to_string();
    assert!(
        help.contains("MODE_ENVOY_TOKEN") && !help.contains("MODE_ENVOY_TOKEN="),
        "{help}"
    );
}

//! The direction of dependencies.
//!
//! `amqp`, `core` and `store` meet only in `types`; `admin` sees the broker through traits of `types`; nothing below `server`
//! knows an executor, a socket, a clock or a thread. A crate that isn't in the table is refused, so that a new one is a decision.

use crate::source;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What one crate may and may not use.
struct Rule {
    name: &'static str,
    /// Crates of this workspace its library or binary may depend on.
    ours: &'static [&'static str],
    /// The same for its tests, in addition.
    ours_in_tests: &'static [&'static str],
    /// Packages of others it must not name, in tests neither.
    denied: &'static [&'static str],
    /// Paths that must not occur in its production code.
    banned: &'static [&'static str],
}

/// Anything that waits, listens, stores or tells the time.
const WORLD: &[&str] =
    &["tokio", "sled", "mio", "socket2", "async-std", "smol", "rand", "chrono", "time", "crossbeam", "rayon"];
/// The same in the standard library.
const STD_WORLD: &[&str] = &["std::net", "std::thread", "std::fs", "Instant::now", "SystemTime::now", "rand::rng"];

const RULES: &[Rule] = &[
    Rule { name: "hornpipe-types", ours: &[], ours_in_tests: &[], denied: WORLD, banned: STD_WORLD },
    Rule {
        name: "hornpipe-amqp",
        ours: &["hornpipe-types"],
        ours_in_tests: &["hornpipe-testkit"],
        denied: WORLD,
        banned: STD_WORLD,
    },
    Rule {
        name: "hornpipe-core",
        ours: &["hornpipe-types"],
        ours_in_tests: &["hornpipe-testkit"],
        denied: &[
            "tokio",
            "sled",
            "mio",
            "socket2",
            "async-std",
            "smol",
            "rand",
            "chrono",
            "time",
            "crossbeam",
            "rayon",
            "amq-protocol",
        ],
        banned: STD_WORLD,
    },
    Rule {
        name: "hornpipe-store",
        ours: &["hornpipe-types"],
        ours_in_tests: &["hornpipe-testkit"],
        denied: &["tokio", "mio", "amq-protocol", "prometheus"],
        banned: &["std::net"],
    },
    Rule {
        name: "hornpipe-server",
        ours: &["hornpipe-types", "hornpipe-amqp", "hornpipe-core", "hornpipe-store"],
        ours_in_tests: &["hornpipe-testkit"],
        denied: &["clap", "prometheus", "hyper", "axum", "tracing-subscriber", "sled"],
        banned: &[],
    },
    Rule {
        name: "hornpipe-admin",
        ours: &["hornpipe-types"],
        ours_in_tests: &["hornpipe-testkit"],
        denied: &["sled", "amq-protocol", "clap"],
        banned: &[],
    },
    Rule {
        name: "hornpipe",
        // The store only for the type of its settings, which `resolve` fills in.
        ours: &["hornpipe-types", "hornpipe-server", "hornpipe-admin", "hornpipe-store"],
        ours_in_tests: &["hornpipe-testkit"],
        denied: &["sled", "amq-protocol"],
        banned: &[],
    },
    Rule {
        name: "hornpipe-sim",
        ours: &["hornpipe-types", "hornpipe-amqp", "hornpipe-core", "hornpipe-store"],
        ours_in_tests: &["hornpipe-testkit"],
        denied: &["tokio", "mio"],
        banned: &["std::thread", "SystemTime::now", "rand::rng"],
    },
    // Development only: no rule but that nothing above depends on them outside its tests.
    Rule { name: "hornpipe-testkit", ours: ANY, ours_in_tests: ANY, denied: &[], banned: &[] },
    Rule { name: "hornpipe-hostile", ours: ANY, ours_in_tests: ANY, denied: &[], banned: &[] },
    Rule { name: "hornpipe-bench", ours: ANY, ours_in_tests: ANY, denied: &[], banned: &[] },
    Rule { name: "hornpipe-conformance", ours: ANY, ours_in_tests: ANY, denied: &[], banned: &[] },
    Rule { name: "xtask", ours: &[], ours_in_tests: &[], denied: WORLD, banned: &[] },
];

const ANY: &[&str] = &[
    "hornpipe-types",
    "hornpipe-amqp",
    "hornpipe-core",
    "hornpipe-store",
    "hornpipe-server",
    "hornpipe-admin",
    "hornpipe-testkit",
];

/// Files of `store` that may name sled: the log itself and what its tests reach for.
const SLED_FILE: &str = "crates/store/src/sled.rs";

/// One dependency as a manifest states it.
struct Edge {
    from: String,
    to: String,
    in_tests: bool,
}

/// Problems found, as lines to print.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let metadata = metadata(root)?;
    let (members, edges) = read(&metadata)?;
    let mut problems = judge(&members, &edges);
    problems.extend(banned_paths(root)?);
    Ok(problems)
}

fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// Names of the members and all their direct dependencies.
fn read(metadata: &Value) -> Result<(Vec<String>, Vec<Edge>)> {
    let mut members = Vec::new();
    let mut edges = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let from = package["name"].as_str().context("a package without name")?.to_owned();
        for dependency in package["dependencies"].as_array().context("no dependencies")? {
            edges.push(Edge {
                from: from.clone(),
                to: dependency["name"].as_str().context("a dependency without name")?.to_owned(),
                in_tests: dependency["kind"].as_str() == Some("dev"),
            });
        }
        members.push(from);
    }
    Ok((members, edges))
}

fn judge(members: &[String], edges: &[Edge]) -> Vec<String> {
    let mut problems = Vec::new();
    for member in members {
        if !RULES.iter().any(|rule| rule.name == member) {
            problems.push(format!("edges: crate {member} is not in the table in crates/xtask/src/edges.rs"));
        }
    }
    for edge in edges {
        let Some(rule) = RULES.iter().find(|rule| rule.name == edge.from) else { continue };
        if members.contains(&edge.to) {
            let allowed = rule.ours.contains(&edge.to.as_str())
                || (edge.in_tests && rule.ours_in_tests.contains(&edge.to.as_str()));
            if !allowed {
                problems.push(format!("edges: {} must not depend on {}", edge.from, edge.to));
            }
        } else if rule.denied.contains(&edge.to.as_str()) {
            problems.push(format!("edges: {} must not know the package {}", edge.from, edge.to));
        }
    }
    problems
}

fn banned_paths(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for rule in RULES {
        let folder = root.join("crates").join(rule.name.trim_start_matches("hornpipe-")).join("src");
        for path in source::files(&folder, &[".rs"])? {
            let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            // Files that are tests as a whole.
            if shown.ends_with("tests.rs") || shown.contains("/tests/") {
                continue;
            }
            let code = source::production(&source::read(&path)?);
            for banned in rule.banned {
                if code.contains(banned) {
                    problems.push(format!("edges: {shown} uses {banned}"));
                }
            }
            if rule.name == "hornpipe-store" && shown != SLED_FILE && names_sled(&code) {
                problems.push(format!("edges: {shown} names sled; only {SLED_FILE} may"));
            }
        }
    }
    Ok(problems)
}

/// Whether the code uses the package, as opposed to a module of ours that has its name.
fn names_sled(code: &str) -> bool {
    code.lines().any(|line| {
        let line = line.trim();
        line.starts_with("use sled::")
            || line.contains("::sled::") && !line.contains("crate::sled::") && !line.contains("super::sled::")
            || ["sled::Db", "sled::Tree", "sled::Batch", "sled::Config", "sled::open", "sled::IVec"]
                .iter()
                .any(|it| line.contains(it))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str, in_tests: bool) -> Edge {
        Edge { from: from.into(), to: to.into(), in_tests }
    }

    fn members() -> Vec<String> {
        RULES.iter().map(|rule| rule.name.to_owned()).collect()
    }

    #[test]
    fn the_dependency_direction_holds() {
        let root = crate::root().expect("the workspace");
        assert_eq!(check(&root).expect("the check runs"), Vec::<String>::new());
    }

    #[test]
    fn wrong_edges_are_found() {
        for (from, to, in_tests, refused) in [
            ("hornpipe-core", "hornpipe-types", false, false),
            ("hornpipe-core", "hornpipe-amqp", false, true),
            ("hornpipe-core", "hornpipe-amqp", true, true),
            ("hornpipe-core", "tokio", true, true),
            ("hornpipe-core", "regex", false, false),
            ("hornpipe-store", "hornpipe-core", false, true),
            ("hornpipe-admin", "hornpipe-server", false, true),
            ("hornpipe-admin", "tokio", false, false),
            ("hornpipe-server", "clap", false, true),
            ("hornpipe-server", "hornpipe-testkit", false, true),
            ("hornpipe-server", "hornpipe-testkit", true, false),
            ("hornpipe-types", "hornpipe-core", false, true),
        ] {
            let problems = judge(&members(), &[edge(from, to, in_tests)]);
            assert_eq!(!problems.is_empty(), refused, "{from} -> {to}: {problems:?}");
        }
    }

    #[test]
    fn a_new_crate_needs_a_rule() {
        assert_eq!(judge(&["hornpipe-mqtt".to_owned()], &[]).len(), 1);
    }

    #[test]
    fn sled_is_told_from_a_module_of_that_name() {
        assert!(names_sled("use sled::Db;"));
        assert!(names_sled("let db: sled::Db = x;"));
        assert!(!names_sled("use crate::sled::Log;"));
        assert!(!names_sled("pub(crate) mod sled;"));
    }
}

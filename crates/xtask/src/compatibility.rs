//! `docs/compatibility.md` claims nothing that no test shows.
//!
//! The page is made of Markdown tables. A row's status is the cell under the heading `status`, its tests the code spans in the
//! cell under `test` (or `tests`). A span is the name of a test: a Rust `fn` under `#[test]`, a Python `def test_…`, the title
//! of a Node test or a scenario of the differential suite; `file::name` says which file has it. A row whose status doesn't
//! start with `no`, `planned` or `absent` must name at least one.

use crate::source;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PAGE: &str = "docs/compatibility.md";
const UNTESTED: [&str; 4] = ["no", "planned", "absent", "not "];

/// Test names, each with the files that have one of that name.
type Tests = BTreeMap<String, BTreeSet<String>>;

/// Problems found, as lines to print; none as long as the page isn't there.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let page = root.join(PAGE);
    if !page.exists() {
        return Ok(Vec::new());
    }
    Ok(judge(&source::read(&page)?, &tests(root)?))
}

fn tests(root: &Path) -> Result<Tests> {
    let mut found = Tests::new();
    for folder in ["crates", "tests"] {
        for path in source::files(&root.join(folder), &[".rs", ".py", ".mjs"])? {
            let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let text = source::read(&path)?;
            let names = match path.extension().and_then(|it| it.to_str()) {
                Some("rs") => rust_tests(&text),
                Some("py") => python_tests(&text, shown.contains("differential/")),
                _ => node_tests(&text),
            };
            for name in names {
                found.entry(name).or_default().insert(shown.clone());
            }
        }
    }
    Ok(found)
}

/// Functions below an attribute that makes them tests; those in a `proptest!` block carry it too.
fn rust_tests(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line.split("fn ").nth(1).filter(|_| is_test && !line.starts_with("//")) {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            is_test = false;
        }
    }
    names
}

/// `def test_…`; in the differential suite every function may be a scenario.
fn python_tests(text: &str, every: bool) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("def ").or(line.trim().strip_prefix("async def ")))
        .map(|rest| rest.split('(').next().unwrap_or_default().to_owned())
        .filter(|name| every || name.starts_with("test_"))
        .collect()
}

fn node_tests(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("test('"))
        .filter_map(|rest| rest.split("',").next())
        .map(str::to_owned)
        .collect()
}

fn judge(page: &str, tests: &Tests) -> Vec<String> {
    let mut problems = Vec::new();
    let mut columns: Option<(Option<usize>, usize)> = None;
    for (number, line) in page.lines().enumerate() {
        let Some(cells) = cells(line) else {
            columns = None;
            continue;
        };
        let Some((status, test)) = columns else {
            let at = |wanted: &[&str]| cells.iter().position(|it| wanted.contains(&it.to_lowercase().as_str()));
            // A table without a column for tests makes no claims.
            columns = Some((at(&["status"]), at(&["test", "tests"]).unwrap_or(usize::MAX)));
            continue;
        };
        if cells.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| "-: ".contains(c))) || test == usize::MAX {
            continue;
        }
        let at = format!("{PAGE}:{}", number + 1);
        let claims = status.and_then(|it| cells.get(it)).is_none_or(|status| {
            let status = status.to_lowercase();
            !UNTESTED.iter().any(|word| status.starts_with(word)) && status != "–" && status != "-"
        });
        let named = cells.get(test).map(|cell| spans(cell)).unwrap_or_default();
        if claims && named.is_empty() {
            problems.push(format!("{at}: no test named for `{}`", cells.first().map_or("", |it| it.as_str())));
        }
        for name in named {
            if !exists(&name, tests) {
                problems.push(format!("{at}: there is no test `{name}`"));
            }
        }
    }
    problems
}

/// The cells of a table row; `None` for any other line.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?;
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    let mut cells = vec![String::new()];
    let mut escaped = false;
    for c in inner.chars() {
        if c == '|' && !escaped {
            cells.push(String::new());
        } else if let Some(last) = cells.last_mut() {
            last.push(c);
        }
        escaped = c == '\\';
    }
    Some(cells.iter().map(|cell| cell.trim().to_owned()).collect())
}

/// The code spans of a cell.
fn spans(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn exists(name: &str, tests: &Tests) -> bool {
    match name.rsplit_once("::") {
        None => tests.contains_key(name),
        Some((place, name)) => tests.get(name).is_some_and(|files| {
            // `file.py::name`, or a module path such as `queue::tests::name`, whose parts occur in the file's path.
            let wanted: Vec<&str> = place.split("::").filter(|it| !matches!(*it, "tests" | "")).collect();
            files.iter().any(|file| wanted.iter().all(|part| file.contains(&part.replace("hornpipe_", ""))))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_tests_exist() {
        let root = crate::root().expect("the workspace");
        assert_eq!(check(&root).expect("the check runs"), Vec::<String>::new());
    }

    #[test]
    fn this_repository_has_tests_of_each_kind() {
        let all = tests(&crate::root().expect("the workspace")).expect("readable");
        for name in ["named_tests_exist", "test_topic", "every exchange type"] {
            assert!(all.contains_key(name), "{name}");
        }
    }

    #[test]
    fn rows_are_judged() {
        let page = "\
text | not a table
| rule | status | test |
|---|---|---|
| one | yes | `test_a` |
| two | yes | `tests/python/test_x.py::test_a`, `core::queue::tests::deep` |
| three | yes | |
| four | no | |
| five | yes | `test_missing` |
| six | partly | `tests/python/test_y.py::test_a` |

| other | table |
|---|---|
| `not_a_test` | yes |
";
        let mut known = Tests::new();
        known.entry("test_a".into()).or_default().insert("tests/python/test_x.py".into());
        known.entry("deep".into()).or_default().insert("crates/core/src/queue/ready.rs".into());
        let problems = judge(page, &known);
        assert_eq!(
            problems,
            [
                "docs/compatibility.md:6: no test named for `three`",
                "docs/compatibility.md:8: there is no test `test_missing`",
                "docs/compatibility.md:9: there is no test `tests/python/test_y.py::test_a`",
            ]
        );
    }

    #[test]
    fn names_are_read_from_sources() {
        let rust = "#[test]\nfn one() {}\nfn helper() {}\n#[tokio::test]\n#[ignore]\nasync fn two() {}\n#[test]\n// fn no\nfn three(a in 0..1) {}";
        assert_eq!(rust_tests(rust), ["one", "two", "three"]);
        assert_eq!(python_tests("def test_a(x):\n    pass\ndef helper():\n", false), ["test_a"]);
        assert_eq!(node_tests("  test('some title', async () => {"), ["some title"]);
    }
}

//! Walks source files.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Folders that hold nobody's source.
const SKIPPED: [&str; 5] = ["target", "node_modules", ".git", ".cache", "__pycache__"];

/// All files below `folder` whose name ends in one of `endings`, in a fixed order; none if the folder isn't there.
pub(crate) fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !SKIPPED.contains(&name) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The part of a Rust file before its unit tests, without comments: what a rule about production code looks at.
pub(crate) fn production(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut out = String::with_capacity(code.len());
    for line in code.lines() {
        out.push_str(line.split("//").next().unwrap_or_default());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_tests_are_not_production() {
        let text = "use a; // std::net\n//! std::fs\ncode();\n#[cfg(test)]\nmod tests { std::thread }\n";
        assert_eq!(production(text), "use a; \n\ncode();\n");
    }
}

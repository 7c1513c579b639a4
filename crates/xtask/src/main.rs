//! Checks on the repository itself, run as `cargo run -p xtask -- CHECK` and as this crate's tests.
//!
//! - `edges`: which crate may depend on which, which packages a crate must not name, and what the pure crates must not touch
//! - `compatibility`: every test that `docs/compatibility.md` names exists
//! - `tidy`: all of them
#![allow(clippy::print_stdout, reason = "a command line tool")]

mod compatibility;
mod edges;
mod source;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The folder of the workspace, from where this crate was built.
fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .context("xtask lies two folders below the workspace")
}

fn main() -> Result<()> {
    let root = root()?;
    let check = std::env::args().nth(1).unwrap_or_default();
    let problems = match check.as_str() {
        "edges" => edges::check(&root)?,
        "compatibility" => compatibility::check(&root)?,
        "tidy" => {
            let mut all = edges::check(&root)?;
            all.extend(compatibility::check(&root)?);
            all
        }
        _ => bail!("usage: cargo run -p xtask -- edges | compatibility | tidy"),
    };
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{check}: {} problems", problems.len());
    }
    println!("{check}: ok");
    Ok(())
}

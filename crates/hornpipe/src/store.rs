//! `hornpipe store …`: tools for the store of a stopped broker, and the snapshot of a running one.

use crate::cli::StoreCommand;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::{healthcheck, say};
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hornpipe_store::{StoreConfig, tools};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

/// Exit code when the store is damaged, to be told from one that can't be looked at.
const DAMAGED: u8 = 3;

/// Runs the command.
pub(crate) fn run(command: StoreCommand, config: &Config) -> ExitCode {
    let store = &config.server.store;
    let done = match command {
        StoreCommand::Verify { dir, all } => verify(&dir, store, all),
        StoreCommand::Compact { dir } => compact(&dir, store),
        StoreCommand::Export { dir, file } => export(&dir, &file, store),
        StoreCommand::Import { file, dir } => import(&file, &dir, store, config.server.shards),
        StoreCommand::Snapshot { dir, url, user, password } => snapshot(&dir, url, &user, &password, config),
    };
    done.unwrap_or_else(|error| {
        eprintln!("hornpipe: {error:#}");
        ExitCode::FAILURE
    })
}

/// Keeps brokers and other tools out. Nothing is made where there is nothing.
fn lock(dir: &Path) -> anyhow::Result<DataDir> {
    if !["shard-0", "shards", "importing"].iter().any(|name| dir.join(name).exists()) {
        bail!("{} is no data folder: it has no shard-0", dir.display());
    }
    DataDir::lock(dir)
}

/// Octets for people.
fn size(octets: u64) -> String {
    match octets {
        0..10_000 => format!("{octets} octets"),
        10_000..10_240_000 => format!("{:.1} KiB", octets as f64 / 1024.0),
        _ => format!("{:.1} MiB", octets as f64 / 1024.0 / 1024.0),
    }
}

fn verify(dir: &Path, store: &StoreConfig, all: bool) -> anyhow::Result<ExitCode> {
    let _lock = lock(dir)?;
    let report = tools::verify(dir, store)?;
    let mut text = String::new();
    let mut line = |l: String| {
        text += &l;
        text.push('\n');
    };
    let messages: u64 = report.queues.iter().map(|q| q.messages).sum();
    line(format!(
        "{} definitions, {messages} messages in {} queues, {} log records; the last stop was {}",
        report.definitions,
        report.queues.len(),
        report.records,
        if report.clean { "clean" } else { "not clean" },
    ));
    line(format!(
        "database {} holding {}, {} body files of {}",
        size(report.map_bytes.0),
        size(report.map_bytes.1),
        report.body_files.0,
        size(report.body_files.1),
    ));
    for queue in &report.queues {
        if all || !queue.hurt.is_empty() {
            let (name, vhost) = (&queue.name, &queue.vhost);
            let deleted = if queue.deleted { ", deleted: these are to be dead-lettered" } else { "" };
            let bytes = size(queue.body_bytes);
            line(format!("queue '{name}' in vhost '{vhost}': {} messages, {bytes}{deleted}", queue.messages));
        }
        for hurt in &queue.hurt {
            let what = if hurt.count == 1 { "message can't" } else { "messages can't" };
            line(format!("  DAMAGED: {} {what} be read, from position {}: {}", hurt.count, hurt.first, hurt.reason));
        }
    }
    for damage in &report.damage {
        line(format!("DAMAGED: {damage}"));
    }
    for what in &report.unchecked {
        line(format!("not checked: {what}"));
    }
    if let Some(cut) = &report.cut {
        line(format!("{cut}; as after a cut of power, nothing that was confirmed is behind it"));
    }
    if report.orphans > 0 {
        line(format!("{} body files are not needed; the next start removes them", report.orphans));
    }
    if report.homeless > 0 {
        line(format!("{} messages belong to queues that are gone; the next start drops them", report.homeless));
    }
    text += if report.is_whole() { "the store is whole" } else { "the store is DAMAGED" };
    say(&text)?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn compact(dir: &Path, store: &StoreConfig) -> anyhow::Result<ExitCode> {
    let _lock = lock(dir)?;
    let done = tools::compact(dir, store)?;
    say(&format!("{} messages; {} became {}", done.messages, size(done.before), size(done.after)))?;
    Ok(ExitCode::SUCCESS)
}

fn export(dir: &Path, file: &Path, store: &StoreConfig) -> anyhow::Result<ExitCode> {
    let _lock = lock(dir)?;
    if file == Path::new("-") {
        tools::export(dir, store, &mut BufWriter::new(std::io::stdout().lock()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let out = OpenOptions::new().write(true).create_new(true).open(file);
    let mut out = BufWriter::new(out.with_context(|| format!("can't create {}", file.display()))?);
    let ported = tools::export(dir, store, &mut out)
        .map_err(anyhow::Error::from)
        .and_then(|ported| {
            out.flush()?;
            out.get_ref().sync_all().with_context(|| format!("can't write {}", file.display()))?;
            Ok(ported)
        })
        .inspect_err(|_| {
            // Half an export helps nobody.
            let _ = std::fs::remove_file(file);
        })?;
    say(&format!("{} definitions and {} messages in {}", ported.definitions, ported.messages, file.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn import(file: &Path, dir: &Path, store: &StoreConfig, shards: u32) -> anyhow::Result<ExitCode> {
    let (was_there, had_lock) = (dir.exists(), dir.join("lock").exists());
    let lock = DataDir::lock(dir)?;
    let imported = import_locked(file, dir, store, shards).inspect_err(|_| {
        // What the lock needed.
        if !had_lock {
            let _ = std::fs::remove_file(dir.join("lock"));
        }
        if !was_there {
            let _ = std::fs::remove_dir(dir);
        }
    });
    drop(lock);
    imported
}

fn import_locked(file: &Path, dir: &Path, store: &StoreConfig, shards: u32) -> anyhow::Result<ExitCode> {
    let ported = if file == Path::new("-") {
        tools::import(&mut std::io::stdin().lock(), dir, store, shards)?
    } else {
        let input = File::open(file).with_context(|| format!("can't open {}", file.display()))?;
        tools::import(&mut BufReader::new(input), dir, store, shards)?
    };
    say(&format!("{} definitions and {} messages in {}", ported.definitions, ported.messages, dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn snapshot(dir: &Path, url: Option<String>, user: &str, password: &str, config: &Config) -> anyhow::Result<ExitCode> {
    let base = url.map_or_else(|| healthcheck::base_url(config), Ok)?;
    let url = format!("{}/api/hornpipe/snapshot", base.trim_end_matches('/'));
    let folder = dir.to_str().context("the folder's name is not UTF-8")?;
    let login = STANDARD.encode(format!("{user}:{password}"));
    let headers = format!("Authorization: Basic {login}\r\nContent-Type: application/json\r\n");
    let body = serde_json::json!({ "folder": folder }).to_string();
    let (status, answer) = healthcheck::request(&url, "POST", &headers, &body, None)?;
    let told: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    if status != "200" {
        let reason = told.get("reason").and_then(serde_json::Value::as_str).unwrap_or(&answer);
        bail!("{url} answers {status}: {reason}");
    }
    let octets = |key: &str| size(told.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0));
    say(&format!("snapshot in {folder}: database {}, body files {}", octets("db_bytes"), octets("body_bytes")))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(9999), "9999 octets");
        assert_eq!(size(20 << 10), "20.0 KiB");
        assert_eq!(size(3 << 30), "3072.0 MiB");
    }
}

//! What a process tree has used, from `/proc`.

use std::collections::HashMap;
use std::fs;

/// CPU seconds of the machine, a broker and this process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// The broker's whole process tree; zero without a pid.
    pub(crate) broker: f64,
    /// This process.
    pub(crate) own: f64,
    /// All cores together, not idle.
    pub(crate) machine: f64,
}

impl Sample {
    pub(crate) fn take(pid: Option<u32>) -> Self {
        Self { broker: pid.map_or(0.0, cpu_of_tree), own: cpu_of(std::process::id()), machine: cpu_of_machine() }
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            broker: self.broker - earlier.broker,
            own: self.own - earlier.own,
            machine: self.machine - earlier.machine,
        }
    }
}

/// Memory of a process tree in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    /// Proportional share: pages shared between processes counted once.
    pub(crate) pss: u64,
}

impl Memory {
    pub(crate) fn of_tree(pid: u32) -> Self {
        let mut memory = Self::default();
        for member in tree(pid) {
            memory.rss += kilobytes(&format!("/proc/{member}/status"), "VmRSS:");
            memory.pss += kilobytes(&format!("/proc/{member}/smaps_rollup"), "Pss:");
        }
        memory
    }
}

/// The machine in a few words.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<&str> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split_once(": ")).map_or("unknown processor", |(_, model)| model);
    let memory = kilobytes("/proc/meminfo", "MemTotal:") >> 30;
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{} × {model}, {memory} GiB, Linux {}", models.len(), kernel.trim())
}

fn kilobytes(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn ticks() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Fields of `/proc/<pid>/stat` from the state on; the command name before may hold anything.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

/// User and system time of one process and of its children that have ended.
fn cpu_of(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |fields| fields.iter().skip(11).take(4).sum::<u64>() as f64 / ticks())
}

fn cpu_of_tree(pid: u32) -> f64 {
    tree(pid).into_iter().map(cpu_of).sum()
}

fn cpu_of_machine() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    // user nice system idle iowait irq softirq steal
    let busy: u64 = fields.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, v)| v).sum();
    busy as f64 / ticks()
}

/// Whether there is such a process.
pub(crate) fn exists(pid: u32) -> bool {
    stat(pid).is_some()
}

/// A process and everything below it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1).copied()) {
            children.entry(parent as u32).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found
}

/// Lets this thread's sleeps end when asked, not up to 50 µs later.
pub(crate) fn sharpen_sleep() {
    let Ok(own) = fs::read_link("/proc/thread-self") else { return };
    if let Some(tid) = own.file_name().and_then(|name| name.to_str()) {
        // Only a finer figure is lost if the kernel says no.
        let _ = fs::write(format!("/proc/{tid}/timerslack_ns"), "1000");
    }
}

/// Lets other threads of the machine go first, and those that this one starts as well.
pub(crate) fn yield_to_others() {
    // Without it figures are less clear, no more.
    let _ = rustix::process::nice(10);
}

/// Raises the limit of open files to what the system allows; 2 000 connections need it.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_processor_and_memory() {
        let text = machine();
        assert!(!text.starts_with('0') && text.contains(" GiB, Linux ") && !text.contains(" 0 GiB"), "{text}");
    }

    #[test]
    fn this_process_is_in_its_own_tree_and_uses_memory() {
        let pid = std::process::id();
        assert!(tree(pid).contains(&pid));
        assert!(Memory::of_tree(pid).rss > 100_000);
        assert!(cpu_of_machine() > 0.0);
    }
}

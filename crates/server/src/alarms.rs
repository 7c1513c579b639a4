//! Memory and disk watermarks, sampled each second, and more often near them, on a plain thread so that a stalled runtime can't
//! hide them.

use rustix::param::page_size;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// With less than so much free above the limit the disk is looked at more often, octets.
const NEAR: u64 = 1 << 30;
/// How often then at least.
const NEAR_PAUSE: Duration = Duration::from_millis(50);

/// What raises an alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct AlarmConfig {
    /// Share of the memory limit above which publishers are blocked, 0…1; RabbitMQ's default is 0.6.
    pub memory_watermark: f64,
    /// Memory limit in octets; 0 = the container's limit, else the machine's memory.
    pub memory_limit: u64,
    /// Free octets of the data folder's volume below which publishers are blocked; RabbitMQ's default is 50 MB.
    pub disk_free_limit: u64,
    /// Time between two samples, milliseconds.
    pub interval_ms: u64,
}

impl Default for AlarmConfig {
    fn default() -> Self {
        Self { memory_watermark: 0.6, memory_limit: 0, disk_free_limit: 50_000_000, interval_ms: 1000 }
    }
}

/// The last sample; all in octets.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    pub(crate) memory_used: AtomicU64,
    /// The watermark itself: limit × share.
    pub(crate) memory_limit: AtomicU64,
    pub(crate) disk_free: AtomicU64,
    /// What should be kept back on the volume and is not: it does not count as free.
    pub(crate) reserve: AtomicU64,
    /// What may still be written after publishers were blocked: as much as the group under way, and one that waits.
    pub(crate) writing: AtomicU64,
    pub(crate) disk_free_limit: AtomicU64,
}

/// Which alarms are up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Alarms {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
}

impl Levels {
    /// Takes a sample and says which alarms it means. What can't be read raises none.
    pub(crate) fn sample(&self, config: &AlarmConfig, data_dir: &Path) -> Alarms {
        let used = resident_bytes().unwrap_or(0);
        let total = if config.memory_limit > 0 { config.memory_limit } else { memory_total() };
        let watermark = (total as f64 * config.memory_watermark) as u64;
        let free = disk_free(data_dir).unwrap_or(u64::MAX);
        self.memory_used.store(used, Ordering::Relaxed);
        self.memory_limit.store(watermark, Ordering::Relaxed);
        self.disk_free.store(if free == u64::MAX { 0 } else { free }, Ordering::Relaxed);
        self.disk_free_limit.store(config.disk_free_limit, Ordering::Relaxed);
        let kept = self.reserve.load(Ordering::Relaxed).saturating_add(self.writing.load(Ordering::Relaxed));
        let floor = config.disk_free_limit.saturating_add(kept);
        Alarms { memory: watermark > 0 && used > watermark, disk: free < floor }
    }

    /// Whether a fast publisher may use up within the usual pause what is left of the memory or the volume.
    fn is_near(&self) -> bool {
        let of = |level: &AtomicU64| level.load(Ordering::Relaxed);
        let watermark = of(&self.memory_limit);
        watermark > 0 && of(&self.memory_used) > watermark / 2
            || of(&self.disk_free) < of(&self.disk_free_limit).saturating_add(NEAR)
    }
}

/// Resident octets of this process.
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

/// The smallest of the limits of the control groups this process is in and the machine's memory, octets; 0 when none can be
/// read.
pub fn memory_total() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_else(|_| "1:memory:/\n0::/\n".to_owned());
    let limit = group_limit(&groups, Path::new("/sys/fs/cgroup"));
    [machine, limit].into_iter().flatten().min().unwrap_or(0)
}

/// The smallest memory limit of control groups, as `/proc/self/cgroup` tells them, and of those they are in. A container may
/// see its own group alone, where the others are mounted.
fn group_limit(groups: &str, mount: &Path) -> Option<u64> {
    let limit = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (mut dir, file) = match parts.next()? {
            "" => (mount.to_owned(), "memory.max"),
            kinds if kinds.split(',').any(|kind| kind == "memory") => (mount.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let read = |dir: &Path| std::fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
        let mut limits = vec![read(&dir)];
        // what begins with .. is outside of what can be seen
        for name in parts.next()?.split('/').filter(|name| !name.is_empty()).take_while(|name| *name != "..") {
            dir.push(name);
            limits.push(read(&dir));
        }
        limits.into_iter().flatten().filter(|limit| *limit > 0).min()
    };
    groups.lines().filter_map(limit).min()
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn disk_free(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Size of the volume a folder is, or will be, on.
pub(crate) fn volume_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|p| p.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// The sampling thread; stops when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// Samples now and then, calling `changed` with the first alarms (when there are any) and at each change.
    pub(crate) fn start(
        config: AlarmConfig,
        data_dir: PathBuf,
        levels: Arc<Levels>,
        mut changed: impl FnMut(Alarms) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let signal = stop.clone();
        let thread = std::thread::Builder::new().name("alarms".into()).spawn(move || {
            let mut last = Alarms::default();
            let pause = Duration::from_millis(config.interval_ms.max(10));
            loop {
                let found = levels.sample(&config, &data_dir);
                if found != last {
                    report(last, found, &levels);
                    last = found;
                    changed(found);
                }
                let pause = if levels.is_near() { pause.min(NEAR_PAUSE) } else { pause };
                let stopped = signal.0.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = signal.1.wait_timeout_while(stopped, pause, |stopped| !*stopped);
                if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                    return;
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

fn report(last: Alarms, found: Alarms, levels: &Levels) {
    let used = levels.memory_used.load(Ordering::Relaxed);
    let limit = levels.memory_limit.load(Ordering::Relaxed);
    let free = levels.disk_free.load(Ordering::Relaxed);
    let free_limit = levels.disk_free_limit.load(Ordering::Relaxed);
    match (last.memory, found.memory) {
        (false, true) => tracing::warn!(used, limit, "memory resource limit alarm set: publishers are blocked"),
        (true, false) => tracing::warn!(used, limit, "memory resource limit alarm cleared"),
        _ => {}
    }
    match (last.disk, found.disk) {
        (false, true) => tracing::warn!(free, limit = free_limit, "disk space limit alarm set: publishers are blocked"),
        (true, false) => tracing::warn!(free, limit = free_limit, "disk space limit alarm cleared"),
        _ => {}
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: AlarmConfig, expected: Alarms) {
        assert_eq!(Levels::default().sample(&config, Path::new("/")), expected, "{config:?}");
    }

    #[test]
    fn levels_against_limits() {
        let calm = AlarmConfig { memory_limit: 1 << 60, disk_free_limit: 1, ..AlarmConfig::default() };
        check(calm.clone(), Alarms::default());
        check(AlarmConfig { memory_limit: 4096, ..calm.clone() }, Alarms { memory: true, disk: false });
        check(AlarmConfig { disk_free_limit: u64::MAX, ..calm }, Alarms { memory: false, disk: true });
    }

    #[test]
    fn more_than_half_of_the_watermark_is_near() {
        let used = resident_bytes().unwrap();
        let near = |memory_limit, disk_free_limit| {
            let levels = Levels::default();
            let config = AlarmConfig { memory_watermark: 0.5, memory_limit, disk_free_limit, ..AlarmConfig::default() };
            levels.sample(&config, Path::new("/"));
            levels.is_near()
        };
        assert!(!near(1 << 60, 0) || disk_free(Path::new("/")).is_none_or(|free| free < NEAR));
        // what the process uses may change by a little in between
        assert!(near(3 * used, 0));
        assert!(near(1 << 60, u64::MAX));
    }

    #[test]
    fn the_machine_has_memory_and_this_process_uses_some() {
        assert_eq!(meminfo_total("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 * 1024));
        assert!(memory_total() > resident_bytes().unwrap());
        assert!(resident_bytes().unwrap() > 0);
    }

    /// Each group with a limit counts, of its own and those it is in; what is told of groups that can't be seen is nothing.
    #[test]
    fn the_smallest_limit_of_a_group_counts() {
        let bed = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = bed.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let limit = |groups: &str| group_limit(groups, bed.path());
        assert_eq!(limit("0::/a/b\n"), None);
        put("a/b/c/memory.max", "max\n");
        put("a/b/memory.max", "5000\n");
        put("a/memory.max", "7000\n");
        assert_eq!(limit("0::/a/b/c\n"), Some(5000));
        assert_eq!(limit("0::/a/elsewhere\n"), Some(7000));
        assert_eq!(limit("0::/../a/b\n"), None);
        put("memory.max", "6000\n");
        assert_eq!((limit("0::/\n"), limit("0::/a\n"), limit("0::/a/b\n")), (Some(6000), Some(6000), Some(5000)));
        put("memory/memory.limit_in_bytes", "9000\n");
        put("memory/s/t/memory.limit_in_bytes", "4000\n");
        assert_eq!(limit("5:cpu,memory:/s/t\n3:cpuset:/a/b\n"), Some(4000));
        assert_eq!(limit("5:memory:/not/seen\n1:name=systemd:/a/b\n"), Some(9000));
    }

    #[test]
    fn a_watch_reports_what_it_finds() {
        let (tx, rx) = std::sync::mpsc::channel();
        let config = AlarmConfig { memory_limit: 4096, disk_free_limit: 1, ..AlarmConfig::default() };
        let watch = Watch::start(config, "/".into(), Arc::default(), move |found| tx.send(found).unwrap()).unwrap();
        assert_eq!(rx.recv().unwrap(), Alarms { memory: true, disk: false });
        drop(watch);
        assert!(rx.recv().is_err(), "the thread has ended");
    }
}

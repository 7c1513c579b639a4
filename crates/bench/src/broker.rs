//! Brokers to measure: one that runs already, or one started here on a temporary directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::client::{Client, SMALL_BUFFER, Url};
use crate::process::exists;

/// A broker starts within that, or not at all.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Where load goes, and whose CPU is counted.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) url: Url,
    /// Root of the broker's process tree.
    pub(crate) pid: Option<u32>,
}

impl Target {
    /// A broker that runs already.
    ///
    /// # Errors
    /// When the URL can't be read, or there is no such process: its figures would all be zero.
    pub(crate) fn new(url: &str, pid: Option<u32>) -> Result<Self> {
        if let Some(pid) = pid.filter(|pid| !exists(*pid)) {
            bail!(
                "--pid (or behind a URL) is {pid}, but no such process is here: it is the root of the broker's process tree"
            );
        }
        Ok(Self { url: Url::parse(url)?, pid })
    }
}

/// `name=URL[,pid=N]`: a broker that runs already.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) target: Target,
}

impl FromStr for Running {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("a broker is given as name=URL[,pid=N]")?;
        let (url, pid) = match rest.split_once(",pid=") {
            Some((url, pid)) => (url, Some(pid.parse().context("pid")?)),
            None => (rest, None),
        };
        Ok(Self { name: name.to_owned(), target: Target::new(url, pid)? })
    }
}

/// `[NAME:]hornpipe=PATH [ARGUMENT …]` or `[NAME:]rabbitmq=PATH`: the binary with further arguments, or
/// `tests/run/rabbitmq.sh`. A name tells builds and settings of one broker apart.
#[derive(Debug, Clone)]
pub(crate) struct Startable {
    pub(crate) name: String,
    kind: Kind,
    path: PathBuf,
    arguments: Vec<String>,
}

/// Which broker, as far as starting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hornpipe,
    Rabbitmq,
}

impl FromStr for Startable {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        const HOW: &str = "what to start is given as [NAME:]hornpipe=PATH or [NAME:]rabbitmq=SCRIPT";
        let (what, command) = text.split_once('=').context(HOW)?;
        let (name, kind) = what.rsplit_once(':').map_or((None, what), |(name, kind)| (Some(name), kind));
        let (kind, usual) = match kind {
            "hornpipe" => (Kind::Hornpipe, "hornpipe"),
            "rabbitmq" => (Kind::Rabbitmq, "RabbitMQ"),
            _ => bail!(HOW),
        };
        let mut words = command.split_whitespace();
        let path = words.next().context(HOW)?;
        let path = fs::canonicalize(path).with_context(|| format!("finding {path}"))?;
        let arguments = words.map(str::to_owned).collect();
        Ok(Self { name: name.unwrap_or(usual).to_owned(), kind, path, arguments })
    }
}

/// A broker with a data directory of its own; both go when this is dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    what: Startable,
    directory: TempDir,
    child: Option<Child>,
}

impl Broker {
    /// A directory for it; nothing runs yet.
    pub(crate) fn prepare(what: &Startable) -> Result<Self> {
        Ok(Self { what: what.clone(), directory: tempfile::Builder::new().prefix("bench-").tempdir()?, child: None })
    }

    /// Starts and waits until a client has logged in; also returns how long that took.
    pub(crate) fn start(&mut self) -> Result<(Target, Duration)> {
        let begin = Instant::now();
        let target = match self.what.kind {
            Kind::Hornpipe => self.start_hornpipe()?,
            Kind::Rabbitmq => self.start_rabbitmq()?,
        };
        Ok((target, begin.elapsed()))
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn start_hornpipe(&mut self) -> Result<Target> {
        let data = self.data();
        fs::create_dir_all(&data)?;
        let ports = data.join("ports.json");
        if ports.exists() {
            fs::remove_file(&ports)?;
        }
        let log = fs::File::options().create(true).append(true).open(self.directory.path().join("log"))?;
        let child = Command::new(&self.what.path)
            .arg("--data-dir")
            .arg(&data)
            .args(["--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .args(&self.what.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.what.path.display()))?;
        let pid = child.id();
        self.child = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(url) = amqp_url(&ports)
                && let Ok(client) = Client::open(&url, SMALL_BUFFER)
            {
                client.close()?;
                return Ok(Target { url, pid: Some(pid) });
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                self.child = None;
                bail!("the broker ended with {status}: {}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("the broker did not start in time: {}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" / ")
    }

    fn start_rabbitmq(&mut self) -> Result<Target> {
        let output = Command::new(&self.what.path)
            .arg("start")
            .arg(self.data())
            .stdin(Stdio::null())
            .output()
            .context("start")?;
        if !output.status.success() {
            bail!("RabbitMQ did not start: {}", String::from_utf8_lossy(&output.stderr));
        }
        let url = Url::parse(String::from_utf8(output.stdout)?.trim())?;
        let pid = fs::read_to_string(self.data().join("starter.pid"))?.trim().parse()?;
        Client::open(&url, SMALL_BUFFER)?.close()?;
        Ok(Target { url, pid: Some(pid) })
    }

    /// Asks it to stop and waits for its end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        match self.what.kind {
            Kind::Hornpipe => {
                let Some(mut child) = self.child.take() else { return Ok(()) };
                let pid = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
                let deadline = Instant::now() + START_TIMEOUT;
                while child.try_wait()?.is_none() {
                    if Instant::now() > deadline {
                        child.kill()?;
                        child.wait()?;
                        bail!("the broker did not stop in time");
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
            Kind::Rabbitmq => {
                let status =
                    Command::new(&self.what.path).arg("stop").arg(self.data()).stdin(Stdio::null()).status()?;
                if !status.success() {
                    bail!("RabbitMQ did not stop");
                }
            }
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already on the way out; the directory goes in any case.
        let _ = self.stop();
    }
}

/// The AMQP address from the file a hornpipe writes once it listens.
fn amqp_url(ports: &Path) -> Option<Url> {
    let text = fs::read_to_string(ports).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let port = value.get("amqp")?.as_u64()?;
    Url::parse(&format!("amqp://guest:guest@127.0.0.1:{port}/%2F")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_from_the_command_line() {
        let own = std::process::id();
        let broker: Running = format!("x=amqp://a:b@h:1/%2F,pid={own}").parse().expect("sound");
        assert_eq!((broker.name.as_str(), broker.target.pid), ("x", Some(own)));
        // Above the greatest a Linux gives.
        let error = "x=amqp://h,pid=4194305".parse::<Running>().expect_err("no such process");
        assert!(error.to_string().contains("4194305, but no such process"), "{error}");
        assert!("amqp".parse::<Running>().is_err());
        assert!("sled=/bin/true".parse::<Startable>().is_err());
        assert!("hornpipe=".parse::<Startable>().is_err());
        let named: Startable = "2 threads:hornpipe=/bin/true --threads 2".parse().expect("sound");
        assert_eq!(
            (named.name.as_str(), named.arguments.as_slice()),
            ("2 threads", &["--threads".to_owned(), "2".to_owned()][..])
        );
        let plain: Startable = "rabbitmq=/bin/true".parse().expect("sound");
        assert_eq!((plain.name.as_str(), plain.kind), ("RabbitMQ", Kind::Rabbitmq));
    }
}

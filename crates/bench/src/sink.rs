//! A peer that costs next to nothing: it takes publishes without looking at them, and sends made-up deliveries as fast as they
//! are taken. What the generator reaches against it is the generator's own ceiling.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::batch::filler;
use crate::broker::Target;
use crate::client::{Url, frame_at};
use crate::consumer::{Consumer, Progress};
use crate::load::nanos;
use crate::plan::{Case, Flags, Plan};
use crate::process::Sample;
use crate::publisher::Publisher;
use crate::report::Outcome;
use crate::wire::{self, METHOD, Out, be16};

/// Octets of deliveries in one write.
const WRITE: usize = 64 * 1024;

/// Listens on a free port of loopback, says its URL on standard output, and serves until its standard input ends.
pub(crate) fn serve(body: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    crate::report::say(&format!("amqp://guest:guest@{}/%2F", listener.local_addr()?));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is no concern of a sink.
            thread::spawn(move || connection(stream, body));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn connection(mut stream: TcpStream, body: usize) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; 8])?;
    let mut out = Out::default();
    out.method(0, wire::CONNECTION_START, |args| {
        args.u16(9);
        args.table(&[]);
        args.long(b"PLAIN");
        args.long(b"en_US");
    });
    stream.write_all(&out.0)?;
    let (mut buffer, mut filled) = (vec![0; 1 << 20], 0);
    let (mut confirming, mut published) = (false, 0u64);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut consuming, mut delivering) = (None, None);
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let (mut used, before) = (0, published);
        out.0.clear();
        let mut over = false;
        while let Some(frame) = frame_at(&buffer[used..filled])? {
            let channel = be16(&buffer[used..], 1);
            used += frame.total;
            if frame.kind != METHOD {
                continue;
            }
            match (be16(frame.payload, 0), be16(frame.payload, 2)) {
                wire::BASIC_PUBLISH => published += 1,
                wire::CONNECTION_START_OK => {
                    out.method(0, wire::CONNECTION_TUNE, |args| {
                        args.u16(2047);
                        args.u32(128 * 1024);
                        args.u16(0);
                    });
                }
                wire::CONNECTION_OPEN => _ = out.method(0, wire::CONNECTION_OPEN_OK, |args| args.short("")),
                wire::CHANNEL_OPEN => _ = out.method(channel, wire::CHANNEL_OPEN_OK, |args| args.long(b"")),
                wire::CONFIRM_SELECT => {
                    confirming = true;
                    out.method(channel, wire::CONFIRM_SELECT_OK, |_| {});
                }
                wire::BASIC_QOS => _ = out.method(channel, wire::BASIC_QOS_OK, |_| {}),
                wire::BASIC_CONSUME => {
                    out.method(channel, wire::BASIC_CONSUME_OK, |args| args.short("c0"));
                    consuming = Some(channel);
                }
                wire::CONNECTION_CLOSE => over = true,
                _ => {}
            }
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        if confirming && published > before {
            out.method(1, wire::BASIC_ACK, |args| {
                args.u64(published);
                args.u8(1);
            });
        }
        stream.write_all(&out.0)?;
        if let Some(channel) = consuming.take() {
            let (stream, stop) = (stream.try_clone()?, Arc::clone(&stop));
            delivering = Some(thread::spawn(move || deliver(stream, channel, body, &stop)));
        }
        if over {
            stop.store(true, Ordering::Release);
            // The answer would be noise between two halves of a delivery.
            if let Some(delivering) = delivering.take() {
                let _ = delivering.join();
            }
            out.0.clear();
            out.method(0, wire::CONNECTION_CLOSE_OK, |_| {});
            stream.write_all(&out.0)?;
            return Ok(());
        }
    }
}

/// Deliveries without end, of the bodies that publisher 0 would have sent.
fn deliver(mut stream: TcpStream, channel: u16, body: usize, stop: &AtomicBool) -> std::io::Result<()> {
    let content: Vec<u8> = (0..body).map(filler).collect();
    let (mut out, mut places) = (Out::default(), Vec::new());
    while out.0.len() < WRITE {
        // The tag is behind the frame's head, the method's number and the consumer's tag.
        let tag = out.0.len() + 7 + 4 + 3;
        out.method(channel, wire::BASIC_DELIVER, |args| {
            args.short("c0");
            args.u64(0);
            args.u8(0);
            args.short("");
            args.short("bench.0");
        });
        out.frame(wire::HEADER, channel, |args| {
            args.u16(60);
            args.u16(0);
            args.u64(body as u64);
            args.u16(0);
        });
        places.push((tag, out.0.len() + 7));
        out.frame(wire::BODY, channel, |args| args.bytes(&content));
    }
    let mut count = 0u64;
    while !stop.load(Ordering::Acquire) {
        for (tag, word) in &places {
            out.0[*word..word + 8].copy_from_slice(&count.to_be_bytes());
            count += 1;
            out.0[*tag..tag + 8].copy_from_slice(&count.to_be_bytes());
        }
        stream.write_all(&out.0)?;
    }
    Ok(())
}

/// A sink in a process of its own, so that its CPU isn't taken for the generator's.
struct Sink {
    child: Child,
    target: Target,
}

impl Sink {
    fn start(body: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["sink", &body.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a sink")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output of the sink")?).read_line(&mut line)?;
        let target = Target { url: Url::parse(line.trim())?, pid: Some(child.id()) };
        Ok(Self { child, target })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the generator publishes and consumes when the peer takes and gives everything.
pub(crate) fn ceiling(seconds: f64) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (case, names) in [
        (Case::A, ["16 B published/s", "16 B, its CPU s per M", "16 B consumed/s", "16 B, CPU s per M consumed"]),
        (Case::B, ["1 KiB published/s", "1 KiB, its CPU s per M", "1 KiB consumed/s", "1 KiB, CPU s per M consumed"]),
    ] {
        let plan = Plan::new(Some(case), &Flags { seconds: Some(seconds), ..Flags::default() })?;
        let sink = Sink::start(plan.body)?;
        let publisher = Publisher::open(&sink.target.url, &plan, 0)?;
        let (before, start) = (Sample::take(None), nanos());
        let published = publisher.run(&plan, start)?;
        let own = Sample::take(None).since(before).own;
        outcome.add(names[0], published.count as f64 * 1e9 / (published.finished - start) as f64);
        outcome.add(names[1], own * 1e6 / published.count as f64);

        let consumer = Consumer::open(&sink.target.url, &plan, 0)?;
        let progress = Progress::default();
        let (before, start) = (Sample::take(None), nanos());
        let (received, wall, own) = thread::scope(|scope| {
            let consuming = scope.spawn(|| consumer.run(&progress));
            thread::sleep(Duration::from_secs_f64(seconds));
            let own = Sample::take(None).since(before).own;
            let received = progress.received.load(Ordering::Acquire);
            let wall = nanos() - start;
            progress.stop.store(true, Ordering::Release);
            consuming.join().map_err(|_| anyhow!("the consumer panicked"))??;
            Ok::<_, anyhow::Error>((received, wall, own))
        })?;
        if received == 0 {
            bail!("the sink sent nothing");
        }
        outcome.add(names[2], received as f64 * 1e9 / wall as f64);
        outcome.add(names[3], own * 1e6 / received as f64);
    }
    Ok(outcome)
}

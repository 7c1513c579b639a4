//! Connections that come and go.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::broker::Target;
use crate::client::{Client, Fill, PROTOCOL_HEADER, Url, channel_open, connection_close};
use crate::plan::Flags;
use crate::process::Sample;
use crate::report::Outcome;
use crate::wire::{self, MethodId, Out};

/// Read buffer of a visitor.
const BUFFER: usize = 2048;
/// Clients side by side where nothing else is said.
const CLIENTS: usize = 2;
/// How long all visitors together may hear nothing before the run is given up.
const SILENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Connects, logs in, opens a channel and closes, again and again. One thread serves all clients, so that none is woken for an
/// answer to another: the less the generator takes, the more is the broker's.
pub(crate) fn open_and_close(target: &Target, flags: &Flags) -> Result<Outcome> {
    let clients = flags.clients.unwrap_or(CLIENTS);
    let until = Duration::from_secs_f64(flags.seconds.unwrap_or(2.0));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let visit = |number: usize| Visitor::arrive(&target.url, flags.channel.unwrap_or(true), &epoll, number);
    let before = Sample::take(target.pid);
    let begin = Instant::now();
    let mut visitors = (0..clients).map(|number| visit(number).map(Some)).collect::<Result<Vec<_>>>()?;
    let (mut here, mut count) = (clients, 0u64);
    let mut events = Vec::with_capacity(clients);
    while here > 0 {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&SILENCE)) {
            Ok(0) => bail!("{here} clients heard nothing for {} s", SILENCE.tv_sec),
            Err(Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let number = usize::try_from(event.data.u64())?;
            let Some(visitor) = visitors.get_mut(number).and_then(Option::as_mut) else { continue };
            if !visitor.hear(&target.url)? {
                continue;
            }
            count += 1;
            // The socket closes before the next one opens.
            visitors[number] = None;
            if begin.elapsed() < until {
                visitors[number] = Some(visit(number)?);
            } else {
                here -= 1;
            }
        }
    }
    let wall = begin.elapsed().as_secs_f64();
    let used = Sample::take(target.pid).since(before);
    let mut outcome = Outcome::default();
    outcome.add("opened and closed/s", count as f64 / wall);
    if target.pid.is_some() {
        outcome.add("broker CPU ms per connection", used.broker * 1e3 / count as f64);
    }
    outcome.add("generator CPU ms per connection", used.own * 1e3 / count as f64);
    Ok(outcome)
}

/// What a visitor waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    Tune,
    OpenOk,
    ChannelOpenOk,
    CloseOk,
}

impl Step {
    fn answer(self) -> MethodId {
        match self {
            Self::Start => wire::CONNECTION_START,
            Self::Tune => wire::CONNECTION_TUNE,
            Self::OpenOk => wire::CONNECTION_OPEN_OK,
            Self::ChannelOpenOk => wire::CHANNEL_OPEN_OK,
            Self::CloseOk => wire::CONNECTION_CLOSE_OK,
        }
    }
}

/// A client that only comes and goes.
struct Visitor {
    client: Client,
    step: Step,
    channel: bool,
}

impl Visitor {
    fn arrive(url: &Url, channel: bool, epoll: &OwnedFd, number: usize) -> Result<Self> {
        let mut client = Client::connect(url, BUFFER)?;
        epoll::add(epoll, client.stream(), epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        client.write(PROTOCOL_HEADER)?;
        Ok(Self { client, step: Step::Start, channel })
    }

    /// One read and what it asks for; whether the visit is over.
    fn hear(&mut self, url: &Url) -> Result<bool> {
        if self.client.fill()? != Fill::Data {
            let login = if self.step == Step::Tune { url.not_let_in() } else { "no answer".to_owned() };
            bail!("{login}: the broker closed the socket");
        }
        while let Some(answer) = self.client.received(self.step.answer())? {
            let mut out = Out::default();
            self.step = match self.step {
                Step::Start => {
                    url.answer_start(&mut out);
                    Step::Tune
                }
                Step::Tune => {
                    url.answer_tune(&mut out, &answer);
                    Step::OpenOk
                }
                Step::OpenOk if self.channel => {
                    channel_open(&mut out, 1);
                    Step::ChannelOpenOk
                }
                Step::OpenOk | Step::ChannelOpenOk => {
                    connection_close(&mut out);
                    Step::CloseOk
                }
                Step::CloseOk => return Ok(true),
            };
            self.client.write(&out.0)?;
        }
        Ok(false)
    }
}

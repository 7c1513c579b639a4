//! Sockets: bind, accept, speak HTTP/1.1.

use crate::App;
use crate::http::{Reply, Request};
use crate::{access, metrics, routes};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Which pages a listener serves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door {
    /// Management API, status page, health.
    Http,
    /// Prometheus pages.
    Metrics,
}

/// A peer must have sent its request head within this; it also bounds how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// So much more than permitted of a request's body is read, octets: many clients look for an answer when they have sent all.
const DISCARD_MAX: u64 = 1 << 30;

/// Binds all addresses; says where they ended up.
pub(crate) fn bind_all(addrs: &[SocketAddr]) -> io::Result<(Vec<TcpListener>, Vec<SocketAddr>)> {
    let mut listeners = Vec::with_capacity(addrs.len());
    let mut bound = Vec::with_capacity(addrs.len());
    for addr in addrs {
        let listener = bind(*addr).map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}")))?;
        bound.push(listener.local_addr()?);
        listeners.push(listener);
    }
    Ok((listeners, bound))
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // Whatever the system's default: `[::]` means every address, as RabbitMQ's listeners do.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A connection being served.
#[derive(Debug, Default)]
struct Slot {
    /// A request is being answered.
    busy: AtomicBool,
    evicted: Notify,
}

/// The connections of a listener, oldest first. With all taken, a new one drives out the oldest that is only waited for: peers
/// that never finish a request must not keep others out.
#[derive(Debug)]
struct Slots {
    max: usize,
    taken: Mutex<Vec<Arc<Slot>>>,
    left: Notify,
}

impl Slots {
    fn new(max: usize) -> Self {
        Self { max: max.max(1), taken: Mutex::default(), left: Notify::new() }
    }

    async fn enter(&self) -> Arc<Slot> {
        loop {
            {
                let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                let idle = taken.iter().position(|slot| !slot.busy.load(Ordering::Relaxed));
                if taken.len() >= self.max
                    && let Some(oldest) = idle
                {
                    taken.remove(oldest).evicted.notify_one();
                }
                if taken.len() < self.max {
                    let slot = Arc::<Slot>::default();
                    taken.push(slot.clone());
                    return slot;
                }
            }
            self.left.notified().await;
        }
    }

    fn leave(&self, slot: &Arc<Slot>) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, slot));
        self.left.notify_one();
    }
}

/// Accepts on `listener` for ever, a task for each connection.
pub(crate) fn spawn(listener: TcpListener, app: Arc<App>, door: Door) {
    tokio::spawn(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "admin listener is unusable");
                return;
            }
        };
        let slots = Arc::new(Slots::new(app.config.connections_max));
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (app, slots) = (app.clone(), slots.clone());
                    let slot = slots.enter().await;
                    tokio::spawn(async move {
                        tokio::select! {
                            () = serve(stream, peer, app, door, &slot) => {}
                            () = slot.evicted.notified() => tracing::debug!(%peer, "admin connection made room"),
                        }
                        slots.leave(&slot);
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: wait for some to come back instead of spinning.
                    tracing::warn!(%error, "admin accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

async fn serve(stream: TcpStream, peer: SocketAddr, app: Arc<App>, door: Door, slot: &Slot) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let app = app.clone();
        async move {
            slot.busy.store(true, Ordering::Relaxed);
            let answered = answer(request, peer, &app, door).await;
            slot.busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answered)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "admin connection ended");
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    app: &App,
    door: Door,
) -> hyper::Response<Full<Bytes>> {
    let head = request.method() == hyper::Method::HEAD;
    let reply = match Request::read(&request, peer) {
        Err(reply) => reply,
        Ok(mut asked) => match door {
            Door::Http => match read_body(app, request, &mut asked).await {
                Ok(()) => routes::answer(app, &asked).await,
                Err(reply) => reply,
            },
            Door::Metrics => metrics::answer(app, &asked).await,
        },
    };
    finish(reply, head)
}

/// Reads the body of a request that changes something, once its user has logged in: nobody else may fill the memory.
async fn read_body(app: &App, request: hyper::Request<Incoming>, asked: &mut Request) -> Result<(), Reply> {
    if !matches!(asked.method.as_str(), "PUT" | "POST" | "DELETE") {
        return Ok(());
    }
    access::login(app, asked, access::Need::Management).await?;
    let limit = app.config.body_bytes_max;
    let mut length = request.body().size_hint().lower();
    // who asks first reads the answer before sending
    let refused = length > limit && request.headers().contains_key("expect");
    let read = async {
        let (mut body, mut came) = (request.into_body(), 0);
        while !refused && length <= limit.saturating_add(DISCARD_MAX) {
            let Some(frame) = body.frame().await else { break };
            let Ok(data) = frame?.into_data() else { continue };
            came += data.len() as u64;
            length = length.max(came);
            if length <= limit {
                asked.body.extend_from_slice(&data);
            } else {
                asked.body = Vec::new();
            }
        }
        Ok::<_, hyper::Error>(())
    };
    let read = tokio::time::timeout(HEAD_TIMEOUT, read).await;
    if length > limit {
        tracing::warn!(octets = length, limit, "a request's body is longer than http_body_bytes_max");
        let reason = format!("Exceeded HTTP request body size limit: http_body_bytes_max is {limit} octets");
        return Err(Reply::error(413, "payload_too_large", &reason).with("connection", "close"));
    }
    match read {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Reply::bad_request("the request body ended early")),
        Err(_) => Err(Reply::error(408, "request_timeout", "the request body did not come in time")),
    }
}

/// HEAD gets the length of what GET would have got, and nothing else.
fn finish(reply: Reply, head: bool) -> hyper::Response<Full<Bytes>> {
    let length = reply.body.len();
    let body = if head { Bytes::new() } else { Bytes::from(reply.body) };
    let mut builder = hyper::Response::builder()
        .status(reply.status)
        .header("server", "hornpipe")
        .header("cache-control", "no-cache")
        .header("content-length", length);
    if !reply.content_type.is_empty() {
        builder = builder.header("content-type", reply.content_type);
    }
    for (name, value) in reply.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(body)).unwrap_or_else(|error| {
        tracing::error!(%error, "reply with unusable headers");
        let mut reply = hyper::Response::new(Full::new(Bytes::new()));
        *reply.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        reply
    })
}

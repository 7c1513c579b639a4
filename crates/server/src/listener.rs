//! AMQP listeners: dual stack where the machine has IPv6, with a limit on sockets.

use crate::{Shared, StartError, connection};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;

/// Connections the kernel queues for us.
const BACKLOG: u32 = 1024;

/// Binds an address. `[::]` takes IPv4 too whatever the machine's default is, and becomes `0.0.0.0` where there is no
/// IPv6. Must be called inside a tokio runtime.
///
/// # Errors
/// The operating system's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_one(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6(&error) => {
            bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        other => other,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, address.ip() != Ipv6Addr::UNSPECIFIED)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    // A restart must not wait for old connections to leave TIME_WAIT.
    socket.set_reuseaddr(true)?;
    // Frames are joined here, not in the kernel. Accepted sockets inherit it.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Binds all; each with the address it really has.
pub(crate) fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<(TcpListener, SocketAddr)>, StartError> {
    let bind = |address: &SocketAddr| {
        let failed = |error| StartError::Listen(*address, error);
        let listener = bind(*address).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok((listener, local))
    };
    addresses.iter().map(bind).collect()
}

/// Accepts until the broker stops.
pub(crate) async fn accept(shared: Arc<Shared>, workers: Handle, listener: TcpListener, address: SocketAddr) {
    tracing::info!("started TCP listener on {address}");
    let mut stop = shared.stop.subscribe();
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut refused = 0u64;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or buffers: the connection stays in the backlog, so trying at once would spin.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    tracing::warn!("can't accept on {address}: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        if !shared.sockets.enter() {
            refused += 1;
            if refused.is_power_of_two() {
                tracing::warn!("refused connection from {peer}: too many sockets are open ({refused} refused so far)");
            }
            continue;
        }
        // A listener on one address knows it already.
        let local = match address.ip().is_unspecified() {
            true => stream.local_addr().unwrap_or(address),
            false => address,
        };
        tokio::spawn(connection::run(shared.clone(), workers.clone(), stream, peer, local));
    }
    tracing::info!("stopped TCP listener on {address}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_v6_address_takes_v4_too() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_canonical(), client.local_addr().unwrap().ip());
    }

    #[tokio::test]
    async fn accepted_sockets_do_not_hold_small_writes_back() {
        for address in ["[::]:0", "127.0.0.1:0"] {
            let listener = bind(address.parse().unwrap()).unwrap();
            let port = listener.local_addr().unwrap().port();
            let _client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            assert!(stream.nodelay().unwrap(), "{address}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_it() {
        let (_listener, address) = bind_all(&["127.0.0.1:0".parse().unwrap()]).unwrap().remove(0);
        let error = bind_all(&[address]).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}

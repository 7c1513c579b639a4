//! `hornpipe healthcheck`: one GET to the health page of a running broker, so that an image needs no HTTP client. And that
//! client, for what else is asked of a running broker.

use crate::config::Config;
use crate::data_dir::told_port;
use anyhow::{Context, bail};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The page that answers 200 when the broker serves.
const PAGE: &str = "/health/ready";
/// More of an answer isn't read.
const ANSWER_MAX: u64 = 64 * 1024;

/// The address of the health page by the configuration.
pub(crate) fn default_url(config: &Config) -> anyhow::Result<String> {
    Ok(base_url(config)? + PAGE)
}

/// The HTTP listener by the configuration; a port of 0 is looked up in the data folder.
pub(crate) fn base_url(config: &Config) -> anyhow::Result<String> {
    let address = config.admin.http.first().context("the configuration has no HTTP listener; give --url")?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        // Takes IPv4 too, and there may be no IPv6.
        IpAddr::V6(ip) if ip == Ipv6Addr::UNSPECIFIED => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let port = match address.port() {
        0 => told_port(&config.server.data_dir, "http")?,
        port => port,
    };
    Ok(format!("http://{}{}", SocketAddr::new(ip, port), config.admin.path_prefix))
}

/// Asks; fails unless the answer is 200.
pub(crate) fn run(url: &str, timeout: Duration) -> anyhow::Result<String> {
    let (status, body) = request(url, "GET", "", "", Some(timeout))?;
    if status != "200" {
        bail!("{url} answers {status}: {body}");
    }
    Ok(body)
}

/// One request; `headers` are whole lines with their ends. Returns status and body. Without a timeout only connecting has one.
pub(crate) fn request(
    url: &str,
    method: &str,
    headers: &str,
    body: &str,
    timeout: Option<Duration>,
) -> anyhow::Result<(String, String)> {
    const CONNECT: Duration = Duration::from_secs(10);
    let rest = url.strip_prefix("http://").with_context(|| format!("{url}: only http:// is known"))?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut addresses = with_port.to_socket_addrs().with_context(|| format!("{host} is no host"))?;
    let address = addresses.next().with_context(|| format!("{host} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, timeout.unwrap_or(CONNECT))
        .with_context(|| format!("can't connect to {host}"))?;
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(timeout)?;
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{length}{headers}\r\n{body}")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).with_context(|| format!("no answer from {host}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_ascii_whitespace().nth(1).unwrap_or("no status");
    Ok((status.to_owned(), body.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    fn check(answer: &'static str, expected: Result<&str, &str>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            assert!(lines.any(|line| line.unwrap().is_empty()));
            stream.write_all(answer.as_bytes()).unwrap();
            first
        });
        match (run(&url, Duration::from_secs(10)), expected) {
            (Ok(body), Ok(expected)) => assert_eq!(body, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
        assert_eq!(server.join().unwrap(), "GET /x HTTP/1.1");
    }

    #[test]
    fn answers() {
        check("HTTP/1.1 200 OK\r\nX: y\r\n\r\n{\"status\":\"ok\"}", Ok("{\"status\":\"ok\"}"));
        check("HTTP/1.1 503 Service Unavailable\r\n\r\nstarting", Err("answers 503: starting"));
        check("", Err("no status"));
        assert!(run("https://localhost/", Duration::from_secs(1)).is_err());
    }
}

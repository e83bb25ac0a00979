//! A web server with one page, and a client that fetches it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const PORT: u16 = 80;
const PAGE: &str = "hello from a network of my own\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves until it is killed. The first line on standard output says that it listens.
pub(super) fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("listen on port 80")?;
    println!("ready");
    loop {
        let (client, _) = listener.accept()?;
        let _ = answer(&client);
    }
}

/// Fetches the page at `address` and returns when its first byte was there.
pub(super) fn fetch(address: Ipv4Addr) -> Result<Instant> {
    let server = SocketAddr::from((address, PORT));
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)
        .with_context(|| format!("connect to {server}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut first = [0];
    stream
        .read_exact(&mut first)
        .with_context(|| format!("read from {server}"))?;
    let first_byte = Instant::now();
    let mut answer = String::from("H");
    stream.read_to_string(&mut answer)?;
    if first != *b"H" || !answer.starts_with("HTTP/1.0 200 ") {
        bail!("{server} answered {answer:?}");
    }
    Ok(first_byte)
}

fn answer(client: &TcpStream) -> Result<()> {
    let mut lines = BufReader::new(client).lines();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut writer = client;
    let length = PAGE.len();
    write!(
        writer,
        "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{PAGE}"
    )?;
    Ok(())
}

//! A small web server for real clients: it answers every request with the address it came from.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::sys::socket::{Shutdown, shutdown};

use crate::place::Place;

/// Listens as soon as it exists, until it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    listener: Arc<TcpListener>,
    serving: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Serves at `address` (`host:port`) in `place`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn start(place: &Place, address: &str) -> Result<Self> {
        let listener = place.within(|| {
            TcpListener::bind(address).with_context(|| format!("listen on {address}"))
        })?;
        let listener = Arc::new(listener);
        let accepting = Arc::clone(&listener);
        let serving = thread::spawn(move || serve(&accepting));
        Ok(Self {
            listener,
            serving: Some(serving),
        })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

fn serve(listener: &TcpListener) {
    for client in listener.incoming() {
        match client {
            Ok(client) => drop(thread::spawn(move || answer(&client))),
            Err(_) => return,
        }
    }
}

fn answer(client: &TcpStream) -> Result<()> {
    let mut lines = BufReader::new(client).lines();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let body = client.peer_addr()?.to_string();
    let length = body.len();
    let mut writer = client;
    write!(
        writer,
        "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    Ok(())
}

//! A small name server for real resolvers: every name has the same address.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::sys::socket::{Shutdown, shutdown};

use crate::place::Place;

const HEADER: usize = 12;
/// Type A of class IN, as it stands behind a question's name.
const ADDRESS_QUESTION: [u8; 4] = [0, 1, 0, 1];

/// Answers as soon as it exists, until it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    socket: Arc<UdpSocket>,
    serving: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Serves at `address` (`host:port`) in `place`; every name has the address `told`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn start(place: &Place, address: &str, told: &str) -> Result<Self> {
        let told: Ipv4Addr = told.parse().context("an address to tell")?;
        let socket = place.within(|| {
            UdpSocket::bind(address).with_context(|| format!("bind {address} for UDP"))
        })?;
        let socket = Arc::new(socket);
        let answering = Arc::clone(&socket);
        let serving = thread::spawn(move || serve(&answering, told));
        Ok(Self {
            socket,
            serving: Some(serving),
        })
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // Wakes the receiver although a UDP socket is not connected.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

fn serve(socket: &UdpSocket, told: Ipv4Addr) {
    let mut query = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut query) {
        if length == 0 {
            return;
        }
        if let Some(answer) = answer(&query[..length], told) {
            let _ = socket.send_to(&answer, client);
        }
    }
}

/// The address as answer to a question for one, no answer to any other question.
fn answer(query: &[u8], told: Ipv4Addr) -> Option<Vec<u8>> {
    let labels = query.get(HEADER..)?.split(|byte| *byte == 0).next()?;
    let end = HEADER + labels.len() + 1;
    let question = query.get(HEADER..end + ADDRESS_QUESTION.len())?;
    let has_address = question.ends_with(&ADDRESS_QUESTION);
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, has_address.into(), 0, 0, 0, 0]);
    answer.extend(question);
    if has_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(told.octets());
    }
    Some(answer)
}

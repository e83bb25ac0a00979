//! A route netlink socket: it belongs to the network namespace it was opened in.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

use super::message::Message;

const HEADER: usize = 16;

#[derive(Debug)]
pub(super) struct RouteSocket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("open a netlink socket")?;
        Ok(Self {
            fd,
            buffer: vec![0; 32 * 1024],
        })
    }

    /// Sends all of `messages` at once and waits for all answers; the first refusal is the error.
    pub(super) fn request(&mut self, what: &str, messages: Vec<Message>) -> Result<()> {
        let count = messages.len();
        let numbered = messages.into_iter().zip(0..);
        let bytes: Vec<u8> = numbered
            .flat_map(|(message, sequence)| message.finish(sequence))
            .collect();
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).with_context(|| what.to_owned())?;
        self.collect(what, count)
    }

    /// Opens a socket that hears what happens to links.
    pub(super) fn listening_to_links() -> Result<Self> {
        let socket = Self::open()?;
        let groups = libc::RTMGRP_LINK.cast_unsigned();
        bind(socket.fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).context("listen to links")?;
        Ok(socket)
    }

    /// Waits for a message of this kind.
    pub(super) fn wait_for(&mut self, kind: u16) -> Result<()> {
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            if length >= HEADER && u32_at(&self.buffer, 4) & 0xffff == u32::from(kind) {
                return Ok(());
            }
        }
    }

    /// Sends a request for a list and reads all of it.
    pub(super) fn list(&mut self, what: &str, message: Message) -> Result<()> {
        send(self.fd.as_raw_fd(), &message.finish(0), MsgFlags::empty())
            .with_context(|| what.to_owned())?;
        self.wait_for(u16::try_from(libc::NLMSG_DONE)?)
    }

    fn collect(&mut self, what: &str, mut outstanding: usize) -> Result<()> {
        let mut refusal = None;
        while outstanding > 0 {
            let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for (sequence, code) in answers(&self.buffer[..length]) {
                outstanding -= 1;
                if code != 0 {
                    refusal.get_or_insert((sequence, Errno::from_raw(-code)));
                }
            }
        }
        match refusal {
            Some((sequence, errno)) => bail!("{what}, message {sequence}: {errno}"),
            None => Ok(()),
        }
    }
}

/// Sequence number and error code of every acknowledgement in `bytes`.
fn answers(bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEADER + 4 {
        let length = u32_at(rest, 0) as usize;
        let kind = u32_at(rest, 4) & 0xffff;
        if i64::from(kind) == i64::from(libc::NLMSG_ERROR) {
            found.push((u32_at(rest, 8), u32_at(rest, HEADER).cast_signed()));
        }
        let next = length.next_multiple_of(4).clamp(HEADER, rest.len());
        rest = &rest[next..];
    }
    found
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_ne_bytes(word)
}

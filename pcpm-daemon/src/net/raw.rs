//! Netlink of any family as bytes: questions, and the kernel's answers as they come. For whoever only
//! compares; what has to be understood is read by [`super::netlink`].

use std::io;

use netlink_sys::Socket;
use nix::errno::Errno;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const HEADER_LEN: usize = 16;
/// The kernel takes as much memory for each part of an answer, and what it notes about that: two pages.
const RECEIVE_LEN: usize = 2 * 4096 - 512;

/// How often a table is read again that changed meanwhile.
const TRIES: usize = 5;

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// For a whole table.
    Table,
    /// For one thing, which is told in one message.
    One,
    /// For something to be done, which is acknowledged.
    Do,
}

/// A socket in the network namespace that the thread was in when it was opened.
pub(super) struct RawNetlink {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl RawNetlink {
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(protocol)?,
            sequence: 0,
            received: Vec::with_capacity(RECEIVE_LEN),
        })
    }

    /// Asks, and hands the payload of each answer to `take`, with its type. The kernel's refusal is an
    /// error with its number. After a table changed while it was read, `take` is made anew by `begin`.
    pub(super) fn ask<T>(
        &mut self,
        ask: Ask,
        kind: u16,
        payload: &[u8],
        begin: impl Fn() -> T,
        mut take: impl FnMut(&mut T, u16, &[u8]),
    ) -> io::Result<T> {
        for _ in 0..TRIES {
            let mut taken = begin();
            self.send(ask, kind, payload)?;
            if self.receive_all(ask, |kind, payload| take(&mut taken, kind, payload))? {
                return Ok(taken);
            }
        }
        Err(io::Error::other("the table keeps changing"))
    }

    fn send(&mut self, ask: Ask, kind: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let flags = match ask {
            Ask::Table => REQUEST | DUMP,
            Ask::One => REQUEST,
            Ask::Do => REQUEST | ACK,
        };
        let length = u32::try_from(HEADER_LEN + payload.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER_LEN + payload.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(payload);
        self.socket.send(&message, 0).map(drop)
    }

    /// False: the table changed while it was read.
    fn receive_all(&mut self, ask: Ask, mut take: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut unchanged = true;
        loop {
            self.received.clear();
            match self.socket.recv(&mut self.received, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(length) if length > self.received.len() => {
                    return Err(io::Error::other("one entry is larger than any should be"));
                }
                other => other?,
            };
            let mut rest = self.received.as_slice();
            while let Some((header, payload, after)) = next_message(rest) {
                rest = after;
                if header.sequence != self.sequence {
                    continue;
                }
                unchanged &= header.flags & DUMP_INTERRUPTED == 0;
                match header.kind {
                    NLMSG_ERROR => return refusal(payload).map(|()| unchanged),
                    NLMSG_DONE => return Ok(unchanged),
                    kind => take(kind, payload),
                }
                if ask == Ask::One {
                    return Ok(unchanged);
                }
            }
        }
    }
}

fn refusal(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b)) {
        0 => Ok(()),
        negative => Err(Errno::from_raw(-negative).into()),
    }
}

pub(super) struct Header {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
}

/// One message, and what stands behind it.
pub(super) fn next_message(buffer: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let (header, _) = buffer.split_at_checked(HEADER_LEN)?;
    let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
    let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let payload = buffer.get(HEADER_LEN..length)?;
    let after = buffer.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    let sequence = u32::from_ne_bytes(*header[8..].first_chunk()?);
    let header = Header {
        kind: short(4),
        flags: short(6),
        sequence,
    };
    Some((header, payload, after))
}

/// One attribute: its type without flags, its value, and what stands behind it.
pub(super) fn next_attribute(buffer: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    const TYPE_MASK: u16 = 0x3fff;
    let (header, _) = buffer.split_at_checked(4)?;
    let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
    let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
    let value = buffer.get(4..length)?;
    let after = buffer.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, value, after))
}

/// All attributes of a message.
pub(super) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, value, after) = next_attribute(buffer)?;
        buffer = after;
        Some((kind, value))
    })
}

/// Appends an attribute to a message.
#[cfg(test)]
pub(super) fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("our attributes are short");
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

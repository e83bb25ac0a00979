//! Raw frames on a link: what a test sends and what arrives there, below any protocol stack.
#![expect(unsafe_code, reason = "bind(2) of a packet socket has no safe wrapper")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};

use crate::place::Place;
use crate::process::becomes_readable;

const LARGEST_FRAME: usize = 1 << 16;

/// A packet socket on one link.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens one on `link` in `place`.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn open(place: &Place, link: &str) -> Result<Self> {
        let socket = place.within(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .context("open a packet socket")?;
            bind_to(&socket, if_nametoindex(link)?)?;
            Ok(socket)
        });
        let socket = socket.with_context(|| format!("tap {link}"))?;
        Ok(Self { socket })
    }

    /// Sends `frame`, which begins with an Ethernet header.
    ///
    /// # Errors
    /// When the link does not take it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        sent.with_context(|| format!("send a frame of {} bytes", frame.len()))?;
        Ok(())
    }

    /// The next frame that arrived, if one does within `patience`.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn receive(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(frame) = self.receive_now()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !becomes_readable(&self.socket, left)? {
                return Ok(None);
            }
        }
    }

    /// The next frame that has arrived already.
    fn receive_now(&self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut frame = vec![0; LARGEST_FRAME];
            let received = recv_nonblocking(&self.socket, &mut frame);
            match received {
                // What was sent from here is seen as well.
                Ok((_, libc::PACKET_OUTGOING)) | Err(Errno::EINTR) => {}
                Ok((length, _)) => {
                    frame.truncate(length);
                    return Ok(Some(frame));
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
    }
}

fn bind_to(socket: &OwnedFd, ifindex: u32) -> Result<()> {
    let address = address_of(i32::try_from(ifindex)?);
    let size = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: `address` is a whole address of its family and of the given size.
    let status = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    Errno::result(status).context("bind a packet socket")?;
    Ok(())
}

/// All protocols of a link.
#[expect(clippy::cast_possible_truncation, reason = "small constants")]
fn address_of(ifindex: i32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// A frame's length and its packet type.
fn recv_nonblocking(socket: &OwnedFd, frame: &mut [u8]) -> Result<(usize, u8), Errno> {
    let mut from = address_of(0);
    let mut size = libc::socklen_t::try_from(size_of_val(&from)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: both buffers are writable and of the sizes given.
    let length = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut size,
        )
    };
    let length = Errno::result(length)?;
    Ok((
        usize::try_from(length).map_err(|_| Errno::EINVAL)?,
        from.sll_pkttype,
    ))
}

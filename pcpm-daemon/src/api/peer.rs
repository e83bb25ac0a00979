//! Who is at the other end of a client's connection, as the kernel saw them when they connected.
#![expect(unsafe_code, reason = "SO_PEERGROUPS has no safe wrapper")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

/// More groups than most processes are in; where they are more, the kernel says how many.
const GROUPS: usize = 64;

/// The user and the groups of a process, and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its number where the daemon runs, if it has one there.
    pub(super) pid: Option<u32>,
    /// Its user.
    pub(super) uid: u32,
    /// Its group and its supplementary groups.
    pub(super) gids: Vec<u32>,
}

impl Peer {
    /// Who connected `socket`, a connected Unix stream.
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let socket = socket.as_fd();
        let credentials = getsockopt(&socket, PeerCredentials)?;
        let mut gids = supplementary_groups(socket)?;
        gids.push(credentials.gid());
        // 0 where it is in another process namespace.
        let pid = u32::try_from(credentials.pid()).ok();
        Ok(Self {
            pid: pid.filter(|&pid| pid > 0),
            uid: credentials.uid(),
            gids,
        })
    }
}

fn supplementary_groups(socket: BorrowedFd<'_>) -> nix::Result<Vec<u32>> {
    let mut gids = vec![0; GROUPS];
    match read_groups(socket, &mut gids) {
        Err((Errno::ERANGE, needed)) => {
            gids.resize(needed, 0);
            read_groups(socket, &mut gids)
        }
        other => other,
    }
    .map(|count| {
        gids.truncate(count);
        gids
    })
    .map_err(|(errno, _)| errno)
}

/// Reads the groups (`SO_PEERGROUPS`, 4.13) and says how many they are, or how many there is no room
/// for.
fn read_groups(socket: BorrowedFd<'_>, gids: &mut [u32]) -> Result<usize, (Errno, usize)> {
    let mut bytes = libc::socklen_t::try_from(size_of_val(gids)).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `bytes` bytes to `gids`, and the number of them to `bytes`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            gids.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let count = bytes as usize / size_of::<u32>();
    Errno::result(status)
        .map(|_| count)
        .map_err(|errno| (errno, count))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use nix::unistd::{getegid, geteuid, getgroups};

    use super::*;

    #[test]
    fn the_other_end_of_our_own_socket_is_us() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.uid, geteuid().as_raw());
        assert!(peer.gids.contains(&getegid().as_raw()));
        for group in getgroups().unwrap() {
            assert!(peer.gids.contains(&group.as_raw()), "{group}");
        }
    }

    #[test]
    fn groups_that_find_no_room_are_counted() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let all = read_groups(ours.as_fd(), &mut [0; GROUPS]).unwrap();
        let none = read_groups(ours.as_fd(), &mut []);
        assert_eq!(
            none,
            if all == 0 {
                Ok(0)
            } else {
                Err((Errno::ERANGE, all))
            }
        );
    }
}

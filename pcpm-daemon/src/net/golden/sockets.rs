//! What the kernel counts of a namespace's sockets and fragments, and the end of those that are nobody's.

use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::super::error::{During as _, NetError};
use super::super::raw::{Ask, RawNetlink};
use super::files::Tables;

/// Sockets and datagrams in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Usage {
    /// Sockets of any family that programs made, and that still exist.
    pub(in super::super) sockets: u64,
    /// TCP connections in TIME-WAIT.
    pub(in super::super) time_wait: u64,
    /// Datagrams of which fragments are missing.
    pub(in super::super) fragments: u64,
}

impl Usage {
    /// Counts those of the namespace that the thread is in.
    pub(in super::super) fn read(tables: &Tables) -> Result<Self, NetError> {
        let v4 = tables.read("sockstat")?.unwrap_or_default();
        let v6 = tables.read("sockstat6")?.unwrap_or_default();
        Self::parse(&v4, &v6)
            .ok_or_else(|| NetError::new("count the sockets of a slot", "sockstat is not as known"))
    }

    fn parse(v4: &str, v6: &str) -> Option<Self> {
        let fragments6 = number(v6, "FRAG6:", "inuse").unwrap_or_default();
        Some(Self {
            sockets: number(v4, "sockets:", "used")?,
            time_wait: number(v4, "TCP:", "tw")?,
            fragments: number(v4, "FRAG:", "inuse")? + fragments6,
        })
    }
}

/// The number behind `field` in the line that begins with `line`.
fn number(text: &str, line: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(line))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != field);
    words.nth(1)?.parse().ok()
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// All states of a connection that ends: FIN-WAIT-1 and -2, TIME-WAIT, CLOSE-WAIT, LAST-ACK, CLOSING.
const ENDING: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 11;
/// `struct inet_diag_sockid`.
const ID_LEN: usize = 48;
/// Where `struct inet_diag_msg` has the identity of the socket and the inode of its file.
const ID_AT: usize = 4;
const INODE_AT: usize = 68;

/// Ends TCP connections that no program has any more: the kernel keeps them for up to a minute or, where
/// the peer is silent, for many. What they wait for cannot reach the slot: it belongs to an epoch that
/// is over.
pub(in super::super) fn end_orphans() -> Result<(), NetError> {
    let end = || -> io::Result<()> {
        let mut socket = RawNetlink::open(NETLINK_SOCK_DIAG)?;
        for family in [AF_INET, AF_INET6] {
            for orphan in orphans(&mut socket, family)? {
                // One that is gone meanwhile is what we want; whether any is left is counted later.
                let _counted = socket.ask(Ask::Do, SOCK_DESTROY, &orphan, || (), |(), _, _| ());
            }
        }
        Ok(())
    };
    end().during(|| "end connections that nobody has any more".to_owned())
}

/// Requests that name one orphan each.
fn orphans(socket: &mut RawNetlink, family: u8) -> io::Result<Vec<Vec<u8>>> {
    let all = request(family, &[0; ID_LEN]);
    socket.ask(
        Ask::Table,
        SOCK_DIAG_BY_FAMILY,
        &all,
        Vec::new,
        |found, _, message| {
            let id = message.get(ID_AT..ID_AT + ID_LEN);
            let inode = message.get(INODE_AT..INODE_AT + 4);
            if let (Some(id), Some([0, 0, 0, 0])) = (id, inode) {
                found.push(request(family, id));
            }
        },
    )
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, id: &[u8]) -> Vec<u8> {
    let mut request = vec![family, TCP, 0, 0];
    request.extend(ENDING.to_ne_bytes());
    request.extend(id);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_fragments_of_both_families_are_counted() {
        let v4 = "sockets: used 3\nTCP: inuse 1 orphan 0 tw 2 alloc 1 mem 0\n\
                  UDP: inuse 0 mem 0\nRAW: inuse 0\nFRAG: inuse 1 memory 768\n";
        let v6 = "TCP6: inuse 0\nFRAG6: inuse 4 memory 0\n";
        let usage = Usage {
            sockets: 3,
            time_wait: 2,
            fragments: 5,
        };
        assert_eq!(Usage::parse(v4, v6), Some(usage));
        assert_eq!(Usage::parse("sockets: used 3\n", v6), None);
    }
}

//! Generic netlink: the families that a kernel has, and what is asked of them.
//!
//! Any module may bring a family with state of its own. A family is either asked, or known to have
//! nothing that a slot keeps; with one that is neither, no slot is taken for clean.

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;

use super::super::error::{During as _, NetError};
use super::super::raw::{Ask, RawNetlink, attributes};
use super::{Answer, answer};

const TCP_METRICS: &str = "tcp_metrics";

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`.
const HEADER_LEN: usize = 4;

/// What is asked: section, family, command, whether it is a table, version of the family.
const ASKED: [(&str, &str, u8, Ask, u8); 6] = [
    ("mptcp endpoints", "mptcp_pm", 3, Ask::Table, 1),
    ("mptcp limits", "mptcp_pm", 6, Ask::One, 1),
    ("segment routing", "SEG6", 4, Ask::One, 1),
    ("segment routing keys", "SEG6", 2, Ask::Table, 1),
    ("ioam namespaces", "IOAM6", 3, Ask::Table, 1),
    ("ioam schemas", "IOAM6", 6, Ask::Table, 1),
];

/// Families without state of a namespace other than what its links have, which are compared, or what
/// sockets have, which are counted; and that which is flushed.
const HARMLESS: [&str; 17] = [
    TCP_METRICS,
    "nlctrl",
    "VFS_DQUOT",
    "TASKSTATS",
    "thermal",
    "acpi_event",
    "ethtool",
    "netdev",
    "devlink",
    "net-shaper",
    "handshake",
    "psample",
    "NLBL_MGMT",
    "NLBL_CIPSOv4",
    "NLBL_CALIPSO",
    "NLBL_UNLBL",
    "wireguard",
];

/// The families of the running kernel that have something to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Families {
    asked: Vec<(&'static str, u16, u8, Ask, u8)>,
    tcp_metrics: Option<u16>,
    /// The first that is not known.
    unknown: Option<String>,
}

impl Families {
    /// Lists them.
    pub(in super::super) fn list() -> Result<Self, NetError> {
        let list = || -> io::Result<_> {
            let mut socket = RawNetlink::open(NETLINK_GENERIC)?;
            let request = [CTRL_CMD_GETFAMILY, 1, 0, 0];
            socket.ask(
                Ask::Table,
                GENL_ID_CTRL,
                &request,
                Vec::new,
                |all, _, message| {
                    all.extend(family(message));
                },
            )
        };
        let found = list().during(|| "list the families of generic netlink".to_owned())?;
        Ok(Self::of(&found))
    }

    fn of(found: &[(String, u16)]) -> Self {
        let id_of = |wanted: &str| {
            let mut named = found.iter().filter(|(name, _)| name == wanted);
            named.next().map(|(_, id)| *id)
        };
        let asked = ASKED
            .iter()
            .filter_map(|&(section, family, command, ask, version)| {
                Some((section, id_of(family)?, command, ask, version))
            })
            .collect();
        let is_known = |name: &str| {
            HARMLESS.contains(&name) || ASKED.iter().any(|(_, family, ..)| *family == name)
        };
        let mut names = found.iter().map(|(name, _)| name);
        Self {
            asked,
            tcp_metrics: id_of(TCP_METRICS),
            unknown: names.find(|name| !is_known(name)).cloned(),
        }
    }

    /// A family that nobody here knows the state of.
    pub(in super::super) fn unknown(&self) -> Option<&str> {
        self.unknown.as_deref()
    }

    pub(super) fn look(
        &self,
        socket: &mut RawNetlink,
    ) -> Result<Vec<(&'static str, Answer)>, NetError> {
        let look = |&(section, id, command, ask, version): &(&'static str, u16, u8, Ask, u8)| {
            let asked = socket.ask(
                ask,
                id,
                &[command, version, 0, 0],
                Vec::new,
                |all, _, message| {
                    all.extend(message);
                },
            );
            let answer = answer(asked).during(|| format!("look at {section}"))?;
            Ok((section, answer))
        };
        self.asked.iter().map(look).collect()
    }

    /// Forgets what TCP noted about peers: any connection leaves some of it behind. The kernel has forgotten
    /// all of it when it says so; with nobody in the namespace nothing is noted later.
    pub(super) fn flush_tcp_metrics(&self, socket: &mut RawNetlink) -> Result<(), NetError> {
        const TCP_METRICS_CMD_DEL: u8 = 2;
        let Some(id) = self.tcp_metrics else {
            return Ok(());
        };
        let request = [TCP_METRICS_CMD_DEL, 1, 0, 0];
        socket
            .ask(Ask::Do, id, &request, || (), |(), _, _| ())
            .during(|| "flush TCP metrics".to_owned())
    }
}

fn family(message: &[u8]) -> Option<(String, u16)> {
    let attributes = || attributes(message.get(HEADER_LEN..).unwrap_or_default());
    let value = |wanted| attributes().find_map(|(kind, value)| (kind == wanted).then_some(value));
    let name = value(CTRL_ATTR_FAMILY_NAME)?
        .split(|byte| *byte == 0)
        .next()?;
    let id = u16::from_ne_bytes(*value(CTRL_ATTR_FAMILY_ID)?.first_chunk()?);
    Some((String::from_utf8_lossy(name).into_owned(), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_nobody_knows_the_state_of_is_told() {
        let known = [("nlctrl".to_owned(), 16), ("tcp_metrics".to_owned(), 20)];
        let families = Families::of(&known);
        assert_eq!(families.unknown(), None);
        assert_eq!(families.tcp_metrics, Some(20));
        let more = [known.to_vec(), vec![("IPVS".to_owned(), 21)]].concat();
        assert_eq!(Families::of(&more).unknown(), Some("IPVS"));
    }
}

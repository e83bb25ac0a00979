//! What the ends of a twin see of traffic, without what may differ.

use std::fmt;

use crate::packet::{Datagram, Sum};

/// What the host's address on the uplink is called.
pub(crate) const HOST: &str = "host";

/// What a twin's ends saw of one step, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at_slot: Vec<Sight>,
    pub(crate) at_world: Vec<Sight>,
}

/// A packet that arrived, without what may differ: the translated port is the slot's own again,
/// datagrams are put together, checksums are judged and not compared.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// 0 for packets that the host makes itself.
    pub(crate) identification: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) options: Vec<u8>,
    pub(crate) header_is_right: bool,
    pub(crate) sum: Sum,
    pub(crate) body: Vec<u8>,
    /// For an error: what it quotes.
    pub(crate) quote: Option<String>,
    /// For a datagram whose fragments did not all arrive.
    pub(crate) incomplete: bool,
}

impl Seen {
    pub(crate) fn any(&self, is: impl Fn(&Sight) -> bool) -> bool {
        self.at_slot.iter().chain(&self.at_world).any(is)
    }

    pub(crate) fn all(&self, is: impl Fn(&Sight) -> bool) -> bool {
        !self.any(|sight| !is(sight))
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.any(|_| true)
    }
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            protocol,
            ttl,
            tos,
            identification,
            dont_fragment,
            options,
            header_is_right,
            sum,
            body,
            quote,
            incomplete,
        } = self;
        let start = &body[..body.len().min(20)];
        write!(
            f,
            "{source} to {destination}, protocol {protocol}, ttl {ttl}, tos {tos}, id {identification}, \
             df {dont_fragment}, options {options:?}, header right: {header_is_right}, checksum {sum:?}, \
             {} bytes {start:02x?}, quote {quote:?}, incomplete: {incomplete}",
            body.len()
        )
    }
}

/// Puts fragments together, as their receiver would; the last flag is for what stays incomplete.
pub(crate) fn put_together(packets: Vec<(Datagram, bool)>) -> Vec<(Datagram, bool, bool)> {
    let mut whole: Vec<(Datagram, bool, bool)> = Vec::new();
    let mut parts: Vec<(Datagram, bool)> = Vec::new();
    for (packet, right) in packets {
        if packet.offset == 0 && !packet.more_fragments {
            whole.push((packet, right, false));
        } else {
            parts.push((packet, right));
        }
    }
    while let Some((first, _)) = parts.first().cloned() {
        let same = |part: &Datagram| {
            part.identification == first.identification && part.source == first.source
        };
        let (mut own, others): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(part, _)| same(part));
        parts = others;
        own.sort_by_key(|(part, _)| part.offset);
        let right = own.iter().all(|(_, right)| *right);
        let ends = own.last().is_some_and(|(part, _)| !part.more_fragments);
        let mut datagram = Datagram {
            body: Vec::new(),
            offset: 0,
            more_fragments: false,
            ..own[0].0.clone()
        };
        let mut complete = ends;
        for (part, _) in own {
            complete &= part.offset == datagram.body.len();
            datagram.body.extend(part.body);
        }
        whole.push((datagram, right, !complete));
    }
    whole
}

//! Frames for the tests of the packet logic. Checksums are left 0: the logic reads none.

use pcpm_ebpf::packet::{Frame, PacketFields, Transport, protocol};

/// An IPv4 frame with `options` bytes of IP options and `payload` behind them.
#[derive(Clone, Debug)]
pub(crate) struct Ipv4 {
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) flags_and_offset: u16,
    pub(crate) options: usize,
    pub(crate) payload: Vec<u8>,
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self {
            destination_mac: [2, 0, 0, 0, 0, 1],
            source_mac: [2, 0, 0, 0, 0, 2],
            source: [10, 213, 0, 7],
            destination: [192, 0, 2, 1],
            protocol: protocol::UDP,
            ttl: 64,
            flags_and_offset: 0,
            options: 0,
            payload: ports(1234, 53).to_vec(),
        }
    }
}

impl Ipv4 {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = u8::try_from((20 + self.options) / 4).expect("at most 40 bytes of options");
        let mut bytes = [self.destination_mac, self.source_mac].concat();
        bytes.extend([0x08, 0x00, 0x40 | header, 0, 0, 0, 0, 0]);
        bytes.extend(self.flags_and_offset.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend([self.source, self.destination].concat());
        bytes.extend(vec![1; self.options]);
        bytes.extend(&self.payload);
        bytes
    }

    pub(crate) fn frame(&self) -> Frame {
        Frame::parse(self.bytes().as_slice()).expect("the frame is well-formed")
    }

    pub(crate) fn transport(&self) -> Transport {
        Transport::parse(self.bytes().as_slice(), &self.frame()).expect("the payload is a header")
    }
}

/// The first 8 bytes of a UDP datagram.
pub(crate) fn ports(source: u16, destination: u16) -> [u8; 8] {
    let [a, b] = source.to_be_bytes();
    let [c, d] = destination.to_be_bytes();
    [a, b, c, d, 0, 8, 0, 0]
}

/// A TCP header.
pub(crate) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = ports(source, destination)[..4].to_vec();
    header.extend([0; 8]);
    header.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    header
}

/// An ICMP message with `identifier` where an echo has it.
pub(crate) fn icmp(kind: u8, identifier: u16) -> [u8; 8] {
    let [a, b] = identifier.to_be_bytes();
    [kind, 0, 0, 0, a, b, 0, 1]
}

/// A frame and its transport header, as far as there is one.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Frame, Transport)> {
    let frame = Frame::parse(bytes).ok()?;
    let transport = Transport::parse(bytes, &frame).ok()?;
    assert!(bytes.fields::<4>(frame.transport_offset).is_some());
    Some((frame, transport))
}

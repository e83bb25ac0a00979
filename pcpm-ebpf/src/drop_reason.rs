//! Why a packet was dropped: the index into the `DROPS` map, and the words for an operator.
//!
//! New reasons go to the end: a running datapath keeps its counters over an upgrade of the daemon.

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $description:literal)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum DropReason {
            $(#[doc = $description] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of the `DROPS` map.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Number of reasons: entries of the `DROPS` map.
            #[expect(clippy::cast_possible_truncation, reason = "a few dozen reasons")]
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The stable name for command line and API, in kebab-case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for an operator: what was seen and dropped.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }
    };
}

drop_reasons! {
    NotConfigured "not-configured"
        "The datapath holds no configuration, or lacks the link it would have to use."
    NotASlot "not-a-slot"
        "The packet came in on a link, or from an address, that belongs to no slot."
    Detached "detached"
        "The slot is held by nobody."
    Malformed "malformed"
        "The packet ends within its headers, or its IP header is invalid."
    Vlan "vlan"
        "A slot sent a frame with a VLAN tag."
    Arp "arp"
        "ARP: slots have a permanent neighbour entry for their gateway and need none."
    Ipv6 "ipv6"
        "The pool has no IPv6 addresses."
    NotIp "not-ip"
        "The frame is neither IPv4, IPv6 nor ARP."
    WrongNextHop "wrong-next-hop"
        "A slot sent a frame to another hardware address than its gateway's."
    SpoofedMac "spoofed-mac"
        "A slot sent from a hardware address that is not its own."
    SpoofedAddress "spoofed-address"
        "A slot sent from an IP address that is not its own."
    NoSuchSlot "no-such-slot"
        "The destination is in the pool's range, but there is no such slot."
    DestinationDetached "destination-detached"
        "The destination slot is held by nobody."
    OtherTenant "other-tenant"
        "The destination slot is held by another tenant, and not both allow each other."
    Metadata "metadata"
        "The destination is link-local (169.254.0.0/16, fe80::/10) or otherwise one where clouds serve \
         instance metadata (fd00:ec2::/32), and no rule of the slot's attachment opens it."
    Multicast "multicast"
        "Multicast is not carried."
    Broadcast "broadcast"
        "Broadcast is not carried."
    Reserved "reserved"
        "The destination is in a range that never travels (0/8, 127/8, 240/4, or loopback of IPv6)."
    Stale "stale"
        "The slot changed hands while the packet was on its way."
    NotAuthorised "not-authorised"
        "The packet reached the host without having passed the slot's checks."
    HostClosed "host-closed"
        "Slots may ping their gateway and answer the host; anything else for the host, or for a \
         destination without a route, ends here."
    Fragment "fragment"
        "A fragment to host or world came before the first of its datagram, which has the ports."
    NotReply "not-reply"
        "A TCP reset, an ICMP error or another ICMP message that belongs to no flow."
    UnsupportedProtocol "unsupported-protocol"
        "Only TCP, UDP, ICMP echo and ICMP errors are translated."
    TtlExpired "ttl-expired"
        "The packet's time to live ended here; the host has told the sender."
    NoRoute "no-route"
        "The host's routing table refuses the destination (blackhole, unreachable, prohibit)."
    TooBig "too-big"
        "The packet is larger than the uplink's MTU; the host has told the sender."
    AnswerTooBig "answer-too-big"
        "The answer to a client of a published port is larger than the MTU of the uplink it asked through."
    NoUplink "no-uplink"
        "The uplink has no address of this version of IP, so the world cannot be reached."
    NotUplink "not-uplink"
        "The host routes the destination through a link that is not an uplink."
    NoFreePort "no-free-port"
        "No free port was found for this peer within the bounded number of tries."
    FlowTable "flow-table"
        "The kernel refused a new entry in the flow table."
    Rewrite "rewrite"
        "The kernel refused to change the packet's headers."
    ForwardedToSlot "forwarded-to-slot"
        "The host tried to forward a packet to a slot; only what the host itself sends may pass."
    PoolFromUplink "pool-from-uplink"
        "A packet from outside was addressed to the pool directly."
    SpoofedFromUplink "spoofed-from-uplink"
        "A packet from outside claimed to come from the pool."
    PortWithdrawn "port-withdrawn"
        "The published port that a connection came through is no longer published for this slot."
    AmbiguousClient "ambiguous-client"
        "A client used one port of its own for two ways to the same port of a slot."
    PolicyDenied "policy-denied"
        "A rule of the slot's attachment denies the destination."
    WorldClosed "world-closed"
        "The world is closed by default, and no rule of the slot's attachment opens the destination."
    RateUp "rate-up"
        "The slot sent more than its limits for what it sends."
    RateDown "rate-down"
        "More was sent to the slot than its limits for what it receives."
    RouterDiscovery "router-discovery"
        "A slot sent a router advertisement or solicitation."
    NeighbourDiscovery "neighbour-discovery"
        "A slot sent a neighbour advertisement or solicitation; it has a permanent entry for its \
         gateway and needs none."
    Redirect "redirect"
        "A slot sent a redirect of IPv6."
    ExtensionHeaders "extension-headers"
        "The packet has more IPv6 extension headers than are looked behind."
    FlowLimit "flow-limit"
        "The slot has as many flows as one slot may have; those that it has go on."
    FlowTableFull "flow-table-full"
        "The flow table is so full that the slot, which has many flows, gets no more of it."
    DatagramLimit "datagram-limit"
        "Too many datagrams in fragments of one slot were begun and not finished."
    InnerAddress "inner-address"
        "A slot sent to the inner address that all slots have: it means the slot itself, and leads nowhere else."
}

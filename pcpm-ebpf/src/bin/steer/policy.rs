//! Whom the holder of a slot may reach: the rules of its attachment, looked up.

use aya_ebpf::btf_maps::lpm_trie::Key;
use pcpm_ebpf::{
    abi::{AttachmentWord, Config, FlowKey, PolicyKey, flow_kind},
    address::Address,
    decision::check_tenants,
    drop_reason::DropReason,
    packet::{Frame, Transport},
    policy::{
        Refusal, Ruling, Talk, check_link_local, check_world as check_world_address, gateway,
        is_link_local,
    },
};

use crate::{
    flows::Standing,
    fragments, global, host,
    maps::{self, POLICY},
    settings::Granted,
    skb::Skb,
};

/// The holder of a slot: plain data, so that global functions take it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Holder {
    pub(crate) slot: u32,
    pub(crate) word: AttachmentWord,
    pub(crate) granted: Granted,
}

impl Holder {
    /// Of `slot`, whose attachment is `word`.
    #[inline(always)]
    pub(crate) fn of(slot: u32, word: AttachmentWord) -> Self {
        Self {
            slot,
            word,
            granted: Granted::to(slot, word),
        }
    }
}

/// What the rules `policy` say about a packet of `protocol` to `port` of `address`.
#[inline(always)]
pub(crate) fn ruling(policy: u32, address: &Address, protocol: u8, port: u16) -> Ruling {
    if policy == 0 {
        return Ruling::None;
    }
    let PolicyKey {
        prefix_length,
        policy,
        address: Address([a, b, c, d]),
    } = PolicyKey::of(policy, *address);
    let key = Key::new(prefix_length, [policy, a, b, c, d]);
    match POLICY.get(&key) {
        Some(node) => node.ruling(protocol, port),
        None => Ruling::None,
    }
}

/// Whether a slot's packet may pass to another slot.
#[inline(always)]
pub(crate) fn check_slots(
    skb: &Skb,
    frame: &Frame,
    sender: &Holder,
    receiver: &Holder,
) -> Result<(), DropReason> {
    let is_stranger = match check_tenants(sender.word, receiver.word) {
        Ok(()) if sender.granted.policy() == 0 => return Ok(()),
        Ok(()) => false,
        Err(DropReason::OtherTenant)
            if sender.granted.policy() != 0 && receiver.granted.policy() != 0 =>
        {
            true
        }
        Err(reason) => return Err(reason),
    };
    global::check_between(*skb, frame, sender, receiver, is_stranger)
}

/// Whether a packet may pass to another slot where rules have a say.
#[inline(always)]
pub(crate) fn check_between(
    skb: Skb,
    frame: &Frame,
    sender: &Holder,
    receiver: &Holder,
    is_stranger: bool,
) -> Result<(), DropReason> {
    let talk = match talk(&skb, frame) {
        Err(DropReason::Fragment) => {
            return fragments::follow_first(frame, sender.slot, sender.word).map(drop);
        }
        talk => talk?,
    };
    if is_stranger {
        check_strangers(frame, &talk, sender, receiver)?;
    } else {
        check_mates(frame, &talk, sender)?;
    }
    fragments::let_others_follow(frame, sender.slot, sender.word, &Address::ANY)
}

/// What the packet is about, as far as rules are concerned.
#[inline(always)]
fn talk(skb: &Skb, frame: &Frame) -> Result<Talk, DropReason> {
    match skb.transport(frame) {
        Ok(transport) => Ok(Talk::of(frame.protocol, transport)),
        Err(DropReason::NotReply) => Ok(match skb.quote(frame) {
            Ok(quote) => Talk::of(quote.protocol, &quote.transport).reversed(),
            Err(_) => Talk::without_ports(frame.protocol),
        }),
        Err(DropReason::UnsupportedProtocol) => Ok(Talk::without_ports(frame.protocol)),
        Err(reason) => Err(reason),
    }
}

/// Within a tenant everything passes that the sender's rules do not deny, answers like requests.
#[inline(always)]
fn check_mates(frame: &Frame, talk: &Talk, sender: &Holder) -> Result<(), DropReason> {
    let policy = sender.granted.policy();
    match global::ruling(
        policy,
        &frame.destination,
        talk.protocol,
        talk.receiver_port,
    ) {
        Ruling::Deny | Ruling::Close => Err(DropReason::PolicyDenied),
        Ruling::Allow | Ruling::None => Ok(()),
    }
}

/// Between tenants nothing passes but what both allow.
#[inline(always)]
fn check_strangers(
    frame: &Frame,
    talk: &Talk,
    sender: &Holder,
    receiver: &Holder,
) -> Result<(), DropReason> {
    let there = Way {
        policy: sender.granted.policy(),
        address: &frame.source,
    };
    let back = Way {
        policy: receiver.granted.policy(),
        address: &frame.destination,
    };
    let may_pass = there.may_ask(&back, talk.protocol, talk.receiver_port)
        || talk.may_answer && back.may_ask(&there, talk.protocol, talk.sender_port);
    if may_pass {
        Ok(())
    } else {
        Err(DropReason::OtherTenant)
    }
}

/// One side of a connection between tenants.
struct Way<'a> {
    policy: u32,
    address: &'a Address,
}

impl Way<'_> {
    /// Whether this side may open a connection to `port` of the other one: its own rules allow the port,
    /// those of the other one the address. A rule of the other one about a port is no consent, it is
    /// about what that one may ask for.
    #[inline(always)]
    fn may_ask(&self, other: &Self, protocol: u8, port: u16) -> bool {
        global::ruling(self.policy, other.address, protocol, port) == Ruling::Allow
            && global::ruling(other.policy, self.address, protocol, 0) == Ruling::Allow
    }
}

/// Whether a slot's packet may pass to the world, or to what `is_link_local`. What may pass to the host
/// is decided there.
#[inline(always)]
pub(crate) fn check_world(
    skb: &Skb,
    frame: &Frame,
    sender: &Holder,
    is_link_local: bool,
) -> Result<(), DropReason> {
    let is_closed = sender.granted.world_is_closed(maps::config()?);
    let is_checked = sender.granted.policy() != 0 || is_closed || is_link_local;
    // Later fragments follow the first one, which was checked.
    if !is_checked || frame.fragment.is_later() || host::is_own(&frame.destination) {
        return Ok(());
    }
    global::check_peer(*skb, frame, sender, is_closed)
}

/// Whether a slot's packet may pass to the world where rules have a say.
#[inline(always)]
pub(crate) fn check_peer(
    skb: Skb,
    frame: &Frame,
    sender: &Holder,
    is_closed: bool,
) -> Result<(), DropReason> {
    let key = &mut maps::pair()?.egress;
    let talk = match skb.transport(frame) {
        Err(DropReason::NotReply) => {
            let quote = skb.quote(frame)?;
            *key = quote.arriving(flow_kind::EGRESS);
            Talk::of(quote.protocol, &quote.transport).reversed()
        }
        transport => {
            let transport = transport?;
            *key = FlowKey::leaving(flow_kind::EGRESS, frame, transport);
            Talk::of(frame.protocol, transport)
        }
    };
    let (peer, protocol, port) = (&frame.destination, talk.protocol, talk.receiver_port);
    check_rules(sender, peer, protocol, port, is_closed).or_else(|refusal| {
        let standing = global::standing(key, sender.slot, sender.word);
        make_exception(sender, peer, protocol, port, refusal, standing)
    })
}

/// Whether what a peer in the world answers may still pass to the holder of a slot: what has been denied
/// since is cut both ways.
#[inline(always)]
pub(crate) fn check_answer(
    config: &Config,
    receiver: &Holder,
    ingress: &FlowKey,
    standing: Standing,
) -> Result<(), DropReason> {
    let is_closed = receiver.granted.world_is_closed(config);
    if receiver.granted.policy() == 0 && !is_closed {
        return Ok(());
    }
    global::check_peer_of(receiver, ingress, standing, is_closed)
}

/// Whether what a peer answers may pass where rules have a say.
#[inline(always)]
pub(crate) fn check_peer_of(
    receiver: &Holder,
    ingress: &FlowKey,
    standing: Standing,
    is_closed: bool,
) -> Result<(), DropReason> {
    let FlowKey {
        remote,
        protocol,
        remote_port,
        ..
    } = ingress;
    check_rules(receiver, remote, *protocol, *remote_port, is_closed).or_else(|refusal| {
        make_exception(receiver, remote, *protocol, *remote_port, refusal, standing)
    })
}

/// Whether a slot may open a connection to a port that is published on an address of the host: the
/// public door, so what is closed to the world's addresses is closed to it.
#[inline(always)]
pub(crate) fn check_door(
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> Result<(), DropReason> {
    let port = Talk::of(frame.protocol, transport).receiver_port;
    global::check_public_port(slot, word, &frame.destination, frame.protocol, port)
}

/// Whether a slot may open a connection to `port` of `address`, one of the host's.
#[inline(always)]
pub(crate) fn check_public_port(
    slot: u32,
    word: AttachmentWord,
    address: &Address,
    protocol: u8,
    port: u16,
) -> Result<(), DropReason> {
    let granted = Granted::to(slot, word);
    let ruling = global::ruling(granted.policy(), address, protocol, port);
    let is_closed = granted.world_is_closed(maps::config()?);
    check_world_address(ruling, is_closed).map_err(Refusal::reason)
}

/// What rules about addresses say.
#[inline(always)]
fn check_rules(
    holder: &Holder,
    peer: &Address,
    protocol: u8,
    port: u16,
    is_closed: bool,
) -> Result<(), Refusal> {
    let ruling = global::ruling(holder.granted.policy(), peer, protocol, port);
    if is_link_local(peer) {
        return check_link_local(ruling);
    }
    check_world_address(ruling, is_closed)
}

/// What passes although rules about addresses refuse it: what came from outside, which they are not
/// about, and what was learned for a name. A name that has expired ends no connection.
#[inline(always)]
fn make_exception(
    holder: &Holder,
    peer: &Address,
    protocol: u8,
    port: u16,
    refusal: Refusal,
    standing: Standing,
) -> Result<(), DropReason> {
    let reason = match (refusal, standing) {
        (_, Standing::Inbound) => return Ok(()),
        (Refusal::Final(reason), _) => return Err(reason),
        (Refusal::UnlessNamed(reason), _) => reason,
    };
    let is_open = standing == Standing::Outbound;
    if holder.granted.learns_names() && global::name_allows(holder, peer, protocol, port, is_open) {
        Ok(())
    } else {
        Err(reason)
    }
}

/// Whether a rule opens the service of the host that a packet is for.
#[inline(always)]
pub(crate) fn opens_host(
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> bool {
    let talk = Talk::of(frame.protocol, transport);
    let is_v4 = frame.destination.is_v4();
    global::host_ruling(slot, word, is_v4, talk.protocol, talk.receiver_port) == Ruling::Allow
}

/// What the rules of a slot say about `port` of the host.
#[inline(always)]
pub(crate) fn host_ruling(
    slot: u32,
    word: AttachmentWord,
    is_v4: bool,
    protocol: u8,
    port: u16,
) -> Ruling {
    let policy = Granted::to(slot, word).policy();
    global::ruling(policy, &gateway(is_v4), protocol, port)
}

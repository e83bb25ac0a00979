//! What a slot's connection to the world is shown as: the address and port that it has, or the search
//! for a new port.
#![expect(unsafe_code, reason = "calls kernel helpers, one with a callback")]

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use pcpm_ebpf::{
    abi::{AttachmentWord, Config, Flow, FlowKey, SealedFlow, flow_kind},
    address::Address,
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::{self, Endpoint, FIRST_LATE_TRY, PORT_TRIES, PortSequence},
    packet::{Frame, Transport, TransportKind, tcp_flag},
    quota::ENTRIES_PER_CONNECTION,
};

use crate::{
    flows::{Entry, insert, now_ns, replace},
    global, inbound,
    maps::{self, Draft},
    quota,
    skb::Skb,
};

/// What a slot's connection to the world is shown as: what it has been so far, or a new port of
/// `uplink`, the address of the way out; where slots are routed, what it is.
///
/// # Errors
/// Why there is no such address, for a connection that needs one.
#[inline(always)]
pub(crate) fn shown(
    skb: &Skb,
    uplink: Result<&Address, DropReason>,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> Result<&'static Endpoint, DropReason> {
    let connection = Connection::of(slot, word, frame, transport)?;
    let goes_on = global::connection_goes_on(connection, transport)?;
    if goes_on && connection.is_inbound {
        return Ok(connection.shown());
    }
    let uplink = uplink?;
    if goes_on && connection.shown.address == *uplink {
        return Ok(connection.shown());
    }
    if maps::config()?.is_routed(frame.family) {
        global::open_connection_as_is(connection, transport)?;
    } else {
        global::open_connection(connection, *skb, uplink, transport)?;
    }
    Ok(connection.shown())
}

/// What the connection whose packet an error by `slot` quotes is shown as.
#[inline(always)]
pub(crate) fn quoted_shown(
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    quote: &Quote,
) -> Option<&'static Endpoint> {
    let is_shown = global::is_quoted_shown(slot, word, frame, quote);
    let connection = maps::connection().ok()?;
    is_shown.then_some(&connection.shown)
}

/// Whether the connection whose packet an error by `slot` quotes exists; then [`maps::connection`] is it.
#[inline(always)]
pub(crate) fn is_quoted_shown(
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    quote: &Quote,
) -> bool {
    let Ok(connection) = maps::connection() else {
        return false;
    };
    connection.set(slot, word);
    connection.egress = quote.arriving(flow_kind::EGRESS);
    let Some(egress) = Entry::find(&connection.egress) else {
        return false;
    };
    connection.owner(&egress).is_some() && quote.is_by_receiver(frame)
}

/// A connection to the world, and the moment it is looked at.
#[repr(C)]
pub(crate) struct Connection {
    egress: FlowKey,
    /// What it is shown as, as soon as that is known.
    shown: Endpoint,
    /// Whether it was opened from outside, as soon as that is known.
    is_inbound: bool,
    slot: u32,
    word: AttachmentWord,
    now: u64,
}

impl Connection {
    /// The one that a packet of `slot` belongs to.
    #[inline(always)]
    pub(crate) fn of(
        slot: u32,
        word: AttachmentWord,
        frame: &Frame,
        transport: &Transport,
    ) -> Result<&'static mut Self, DropReason> {
        let connection = maps::connection()?;
        connection.set(slot, word);
        connection.egress = FlowKey::leaving(flow_kind::EGRESS, frame, transport);
        Ok(connection)
    }

    /// What it is shown as; it exists.
    #[inline(always)]
    pub(crate) fn shown(&self) -> &Endpoint {
        &self.shown
    }

    /// Now, by `slot`, held as `word` says.
    #[inline(always)]
    fn set(&mut self, slot: u32, word: AttachmentWord) {
        self.slot = slot;
        self.word = word;
        self.now = now_ns();
    }

    /// Whether it exists; then the packet at hand keeps it alive.
    ///
    /// # Errors
    /// It came from outside, through a port that is no longer published.
    #[inline(always)]
    pub(crate) fn goes_on(&mut self, transport: &Transport) -> Result<bool, DropReason> {
        let Some(egress) = Entry::find(&self.egress) else {
            return Ok(false);
        };
        self.is_inbound = egress.flow.is_inbound();
        if let Some(ingress) = self.owner(&egress) {
            ingress.follow(ingress.flow.from_slot(), transport, self.now);
            egress.refresh(self.now);
            return Ok(true);
        }
        let is_late = self.is_inbound && egress.is_live(self.word, self.now);
        if is_late && !nat::begins_connection(self.egress.protocol, transport.tcp_flags) {
            return Err(DropReason::PortWithdrawn);
        }
        Ok(false)
    }

    /// The INGRESS entry, as long as it agrees with `egress`.
    #[inline(always)]
    fn owner(&mut self, egress: &Entry) -> Option<Entry> {
        self.shown = egress.flow.shown();
        let key = self.egress.translated(&self.shown);
        let ingress = Entry::find(&key)?;
        let agree = nat::is_reverse_of(ingress.flow, &self.egress, self.slot, self.word.epoch());
        (agree && ingress.stands(&key, self.word, self.now)).then_some(ingress)
    }

    /// Opens it, shown as a free port of `address`.
    #[inline(always)]
    pub(crate) fn open_as(
        &mut self,
        skb: Skb,
        address: &Address,
        transport: &Transport,
    ) -> Result<(), DropReason> {
        self.count_entries(transport)?;
        self.shown.address = *address;
        let draft = maps::draft()?;
        self.shown.port = self
            .claim_port(skb, maps::config()?, draft)
            .inspect_err(|_| self.give_back(ENTRIES_PER_CONNECTION))?;
        global::write_egress(self)
    }

    /// Opens it, shown as it is: the same entries as for a port of an uplink, but no search, because nobody else
    /// can have the slot's own port.
    #[inline(always)]
    pub(crate) fn open_as_is(&mut self, transport: &Transport) -> Result<(), DropReason> {
        self.count_entries(transport)?;
        self.shown.address = self.egress.local;
        self.shown.port = self.egress.local_port;
        let draft = maps::draft()?;
        self.draft_ingress(draft);
        global::write_flow(&draft.key, &mut draft.entry).inspect_err(|_| self.give_back(1))?;
        global::write_egress(self)
    }

    /// Counts the entries of a connection that the packet at hand opens.
    #[inline(always)]
    fn count_entries(&self, transport: &Transport) -> Result<(), DropReason> {
        if transport.kind == TransportKind::EchoReply || transport.tcp_flags & tcp_flag::RST != 0 {
            return Err(DropReason::NotReply);
        }
        global::take_entries(self.slot, self.word.epoch(), ENTRIES_PER_CONNECTION)
    }

    /// Writes the entry that remembers what it is shown as.
    #[inline(always)]
    pub(crate) fn write_egress(&self) -> Result<(), DropReason> {
        let draft = maps::draft()?;
        draft.entry.flow = self.flow(&self.shown);
        global::write_flow(&self.egress, &mut draft.entry)
    }

    /// Entries that were counted for it are not made.
    #[inline(always)]
    fn give_back(&self, entries: u32) {
        global::give_back_entries(self.slot, self.word.epoch(), entries);
    }

    #[inline(always)]
    fn draft_ingress(&self, draft: &mut Draft) {
        let inside = Endpoint {
            address: Address::ANY,
            port: self.egress.local_port,
        };
        draft.key = self.egress.translated(&self.shown);
        draft.entry.flow = self.flow(&inside);
    }

    #[inline(always)]
    fn claim_port(&self, skb: Skb, config: &Config, draft: &mut Draft) -> Result<u16, DropReason> {
        self.draft_ingress(draft);
        draft.ports = PortSequence::new(
            config,
            random(),
            quota::in_use(self.slot, self.word.epoch()),
        );
        let mut search = Search {
            skb,
            draft,
            end: End::NoFreePort,
        };
        search.run();
        match search.end {
            End::Found => Ok(search.draft.key.local_port),
            End::NoFreePort => Err(DropReason::NoFreePort),
            End::NoRoom => Err(DropReason::FlowTable),
        }
    }

    #[inline(always)]
    fn flow(&self, shown: &Endpoint) -> Flow {
        nat::new_flow(self.slot, self.word.epoch(), shown, self.now)
    }
}

/// A search for a port that nobody uses.
struct Search<'a> {
    skb: Skb,
    /// The INGRESS key with the port that is tried, its entry, and the ports to come.
    draft: &'a mut Draft,
    end: End,
}

/// How a search ends.
#[derive(Clone, Copy)]
enum End {
    Found,
    NoFreePort,
    /// The kernel takes no more entries, whatever the port.
    NoRoom,
}

impl Search<'_> {
    /// Tries ports until one is found, at most [`PORT_TRIES`]. The helper (5.17) has the verifier
    /// follow one round instead of all of them.
    #[inline(always)]
    fn run(&mut self) {
        let search = (&raw mut *self).cast();
        // SAFETY: `try_next_port` has the signature that the helper calls, and `self` outlives it.
        unsafe { bpf_loop(PORT_TRIES, try_next_port as *mut c_void, search, 0) };
    }
}

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// One round of [`Search::run`].
extern "C" fn try_next_port(round: u64, search: *mut c_void) -> i64 {
    // SAFETY: `search` is what `Search::run` passed.
    let search = unsafe { &mut *search.cast::<Search<'_>>() };
    let Draft { key, entry, ports } = &mut *search.draft;
    let is_late = round >= u64::from(FIRST_LATE_TRY);
    if round == u64::from(FIRST_LATE_TRY) {
        ports.turn_to_reserve();
    }
    key.local_port = ports.next_port();
    if maps::is_published(&mut inbound::port_of(key)) || global::has_socket(search.skb, key) {
        return CONTINUE;
    }
    search.end = match global::claim_port(key, entry, is_late) {
        Ok(false) => return CONTINUE,
        Ok(true) => End::Found,
        Err(_) => End::NoRoom,
    };
    STOP
}

/// Makes `flow` the owner of a translated port, unless the port has an owner that still exists, and
/// does not give way in a `late` try.
#[inline(always)]
pub(crate) fn claim(key: &FlowKey, entry: &mut SealedFlow, late: bool) -> Result<bool, DropReason> {
    if insert(key, entry)? {
        return Ok(true);
    }
    take_over(key, entry, late)
}

/// Replaces a dead owner, in a late try also one whose connection is closed. Of several CPUs that find
/// it so only one wins the exchange; the others see an entry that does not exist, and try another port.
#[inline(always)]
fn take_over(key: &FlowKey, entry: &mut SealedFlow, late: bool) -> Result<bool, DropReason> {
    let Some(owner) = Entry::find(key) else {
        return Ok(false);
    };
    let Ok(word) = maps::attachment(owner.flow.slot) else {
        return Ok(false);
    };
    let now = entry.flow.last_seen_ns;
    let gives_way = late && owner.gives_way_to(&entry.flow);
    if owner.is_live(word, now) && !gives_way {
        return Ok(false);
    }
    replace(key, &owner, entry)
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}

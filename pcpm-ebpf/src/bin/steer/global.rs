//! Functions that the verifier checks once, whoever calls them: its *global functions*.
//!
//! Any other function of its own is checked again for every path that leads to a call of it. These are
//! checked alone, with any arguments, and a caller knows nothing of what they return. In exchange they
//! take plain data only: numbers, the packet, and pointers to memory of a known size.
//!
//! Each stands here with the function that it leads to. That one is `inline(always)`, and is called
//! nowhere else.
#![expect(
    unsafe_code,
    reason = "arguments cross as the kernel knows them, and the linker keeps the names"
)]

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use pcpm_ebpf::{
    abi::{AttachmentWord, DeadFlow, Flow, FlowKey, PortTarget, SealedFlow},
    address::Address,
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::Endpoint,
    packet::{Frame, IpHeader, Transport},
    policy::Ruling,
    rate::Price,
};

use crate::{
    arrival::{self, Elsewhere},
    clone, collect, drops,
    flows::{self, Receiver, Standing},
    fragments, from_host, hairpin, host, inbound, limits, names,
    policy::{self, Holder},
    ports::{self, Connection},
    quota, rewrite,
    skb::{self, Skb},
};

macro_rules! global {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),*) -> $outcome:ty = $body:path;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name($($argument: $kind),*) -> $outcome {
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name($($argument: <$kind as Argument>::Raw),*) -> u64 {
                // SAFETY: the caller below passes what `Argument::pass` made.
                $(let Some($argument) = (unsafe { <$kind as Argument>::receive($argument) }) else {
                    return <$outcome as Outcome>::NEVER;
                };)*
                Outcome::number($body($($argument),*))
            }
            // SAFETY: the arguments are those of this call.
            Outcome::of(unknown(unsafe { $name($(Argument::pass($argument)),*) }))
        }
    )*};
}

/// Makes the compiler know as little of a number as the verifier does: else it leaves out what the
/// verifier wants to see.
#[inline(always)]
fn unknown(number: u64) -> u64 {
    let same;
    // SAFETY: moves a register to itself: the kernel takes line numbers of instructions only.
    unsafe {
        asm!("{0} = {0}", inout(reg) number => same, options(pure, nomem, nostack, preserves_flags));
    }
    same
}

global! {
    /// See [`skb::read_frame`].
    fn read_frame(skb: Skb, place: &mut Frame) -> Result<(), DropReason> = skb::read_frame;
    /// See [`skb::read_transport`].
    fn read_transport(skb: Skb, frame: &Frame, place: &mut Transport) -> Result<(), DropReason>
        = skb::read_transport;
    /// See [`skb::read_quote`].
    fn read_quote(skb: Skb, frame: &Frame, place: &mut Quote) -> Result<(), DropReason>
        = skb::read_quote;
    /// See [`skb::read_quoted_header`].
    fn read_quoted_header(skb: Skb, frame: &Frame, place: &mut IpHeader) -> Result<(), DropReason>
        = skb::read_quoted_header;

    /// See [`flows::unseal`].
    fn unseal(place: &mut SealedFlow, key: &FlowKey, flow: &mut Flow) -> bool = flows::unseal;
    /// See [`flows::standing`].
    fn standing(key: &FlowKey, slot: u32, word: AttachmentWord) -> Standing = flows::standing;
    /// See [`flows::answers_host`].
    fn answers_host(slot: u32, word: AttachmentWord, frame: &Frame, transport: &Transport) -> bool
        = flows::answers_host;
    /// See [`flows::concerns_host`].
    fn concerns_host(slot: u32, word: AttachmentWord, frame: &Frame, quote: &Quote) -> bool
        = flows::concerns_host;

    /// See [`inbound::is_open`].
    fn is_open(key: &FlowKey, flow: &Flow) -> bool = inbound::is_open;
    /// See [`inbound::write`].
    fn write_inbound(key: &FlowKey, translated: &Endpoint, target: &PortTarget)
        -> Result<(), DropReason> = inbound::write;
    /// See [`inbound::is_taken`].
    fn is_taken(egress: &FlowKey, ingress: &FlowKey, target: &PortTarget) -> bool
        = inbound::is_taken;
    /// See [`hairpin::is_door`].
    fn is_door(frame: &Frame, transport: &Transport) -> bool = hairpin::is_door;

    /// See [`fragments::follow`].
    fn follow_first(frame: &Frame, slot: u32, word: AttachmentWord, shown: &mut Address)
        -> Result<(), DropReason> = fragments::follow;
    /// See [`fragments::arrived_at`].
    fn arrived_at(frame: &Frame, receiver: &mut Receiver) -> bool = fragments::arrived_at;
    /// See [`fragments::remember`].
    fn remember_first(key: &FlowKey, slot: u32, epoch: u32, shown: &Address)
        -> Result<(), DropReason> = fragments::remember;

    /// See [`rewrite::source`].
    fn rewrite_source(skb: Skb, frame: &Frame, transport: &Transport, to: &Endpoint, ttl: u8)
        -> Result<(), DropReason> = rewrite::source;
    /// See [`rewrite::ip_source`].
    fn rewrite_ip_source(skb: Skb, frame: &Frame, to: &Address, ttl: u8) -> Result<(), DropReason>
        = rewrite::ip_source;
    /// See [`rewrite::error_source`].
    fn rewrite_error_source(skb: Skb, frame: &Frame, to: &Address, ttl: u8)
        -> Result<(), DropReason> = rewrite::error_source;
    /// See [`rewrite::destination`].
    fn rewrite_destination(skb: Skb, frame: &Frame, transport: &Transport, to: &Endpoint)
        -> Result<(), DropReason> = rewrite::destination;
    /// See [`rewrite::quoted_source`].
    fn rewrite_quoted_source(skb: Skb, frame: &Frame, quote: &Quote, to: &Endpoint)
        -> Result<(), DropReason> = rewrite::quoted_source;
    /// See [`rewrite::quoted_destination`].
    fn rewrite_quoted_destination(skb: Skb, frame: &Frame, quote: &Quote, to: &Endpoint)
        -> Result<(), DropReason> = rewrite::quoted_destination;

    /// See [`clone::leave`].
    fn leave_clone(skb: Skb, frame: &mut Frame, slot: u32) -> Result<(), DropReason> = clone::leave;
    /// See [`clone::enter`].
    fn enter_clone(skb: Skb, frame: &Frame, slot: u32) -> Result<(), DropReason> = clone::enter;

    /// See [`policy::ruling`].
    fn ruling(policy: u32, address: &Address, protocol: u8, port: u16) -> Ruling = policy::ruling;
    /// See [`policy::check_between`].
    fn check_between(skb: Skb, frame: &Frame, sender: &Holder, receiver: &Holder, is_stranger: bool)
        -> Result<(), DropReason> = policy::check_between;
    /// See [`policy::check_peer`].
    fn check_peer(skb: Skb, frame: &Frame, sender: &Holder, is_closed: bool)
        -> Result<(), DropReason> = policy::check_peer;
    /// See [`policy::check_peer_of`].
    fn check_peer_of(receiver: &Holder, ingress: &FlowKey, standing: Standing, is_closed: bool)
        -> Result<(), DropReason> = policy::check_peer_of;
    /// See [`policy::check_public_port`].
    fn check_public_port(slot: u32, word: AttachmentWord, address: &Address, protocol: u8, port: u16)
        -> Result<(), DropReason> = policy::check_public_port;
    /// See [`policy::host_ruling`].
    fn host_ruling(slot: u32, word: AttachmentWord, is_v4: bool, protocol: u8, port: u16) -> Ruling
        = policy::host_ruling;

    /// See [`names::walk_over_label`].
    fn walk_name(skb: Skb) -> bool = names::walk_over_label;
    /// See [`names::find_next_name`].
    fn find_name(skb: Skb) -> bool = names::find_next_name;
    /// See [`names::read_next_record`].
    fn read_answer(skb: Skb) -> bool = names::read_next_record;
    /// See [`names::learn`].
    fn learn_names(skb: Skb, transport_offset: u32, learner: &Holder) -> () = names::learn;
    /// See [`names::allow`].
    fn name_allows(learner: &Holder, address: &Address, protocol: u8, port: u16, is_open: bool)
        -> bool = names::allow;

    /// See [`host::route`].
    fn find_route(skb: Skb, frame: &Frame, source: &Address, place: &mut u32)
        -> Result<bool, DropReason> = host::find_route;
    /// See [`host::exceeds`].
    fn exceeds(skb: Skb, ifindex: u32, mtu: u32) -> bool = host::exceeds;
    /// See [`host::has_socket`].
    fn has_socket(skb: Skb, ingress: &FlowKey) -> bool = host::has_socket;

    /// See [`Connection::goes_on`].
    fn connection_goes_on(connection: &mut Connection, transport: &Transport)
        -> Result<bool, DropReason> = Connection::goes_on;
    /// See [`Connection::open_as`].
    fn open_connection(connection: &mut Connection, skb: Skb, address: &Address, transport: &Transport)
        -> Result<(), DropReason> = Connection::open_as;
    /// See [`Connection::open_as_is`].
    fn open_connection_as_is(connection: &mut Connection, transport: &Transport)
        -> Result<(), DropReason> = Connection::open_as_is;
    /// See [`Connection::write_egress`].
    fn write_egress(connection: &Connection) -> Result<(), DropReason> = Connection::write_egress;
    /// See [`ports::claim`].
    fn claim_port(key: &FlowKey, entry: &mut SealedFlow, late: bool) -> Result<bool, DropReason>
        = ports::claim;
    /// See [`flows::seal`].
    fn seal_flow(key: &FlowKey, entry: &mut SealedFlow) -> () = flows::seal;
    /// See [`flows::write`].
    fn write_flow(key: &FlowKey, entry: &mut SealedFlow) -> Result<(), DropReason> = flows::write;
    /// See [`quota::take`].
    fn take_entries(slot: u32, epoch: u32, entries: u32) -> Result<(), DropReason> = quota::take;
    /// See [`quota::give_back`].
    fn give_back_entries(slot: u32, epoch: u32, entries: u32) -> () = quota::give_back;
    /// See [`collect::collect_flow`].
    fn collect_flow(dead: &DeadFlow) -> bool = collect::collect_flow;
    /// See [`ports::is_quoted_shown`].
    fn is_quoted_shown(slot: u32, word: AttachmentWord, frame: &Frame, quote: &Quote) -> bool
        = ports::is_quoted_shown;

    /// See [`limits::take`].
    fn take(skb: Skb, frame: &Frame, slot: u32, word: AttachmentWord, is_up: bool) -> bool
        = limits::take;
    /// See [`limits::take_from`].
    fn take_from(full_at: &mut u64, price: &Price, now: u64) -> bool = limits::take_from;

    /// See [`drops::count_and_sample`].
    fn count_drop(skb: Skb, hop: u32, slot: u32, reason: u32) -> () = drops::count_and_sample;

    /// See [`from_host::from_own_stack`].
    fn from_own_stack(skb: Skb, frame: &Frame, receiver: &Holder) -> Result<(), DropReason>
        = from_host::from_own_stack;
    /// See [`arrival::translate`].
    fn translate_arrival(skb: Skb, frame: &Frame, receiver: &mut Receiver) -> Result<bool, DropReason>
        = arrival::translate::<Elsewhere>;
    /// See [`arrival::follow`].
    fn follow_arrival(skb: Skb, frame: &Frame, transport: &Transport, receiver: &mut Receiver)
        -> Result<bool, DropReason> = arrival::follow;
    /// See [`inbound::enter`].
    fn enter(frame: &Frame, transport: &Transport, receiver: &mut Receiver)
        -> Result<bool, DropReason> = inbound::enter;
    /// See [`inbound::open`].
    fn open_inbound(target: &PortTarget, receiver: &mut Receiver) -> Result<(), DropReason>
        = inbound::open;
    /// See [`arrival::translate_error`].
    fn translate_error(skb: Skb, frame: &Frame, quote: &Quote, receiver: &mut Receiver)
        -> Result<bool, DropReason> = arrival::translate_error;
}

/// How an argument crosses.
trait Argument: Sized {
    /// What the kernel takes: a number, or a pointer to something of a known size.
    type Raw;

    fn pass(self) -> Self::Raw;

    /// The argument. The verifier takes it that any pointer may be null.
    ///
    /// # Safety
    /// `raw` is what [`pass`](Self::pass) made, and lives as long as the argument did.
    unsafe fn receive(raw: Self::Raw) -> Option<Self>;
}

impl Argument for Skb {
    type Raw = *mut __sk_buff;

    #[inline(always)]
    fn pass(self) -> Self::Raw {
        self.raw()
    }

    #[inline(always)]
    unsafe fn receive(raw: Self::Raw) -> Option<Self> {
        Some(Self::of_raw(raw))
    }
}

impl<T> Argument for &T {
    type Raw = *const T;

    #[inline(always)]
    fn pass(self) -> Self::Raw {
        self
    }

    #[inline(always)]
    unsafe fn receive(raw: Self::Raw) -> Option<Self> {
        // SAFETY: the caller vouches for it.
        unsafe { raw.as_ref() }
    }
}

impl<T> Argument for &mut T {
    type Raw = *mut T;

    #[inline(always)]
    fn pass(self) -> Self::Raw {
        self
    }

    #[inline(always)]
    unsafe fn receive(raw: Self::Raw) -> Option<Self> {
        // SAFETY: the caller vouches for it.
        unsafe { raw.as_mut() }
    }
}

/// Numbers.
macro_rules! numbers {
    ($($kind:ty as $raw:ty: $pass:expr, $receive:expr;)*) => {$(
        impl Argument for $kind {
            type Raw = $raw;

            #[inline(always)]
            fn pass(self) -> Self::Raw {
                $pass(self)
            }

            #[inline(always)]
            unsafe fn receive(raw: Self::Raw) -> Option<Self> {
                Some($receive(raw))
            }
        }
    )*};
}

numbers! {
    u8 as u32: u32::from, |raw| raw as u8;
    u16 as u32: u32::from, |raw| raw as u16;
    u32 as u32: |number| number, |raw| raw;
    u64 as u64: |number| number, |raw| raw;
    bool as u32: u32::from, |raw| raw != 0;
    AttachmentWord as u64: |word: AttachmentWord| word.0, AttachmentWord;
    Standing as u64: Outcome::number, Outcome::of;
}

/// How what is returned crosses: as a number, of which the caller knows nothing else.
trait Outcome: Sized {
    /// For arguments that nobody passes.
    const NEVER: u64 = 0;

    fn number(self) -> u64;
    fn of(number: u64) -> Self;
}

impl Outcome for () {
    #[inline(always)]
    fn number(self) -> u64 {
        0
    }

    #[inline(always)]
    fn of(_: u64) {}
}

impl Outcome for bool {
    #[inline(always)]
    fn number(self) -> u64 {
        self.into()
    }

    #[inline(always)]
    fn of(number: u64) -> Self {
        number != 0
    }
}

/// Reasons follow what means that all is well.
impl Outcome for Result<(), DropReason> {
    const NEVER: u64 = 1 + DropReason::NotConfigured as u64;

    #[inline(always)]
    fn number(self) -> u64 {
        match self {
            Ok(()) => 0,
            Err(reason) => 1 + reason as u64,
        }
    }

    #[inline(always)]
    fn of(number: u64) -> Self {
        match number {
            0 => Ok(()),
            _ => Err(reason(number - 1)),
        }
    }
}

impl Outcome for Result<bool, DropReason> {
    const NEVER: u64 = 2 + DropReason::NotConfigured as u64;

    #[inline(always)]
    fn number(self) -> u64 {
        match self {
            Ok(is_so) => is_so.into(),
            Err(reason) => 2 + reason as u64,
        }
    }

    #[inline(always)]
    fn of(number: u64) -> Self {
        match number {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(reason(number - 2)),
        }
    }
}

#[inline(always)]
fn reason(number: u64) -> DropReason {
    if number >= u64::from(DropReason::COUNT) {
        return DropReason::NotConfigured;
    }
    // SAFETY: the reasons are the numbers below `COUNT`.
    unsafe { core::mem::transmute::<u32, DropReason>(number as u32) }
}

impl Outcome for Ruling {
    #[inline(always)]
    fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Allow => 1,
            Self::Close => 2,
            Self::Deny => 3,
        }
    }

    #[inline(always)]
    fn of(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Allow,
            2 => Self::Close,
            _ => Self::Deny,
        }
    }
}

impl Outcome for Standing {
    #[inline(always)]
    fn number(self) -> u64 {
        match self {
            Self::New => 0,
            Self::Outbound => 1,
            Self::Inbound => 2,
        }
    }

    #[inline(always)]
    fn of(number: u64) -> Self {
        match number {
            1 => Self::Outbound,
            2 => Self::Inbound,
            _ => Self::New,
        }
    }
}

//! Addresses that slots learn for the names their policy allows, from DNS answers on the way to them:
//! the address is known before the slot has seen the answer.
#![expect(unsafe_code, reason = "calls kernel helpers, three with a callback")]

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_loop};
use pcpm_ebpf::{
    abi::{Learned, LearnedKey, LearnedName, NAME_LABELS, NAMES_PER_ADDRESS, name_kind},
    address::Address,
    dns::{self, ANSWER_STEPS, Answers, Question, Record, Suffixes, Walk, expiry_ns},
    packet::{Transport, TransportKind, UDP_HEADER_LENGTH},
    policy::Ruling,
};

use crate::{
    flows::now_ns,
    global,
    maps::{self, DOMAIN_NAMES, LEARNED},
    policy::Holder,
    skb::Skb,
};

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// Whether a packet on its way to `learner` may teach it something.
#[inline(always)]
pub(crate) fn tells(transport: &Transport, learner: &Holder) -> bool {
    transport.kind == TransportKind::Udp
        && transport.source_port == dns::PORT
        && learner.granted.learns_names()
}

/// Learns from the UDP datagram whose header is at `transport_offset`. What is not understood teaches
/// nothing, and passes all the same.
#[inline(always)]
pub(crate) fn learn(skb: Skb, transport_offset: u32, learner: &Holder) {
    let Some(question) = Question::parse(&skb, transport_offset + UDP_HEADER_LENGTH) else {
        return;
    };
    let mut reading = Reading {
        skb,
        learner: *learner,
        suffixes: question.suffixes(),
        answers: question.answers(),
        question,
        name: 0,
        kind: name_kind::EXACT,
        is_whole: false,
        now: now_ns(),
    };
    reading.repeat(NAME_LABELS + 1, walk_name);
    if !reading.is_whole {
        return;
    }
    reading.suffixes = reading.question.suffixes();
    reading.answers = reading.question.answers();
    reading.repeat(NAME_LABELS, find_name);
    if reading.name != 0 {
        reading.repeat(ANSWER_STEPS, read_answer);
    }
}

/// Whether a slot may open a connection to an address that it learned for a name, or (`is_open`) keep
/// one that it has.
#[inline(always)]
pub(crate) fn allow(
    learner: &Holder,
    address: &Address,
    protocol: u8,
    port: u16,
    is_open: bool,
) -> bool {
    let key = LearnedKey {
        slot: learner.slot,
        epoch: learner.word.epoch(),
        address: *address,
    };
    let Some(learned) = LEARNED.get_ptr(key) else {
        return false;
    };
    let now = now_ns();
    for index in 0..NAMES_PER_ADDRESS {
        // SAFETY: the element is valid until the program ends. If it has become another one, the name
        // is one that this attachment's policy has none of, or allows for this address, too.
        let known = unsafe { (&raw const (*learned).names[index]).read_volatile() };
        if known.name != 0
            && (is_open || now < known.expires_ns)
            && global::ruling(
                learner.granted.policy(),
                &Address::of_name(known.name),
                protocol,
                port,
            ) == Ruling::Allow
        {
            return true;
        }
    }
    false
}

/// A DNS answer while it is read.
struct Reading {
    skb: Skb,
    learner: Holder,
    question: Question,
    suffixes: Suffixes,
    answers: Answers,
    /// The number of the name that the policy allows, 0 until it is found.
    name: u32,
    /// What kind of name is looked for next.
    kind: u32,
    /// Whether the question was read to its end.
    is_whole: bool,
    now: u64,
}

impl Reading {
    /// Has `step` called until it says to stop, at most `most` times. The helper (5.17) has the verifier
    /// follow one round instead of all of them.
    #[inline(always)]
    fn repeat(&mut self, most: u32, step: extern "C" fn(u64, *mut c_void) -> i64) {
        let context = (&raw mut *self).cast();
        // SAFETY: `step` has the signature that the helper calls, and `self` outlives it.
        unsafe { bpf_loop(most, step as *mut c_void, context, 0) };
    }

    /// Looks for the name that the suffixes stand at.
    #[inline(always)]
    fn look_up(&mut self) -> Option<u32> {
        let key = maps::scratch_name()?;
        // SAFETY: the element is this CPU's own, and a tc program is not preempted by another.
        let key = unsafe { &mut *key };
        key.policy = self.learner.granted.policy();
        key.kind = self.kind;
        if !self.suffixes.load(&self.skb, &mut key.name) {
            return None;
        }
        // SAFETY: the element is valid until the program ends; numbers are written as whole words.
        DOMAIN_NAMES
            .get_ptr(&*key)
            .map(|number| unsafe { number.read_volatile() })
    }

    #[inline(always)]
    fn note(&self, record: &Record) {
        let key = LearnedKey {
            slot: self.learner.slot,
            epoch: self.learner.word.epoch(),
            address: record.address,
        };
        let expires_ns = expiry_ns(self.now, record.ttl);
        match LEARNED.get_ptr_mut(&key) {
            // SAFETY: the element is valid until the program ends. Another CPU may note another name
            // at the same time; one of the two may be lost, and is learned with the next answer.
            Some(learned) => unsafe { renew(&mut *learned, self.name, expires_ns) },
            None => {
                let mut learned = Learned::default();
                learned.names[0] = LearnedName::default().renewed(self.name, expires_ns);
                let _ = LEARNED.insert(&key, &learned, u64::from(BPF_ANY));
            }
        }
    }
}

#[inline(always)]
fn renew(learned: &mut Learned, name: u32, expires_ns: u64) {
    let place = learned.place_for(name);
    for index in 0..NAMES_PER_ADDRESS {
        if index == place {
            learned.names[index] = learned.names[index].renewed(name, expires_ns);
        }
    }
}

/// Walks over one label of the question.
extern "C" fn walk_name(_round: u64, reading: *mut c_void) -> i64 {
    // SAFETY: what `Reading::repeat` passed.
    let reading = unsafe { &mut *reading.cast::<Reading>() };
    match reading.question.step(&reading.skb) {
        Walk::On => CONTINUE,
        Walk::End => {
            reading.is_whole = true;
            STOP
        }
        Walk::Refused => STOP,
    }
}

/// Looks for the whole name, then for the names around it.
extern "C" fn find_name(_round: u64, reading: *mut c_void) -> i64 {
    // SAFETY: what `Reading::repeat` passed.
    let reading = unsafe { &mut *reading.cast::<Reading>() };
    if let Some(name) = reading.look_up() {
        reading.name = name;
        return STOP;
    }
    reading.kind = name_kind::BELOW;
    match reading.suffixes.next(&reading.skb) {
        Walk::On => CONTINUE,
        Walk::End | Walk::Refused => STOP,
    }
}

/// Reads a record, or a part of its name.
extern "C" fn read_answer(_round: u64, reading: *mut c_void) -> i64 {
    // SAFETY: what `Reading::repeat` passed.
    let reading = unsafe { &mut *reading.cast::<Reading>() };
    let (walk, record) = reading.answers.step(&reading.skb);
    if let Some(record) = record {
        reading.note(&record);
    }
    match walk {
        Walk::On => CONTINUE,
        Walk::End | Walk::Refused => STOP,
    }
}

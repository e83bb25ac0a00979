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
    quota,
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
    let Ok(reading) = maps::reading() else {
        return;
    };
    reading.learner = *learner;
    reading.question = question;
    reading.name = 0;
    reading.kind = name_kind::EXACT;
    reading.is_whole = false;
    reading.now = now_ns();
    repeat(skb, NAME_LABELS + 1, walk_name);
    if !reading.is_whole {
        return;
    }
    reading.suffixes = reading.question.suffixes();
    reading.answers = reading.question.answers();
    repeat(skb, NAME_LABELS, find_name);
    if reading.name != 0 {
        repeat(skb, ANSWER_STEPS, read_answer);
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
pub(crate) struct Reading {
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
    /// What is noted, in the end.
    key: LearnedKey,
    learned: Learned,
}

impl Reading {
    /// Looks for the name that the suffixes stand at.
    #[inline(always)]
    fn look_up(&self, skb: &Skb) -> Option<u32> {
        let key = maps::scratch_name()?;
        // SAFETY: the element is this CPU's own, and a tc program is not preempted by another.
        let key = unsafe { &mut *key };
        key.policy = self.learner.granted.policy();
        key.kind = self.kind;
        if !self.suffixes.load(skb, &mut key.name) {
            return None;
        }
        // SAFETY: the element is valid until the program ends; numbers are written as whole words.
        DOMAIN_NAMES
            .get_ptr(&*key)
            .map(|number| unsafe { number.read_volatile() })
    }

    #[inline(always)]
    fn note(&mut self, record: &Record) {
        self.key = LearnedKey {
            slot: self.learner.slot,
            epoch: self.learner.word.epoch(),
            address: record.address,
        };
        let expires_ns = expiry_ns(self.now, record.ttl);
        match LEARNED.get_ptr_mut(&self.key) {
            // SAFETY: the element is valid until the program ends. Another CPU may note another name
            // at the same time; one of the two may be lost, and is learned with the next answer.
            Some(learned) => unsafe { renew(&mut *learned, self.name, expires_ns) },
            None if !quota::may_learn(self.key.slot, self.key.epoch, self.now) => {}
            None => {
                self.learned = Learned::default();
                self.learned.names[0] = LearnedName::default().renewed(self.name, expires_ns);
                let _ = LEARNED.insert(&self.key, &self.learned, u64::from(BPF_ANY));
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

/// A step of reading, as the kernel repeats it.
type Step = extern "C" fn(u64, *mut c_void) -> i64;

/// Has `step` called until it says to stop, at most `most` times. The helper (5.17) has the verifier
/// follow one round instead of all of them.
#[inline(always)]
fn repeat(mut skb: Skb, most: u32, step: Step) {
    let context = (&raw mut skb).cast();
    // SAFETY: `step` has the signature that the helper calls, and `skb` outlives it.
    unsafe { bpf_loop(most, step as *mut c_void, context, 0) };
}

extern "C" fn walk_name(_round: u64, skb: *mut c_void) -> i64 {
    // SAFETY: what `repeat` passed.
    go_on_if(global::walk_name(unsafe { *skb.cast() }))
}

extern "C" fn find_name(_round: u64, skb: *mut c_void) -> i64 {
    // SAFETY: what `repeat` passed.
    go_on_if(global::find_name(unsafe { *skb.cast() }))
}

extern "C" fn read_answer(_round: u64, skb: *mut c_void) -> i64 {
    // SAFETY: what `repeat` passed.
    go_on_if(global::read_answer(unsafe { *skb.cast() }))
}

#[inline(always)]
fn go_on_if(there_is_more: bool) -> i64 {
    if there_is_more { CONTINUE } else { STOP }
}

/// Walks over one label of the question, and says whether there is more.
#[inline(always)]
pub(crate) fn walk_over_label(skb: Skb) -> bool {
    let Ok(reading) = maps::reading() else {
        return false;
    };
    let walk = reading.question.step(&skb);
    reading.is_whole = walk == Walk::End;
    walk == Walk::On
}

/// Looks for the whole name, then for the names around it, and says whether there is more to look for.
#[inline(always)]
pub(crate) fn find_next_name(skb: Skb) -> bool {
    let Ok(reading) = maps::reading() else {
        return false;
    };
    if let Some(name) = reading.look_up(&skb) {
        reading.name = name;
        return false;
    }
    reading.kind = name_kind::BELOW;
    reading.suffixes.next(&skb) == Walk::On
}

/// Reads a record, or a part of its name, and says whether there is more.
#[inline(always)]
pub(crate) fn read_next_record(skb: Skb) -> bool {
    let Ok(reading) = maps::reading() else {
        return false;
    };
    let (walk, record) = reading.answers.step(&skb);
    if let Some(record) = record {
        reading.note(&record);
    }
    walk == Walk::On
}

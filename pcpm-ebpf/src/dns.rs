//! DNS answers (RFC 1035), as far as they tell the addresses of a name.
//!
//! Everything goes in steps with a bound, so that a kernel program can have the kernel repeat them.
//! Nothing is followed that points backwards: names of answers are skipped, not read. What a resolver
//! puts into the answer section belongs to the question, through however many aliases.

use crate::abi::{Learned, LearnedName, NAME_BYTES, NAME_LABELS, Name};
use crate::address::Address;
use crate::packet::PacketFields;

/// The port of DNS.
pub const PORT: u16 = 53;
/// Steps in which an answer is read at most: a record takes one and one for each label of its name.
pub const ANSWER_STEPS: u32 = 96;

const HEADER_LENGTH: u32 = 12;
/// A response to a standard query without error: QR, opcode and response code of the header.
const RESPONSE: u16 = 0x8000;
const RESPONSE_MASK: u16 = 0xf80f;
/// Type and class behind the name of a question.
const QUESTION_TAIL: u32 = 4;
/// Type, class, time to live and length of the data behind the name of a record.
const RECORD_HEADER: u32 = 10;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_INTERNET: u16 = 1;
/// The two highest bits of a length byte say that it is the first of a pointer (section 4.1.4).
const POINTER: u8 = 0xc0;

const SECOND_NS: u64 = 1_000_000_000;
/// Applications take their time between asking and connecting, and ask no sooner again.
const SHORTEST_NS: u64 = 30 * SECOND_NS;
/// A name may move, whatever its time to live says.
const LONGEST_NS: u64 = 24 * 3600 * SECOND_NS;

/// Where names are read from.
pub trait NameSource: PacketFields {
    /// Puts the `length` bytes from `offset` on, 1 to [`NAME_BYTES`], into the beginning of `name`. The
    /// rest of `name` is left as it is. Says whether they are all there.
    fn load_name(&self, offset: u32, length: u32, name: &mut Name) -> bool;
}

impl NameSource for [u8] {
    fn load_name(&self, offset: u32, length: u32, name: &mut Name) -> bool {
        let (Ok(offset), Ok(length)) = (usize::try_from(offset), usize::try_from(length)) else {
            return false;
        };
        let end = offset.saturating_add(length);
        match self.get(offset..end) {
            Some(bytes) if length <= NAME_BYTES => {
                let mut octets = name.octets();
                octets[..length].copy_from_slice(bytes);
                *name = Name::of_octets(octets);
                true
            }
            _ => false,
        }
    }
}

impl Name {
    /// No name.
    pub const EMPTY: Self = Self([0; NAME_BYTES / 8]);

    /// The name in dotted notation, if it is one that can be matched: at most [`NAME_LABELS`] labels
    /// and [`NAME_BYTES`] bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut octets = [0; NAME_BYTES];
        let mut used = 0;
        for (index, label) in text.split('.').enumerate() {
            let length = u8::try_from(label.len()).ok()?;
            let fits = matches!(length, 1..=63) && index < NAME_LABELS as usize;
            let place = octets.get_mut(used..=used + label.len())?;
            if !fits {
                return None;
            }
            place[0] = length;
            place[1..].copy_from_slice(label.as_bytes());
            used += place.len();
        }
        let mut name = Self::of_octets(octets);
        name.make_lowercase();
        Some(name)
    }

    fn of_octets(octets: [u8; NAME_BYTES]) -> Self {
        let mut words = [0; NAME_BYTES / 8];
        for (word, octets) in words.iter_mut().zip(octets.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*octets);
        }
        Self(words)
    }

    /// Its bytes.
    pub fn octets(&self) -> [u8; NAME_BYTES] {
        let mut octets = [0; NAME_BYTES];
        for (octets, word) in octets.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *octets = word.to_ne_bytes();
        }
        octets
    }

    /// Makes letters small, eight bytes at a time. Length bytes are none: they are at most 63.
    #[inline(always)]
    pub fn make_lowercase(&mut self) {
        for word in &mut self.0 {
            // One after the other: the compiler would have all of them under way, on a kernel
            // program's stack.
            let word = core::hint::black_box(word);
            *word = lowercase(*word);
        }
    }
}

/// Bit 7 of every byte stays free for the carry that tells whether the byte has reached a letter.
#[inline(always)]
const fn lowercase(word: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let low = word & each(0x7f);
    let from_a = low + each(0x80 - b'A');
    let behind_z = low + each(0x80 - b'Z' - 1);
    let is_upper = (from_a ^ behind_z) & !word & each(0x80);
    word | is_upper >> 2
}

/// The one question of a DNS response, while its name is walked through and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where the name begins.
    start: u32,
    /// Where the label is that is looked at next; in the end, where the root is.
    at: u32,
    /// Labels seen.
    labels: u32,
    answers: u16,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// There is more.
    On,
    /// The end was reached.
    End,
    /// This is no DNS message, or one that is not understood.
    Refused,
}

impl Question {
    /// The question of the message at `offset`, if it is a response without error to one question.
    #[inline(always)]
    pub fn parse(packet: &(impl PacketFields + ?Sized), offset: u32) -> Option<Self> {
        let [_, flags, questions, answers] = packet.fields(offset)?;
        let start = offset + HEADER_LENGTH;
        (flags & RESPONSE_MASK == RESPONSE && questions == 1 && answers > 0).then_some(Self {
            start,
            at: start,
            labels: 0,
            answers,
        })
    }

    /// Looks at one more label of the name. Ends after at most [`NAME_LABELS`] + 1 steps.
    #[inline(always)]
    pub fn step(&mut self, packet: &(impl PacketFields + ?Sized)) -> Walk {
        // Something always follows: at least the type of the question.
        let Some([field]) = packet.fields(self.at) else {
            return Walk::Refused;
        };
        match field.to_be_bytes() {
            [0, _] if self.labels == 0 => Walk::Refused,
            [0, _] => Walk::End,
            [length @ 1..=63, _] if self.labels < NAME_LABELS && self.fits(length) => {
                self.at += 1 + u32::from(length);
                self.labels += 1;
                Walk::On
            }
            _ => Walk::Refused,
        }
    }

    #[inline(always)]
    const fn fits(&self, length: u8) -> bool {
        (self.at - self.start + 1 + length as u32) as usize <= NAME_BYTES
    }

    /// The name after the last step, and then the names around it: one label less each time.
    #[inline(always)]
    pub const fn suffixes(&self) -> Suffixes {
        Suffixes {
            at: self.start,
            end: self.at,
        }
    }

    /// The answers behind the question, after the last step.
    #[inline(always)]
    pub const fn answers(&self) -> Answers {
        Answers {
            at: self.at + 1 + QUESTION_TAIL,
            left: self.answers,
        }
    }
}

/// A name and the names around it: `a.example.com`, `example.com`, `com`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suffixes {
    at: u32,
    end: u32,
}

impl Suffixes {
    /// Reads it into `name`, as [`Name`]s are compared.
    #[inline(always)]
    pub fn load(&self, packet: &(impl NameSource + ?Sized), name: &mut Name) -> bool {
        *name = Name::EMPTY;
        let length = self.end - self.at;
        if !packet.load_name(self.at, length, name) {
            return false;
        }
        name.make_lowercase();
        true
    }

    /// Goes on to the next one, if there is one.
    #[inline(always)]
    pub fn next(&mut self, packet: &(impl PacketFields + ?Sized)) -> Walk {
        let Some([field]) = packet.fields(self.at) else {
            return Walk::Refused;
        };
        let [length, _] = field.to_be_bytes();
        self.at += 1 + u32::from(length);
        if self.at < self.end {
            Walk::On
        } else {
            Walk::End
        }
    }
}

/// An address that an answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The address.
    pub address: Address,
    /// How long it may be used, in seconds.
    pub ttl: u32,
}

/// The answers of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    at: u32,
    left: u16,
}

impl Answers {
    /// Skips one label of the next record's name or reads the record, which may tell an address.
    #[inline(always)]
    pub fn step(&mut self, packet: &(impl PacketFields + ?Sized)) -> (Walk, Option<Record>) {
        if self.left == 0 {
            return (Walk::End, None);
        }
        let Some([field]) = packet.fields(self.at) else {
            return (Walk::Refused, None);
        };
        match field.to_be_bytes() {
            [0, _] => self.record(packet, self.at + 1),
            [POINTER..=0xff, _] => self.record(packet, self.at + 2),
            [length @ 1..=63, _] => {
                self.at += 1 + u32::from(length);
                (Walk::On, None)
            }
            _ => (Walk::Refused, None),
        }
    }

    #[inline(always)]
    fn record(
        &mut self,
        packet: &(impl PacketFields + ?Sized),
        header: u32,
    ) -> (Walk, Option<Record>) {
        let Some([kind, class, ttl_high, ttl_low, length]) = packet.fields(header) else {
            return (Walk::Refused, None);
        };
        let content = header + RECORD_HEADER;
        self.at = content + u32::from(length);
        self.left -= 1;
        let address = match (class, kind, length) {
            (CLASS_INTERNET, TYPE_A, 4) => v4(packet, content),
            (CLASS_INTERNET, TYPE_AAAA, 16) => v6(packet, content),
            _ => return (Walk::On, None),
        };
        let ttl = u32::from(ttl_high) << 16 | u32::from(ttl_low);
        match address {
            Some(address) => (Walk::On, Some(Record { address, ttl })),
            None => (Walk::Refused, None),
        }
    }
}

#[inline(always)]
fn v4(packet: &(impl PacketFields + ?Sized), offset: u32) -> Option<Address> {
    let [high, low] = packet.fields(offset)?;
    Some(Address::v4(word(high, low)))
}

#[inline(always)]
fn v6(packet: &(impl PacketFields + ?Sized), offset: u32) -> Option<Address> {
    let fields = packet.fields::<8>(offset)?;
    Some(Address([
        word(fields[0], fields[1]).to_be(),
        word(fields[2], fields[3]).to_be(),
        word(fields[4], fields[5]).to_be(),
        word(fields[6], fields[7]).to_be(),
    ]))
}

#[inline(always)]
const fn word(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

/// When an address that was told with `ttl` at `now_ns` stops to open connections.
#[inline(always)]
pub const fn expiry_ns(now_ns: u64, ttl: u32) -> u64 {
    // RFC 2181, section 8: one with the highest bit set counts as zero.
    let told = if ttl >> 31 == 0 {
        ttl as u64 * SECOND_NS
    } else {
        0
    };
    now_ns
        + match told {
            ..SHORTEST_NS => SHORTEST_NS,
            LONGEST_NS.. => LONGEST_NS,
            _ => told,
        }
}

impl Learned {
    /// Where to note `name`: where it stands, else where nothing or the one that expires first does.
    #[inline(always)]
    pub fn place_for(&self, name: u32) -> usize {
        let mut place = 0;
        for (index, known) in self.names.iter().enumerate() {
            if known.name == name {
                return index;
            }
            if known.expires_ns < self.names[place].expires_ns {
                place = index;
            }
        }
        place
    }
}

impl LearnedName {
    /// What to note of `name`, which stood as `self`: an answer never takes time away.
    #[inline(always)]
    #[must_use]
    pub const fn renewed(&self, name: u32, expires_ns: u64) -> Self {
        let keeps = self.name == name && self.expires_ns > expires_ns;
        Self {
            name,
            padding: 0,
            expires_ns: if keeps { self.expires_ns } else { expires_ns },
        }
    }
}

impl Address {
    /// Where the rules for the name with this number stand in the policy table: among addresses that
    /// no packet has (multicast of a scope that is reserved, RFC 4291, section 2.7).
    #[inline(always)]
    pub const fn of_name(name: u32) -> Self {
        Self([0xffff_ffff, 0, 0, name])
    }
}

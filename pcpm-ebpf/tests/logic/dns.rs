//! DNS answers: which name was asked for, and which addresses were told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pcpm_ebpf::abi::{Learned, NAME_BYTES, NAME_LABELS, NAMES_PER_ADDRESS, Name};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::dns::{ANSWER_STEPS, Question, Record, Walk, expiry_ns};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

/// The name and those around it, and the addresses, as the kernel programs read them.
type Told = (Vec<Name>, Vec<Record>);

fn read(message: &[u8]) -> Option<Told> {
    let mut question = Question::parse(message, 0)?;
    let mut steps = 0;
    loop {
        match question.step(message) {
            Walk::On => steps += 1,
            Walk::End => break,
            Walk::Refused => return None,
        }
    }
    assert!(steps <= NAME_LABELS);
    Some((names(message, &question)?, addresses(message, &question)))
}

fn names(message: &[u8], question: &Question) -> Option<Vec<Name>> {
    let (mut suffixes, mut names) = (question.suffixes(), Vec::new());
    loop {
        let mut name = Name([!0; NAME_BYTES / 8]);
        if !suffixes.load(message, &mut name) {
            return None;
        }
        names.push(name);
        if suffixes.next(message) != Walk::On {
            return Some(names);
        }
    }
}

fn addresses(message: &[u8], question: &Question) -> Vec<Record> {
    let mut answers = question.answers();
    let steps = (0..ANSWER_STEPS).map_while(|_| match answers.step(message) {
        (Walk::On, record) => Some(record),
        _ => None,
    });
    steps.flatten().collect()
}

fn wire_name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// What stands in front of the data of a record: its name points back to the question.
const POINTER: [u8; 2] = [0xc0, 12];

fn record(name: &[u8], kind: u16, ttl: u32, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short");
    let mut bytes = name.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(content);
    bytes
}

fn a_record(ttl: u32, address: Ipv4Addr) -> Vec<u8> {
    record(&POINTER, 1, ttl, &address.octets())
}

fn aaaa_record(ttl: u32, address: Ipv6Addr) -> Vec<u8> {
    record(&POINTER, 28, ttl, &address.octets())
}

fn response(name: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).expect("few");
    let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1];
    bytes.extend(count.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(wire_name(name));
    bytes.extend([0, 1, 0, 1]);
    bytes.extend(records.concat());
    bytes
}

fn told(address: impl Into<IpAddr>, ttl: u32) -> Record {
    Record {
        address: Address::from(address.into()),
        ttl,
    }
}

#[test]
fn the_name_is_read_with_all_names_around_it_in_lower_case() {
    let message = response("API.eXample.com", &[a_record(60, Ipv4Addr::LOCALHOST)]);
    let (names, _) = read(&message).expect("an answer");
    let expected = ["api.example.com", "example.com", "com"].map(|name| Name::parse(name).unwrap());
    assert_eq!(names, expected);
}

#[test]
fn all_addresses_behind_an_alias_are_told() {
    let (first, second) = (Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(198, 51, 100, 1));
    let third: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let message = response(
        "www.example.com",
        &[
            record(&POINTER, 5, 300, &wire_name("edge.example.net")),
            record(&wire_name("edge.example.net"), 1, 20, &first.octets()),
            record(&[4, b'e', b'd', b'g', b'e', 0xc0, 16], 46, 20, &[0; 90]),
            a_record(30, second),
            aaaa_record(70_000, third),
        ],
    );
    let (_, addresses) = read(&message).expect("an answer");
    assert_eq!(
        addresses,
        [told(first, 20), told(second, 30), told(third, 70_000)]
    );
}

#[test]
fn only_a_good_response_to_one_question_is_read() {
    let good = response("a.example", &[a_record(60, Ipv4Addr::LOCALHOST)]);
    assert!(read(&good).is_some());
    let changes: [(usize, u8, &str); 6] = [
        (2, 0x01, "a query"),
        (2, 0xa0, "another operation"),
        (3, 0x83, "an error"),
        (5, 0, "no question"),
        (5, 2, "two questions"),
        (7, 0, "no answer"),
    ];
    for (at, byte, what) in changes {
        let mut message = good.clone();
        message[at] = byte;
        assert_eq!(read(&message), None, "{what}");
    }
}

#[test]
fn names_that_cannot_be_matched_are_refused() {
    let label = "x".repeat(63);
    let fits = format!("{label}.{}", "y".repeat(62));
    let too_long = format!("{label}.{}y", "y".repeat(63));
    let deepest = vec!["d"; NAME_LABELS as usize].join(".");
    let too_deep = format!("{deepest}.d");
    let answer = [a_record(60, Ipv4Addr::LOCALHOST)];
    for good in [&fits, &deepest] {
        let (names, _) = read(&response(good, &answer)).expect("an answer");
        assert_eq!(Some(names[0]), Name::parse(good));
    }
    for bad in [&too_long, &too_deep] {
        assert_eq!(Name::parse(bad), None, "{bad}");
        assert_eq!(read(&response(bad, &answer)), None, "{bad}");
    }
    for bad in ["", ".", "a..b", "a."] {
        assert_eq!(Name::parse(bad), None, "{bad}");
    }
}

#[test]
fn an_answer_counts_for_half_a_minute_to_a_day() {
    let cases = [
        (0, 30),
        (30, 30),
        (31, 31),
        (3600, 3600),
        (700_000, 86_400),
        (0x7fff_ffff, 86_400),
        (0x8000_0000, 30),
    ];
    for (ttl, seconds) in cases {
        assert_eq!(expiry_ns(5, ttl), 5 + seconds * SECOND_NS, "{ttl}");
    }
}

#[test]
fn a_name_keeps_its_place_and_the_one_that_expires_first_gives_way() {
    let mut learned = Learned::default();
    let mut note = |name: u32, expires_ns: u64| {
        let place = learned.place_for(name);
        learned.names[place] = learned.names[place].renewed(name, expires_ns);
        learned.names.map(|known| (known.name, known.expires_ns))
    };
    for name in 1..=4 {
        note(name, 100 + u64::from(name));
    }
    assert_eq!(
        note(2, 90),
        [(1, 101), (2, 102), (3, 103), (4, 104)],
        "never earlier"
    );
    assert_eq!(note(1, 200), [(1, 200), (2, 102), (3, 103), (4, 104)]);
    assert_eq!(note(5, 150), [(1, 200), (5, 150), (3, 103), (4, 104)]);
    const { assert!(NAMES_PER_ADDRESS == 4) };
}

fn domain_name() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-zA-Z0-9_-]{1,12}", 1..9).prop_map(|labels| labels.join("."))
}

proptest! {
    #[test]
    fn any_byte_string_is_read_or_refused(message in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&message);
    }

    #[test]
    fn any_bytes_behind_a_header_are_read_or_refused(
        rest in prop::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..300),
        answers in 1_u8..40,
    ) {
        let mut message = vec![0, 0, 0x80, 0, 0, 1, 0, answers, 0, 0, 0, 0];
        message.extend(rest);
        read(&message);
    }

    #[test]
    fn what_was_written_is_read(
        name in domain_name(),
        records in prop::collection::vec((any::<u32>(), any::<IpAddr>()), 1..30),
    ) {
        let written: Vec<_> = records
            .iter()
            .map(|&(ttl, address)| match address {
                IpAddr::V4(address) => a_record(ttl, address),
                IpAddr::V6(address) => aaaa_record(ttl, address),
            })
            .collect();
        let (names, addresses) = read(&response(&name, &written)).expect("an answer");
        prop_assert_eq!(Some(names[0]), Name::parse(&name));
        prop_assert_eq!(names.len(), name.split('.').count());
        let expected: Vec<_> = records.iter().map(|&(ttl, address)| told(address, ttl)).collect();
        prop_assert_eq!(addresses, expected);
    }

    #[test]
    fn a_message_that_ends_early_tells_no_more(name in domain_name(), cut in 0_usize..120) {
        let records: Vec<_> = (0..8).map(|i| a_record(i, Ipv4Addr::from_bits(i))).collect();
        let whole = response(&name, &records);
        let all = read(&whole).expect("an answer").1;
        let kept = &whole[..whole.len().saturating_sub(cut)];
        if let Some((_, some)) = read(kept) {
            prop_assert!(all.starts_with(&some));
        }
    }

    #[test]
    fn names_are_equal_if_their_text_is_but_for_case(a in "[a-bA-B@\\[`{]{1,3}", b in "[a-bA-B@\\[`{]{1,3}") {
        let same = a.eq_ignore_ascii_case(&b);
        prop_assert_eq!(Name::parse(&a) == Name::parse(&b), same);
    }
}

//! The journal against what it was told, with every failure at every place.

use std::rc::Rc;

use nix::errno::Errno;
use pcpm_api::types::{Lease, Source};
use proptest::prelude::*;

use super::{
    fake::{Fault, MemoryStorage},
    record::{Attached, Kept, Ready, Started, Updated},
    *,
};
use crate::{
    net::Share,
    pool::{Holder, SlotIndex, default_class},
};

const SLOTS: SlotIndex = 6;

fn identity() -> Identity {
    Identity {
        boot: "3f3c".into(),
        netns: 7,
    }
}

fn open(storage: &MemoryStorage) -> Opened {
    storage.open()
}

fn ready(slot: SlotIndex, epoch: u32) -> Record {
    Record::Ready(Ready {
        slot,
        epoch,
        class: default_class(),
        mtu: 1500,
        share: Share::default(),
        counters: [0; 5],
    })
}

fn kept(slot: SlotIndex, epoch: u32) -> Record {
    let Record::Ready(slot) = ready(slot, epoch) else {
        unreachable!("it was just made");
    };
    let tenant = "t".to_owned();
    Record::Kept(Kept { slot, tenant })
}

fn holder(owner: &str) -> Rc<Holder> {
    Rc::new(Holder {
        owner: owner.into(),
        tenant: "t".into(),
        class: default_class(),
        labels: [("with".into(), "a\nline\u{2028}".into())].into(),
        lease: Lease::Explicit,
        process: None,
        uid: 1000,
        by_administrator: false,
        options: serde_json::from_str(r#"{"publish": ["tcp:80:80"], "rate_up": 8000}"#).unwrap(),
        terms: None,
    })
}

fn attached(slot: SlotIndex, epoch: u32, owner: &str) -> Record {
    Record::Attached(Attached {
        slot,
        epoch,
        life: 5,
        tenant: 3,
        policy: epoch,
        last_name: slot,
        source: Source::Warm,
        took_us: 9,
        attached_at_ms: 1,
        holder: holder(owner),
    })
}

fn updated(slot: SlotIndex, epoch: u32, owner: &str) -> Record {
    Record::Updated(Updated {
        slot,
        epoch,
        policy: 100 + epoch,
        last_name: 0,
        holder: holder(owner),
    })
}

/// Records as a daemon would write them: what happens to slots, one after the other.
fn plausible(choices: &[(SlotIndex, u8)]) -> Vec<Record> {
    let mut slots = [(0_u32, 0_u8); SLOTS as usize];
    let mut records = vec![Record::Started(Started {
        life: 4,
        ..Started::default()
    })];
    for &(slot, choice) in choices {
        let (epoch, state) = &mut slots[slot as usize];
        let (record, next) = match (*state, choice % 4) {
            (0, 1) if *epoch > 0 => (kept(slot, *epoch), 1),
            (0, _) => (ready(slot, *epoch), 1),
            (1, 0) => (
                Record::Retiring {
                    slot,
                    epoch: *epoch,
                },
                0,
            ),
            (1, _) => {
                *epoch += 1;
                (attached(slot, *epoch, &format!("o{slot}-{epoch}")), 2)
            }
            (_, 0 | 1) => (updated(slot, *epoch, &format!("u{slot}-{epoch}")), 2),
            _ => (
                Record::Detached {
                    slot,
                    epoch: *epoch,
                },
                0,
            ),
        };
        *state = next;
        records.push(record);
    }
    records
}

/// The history after each number of records.
fn histories(records: &[Record]) -> Vec<History> {
    let mut history = History::default();
    let mut all = vec![history.clone()];
    for record in records {
        history.apply(record.clone());
        all.push(history.clone());
    }
    all
}

fn written(records: &[Record]) -> MemoryStorage {
    let storage = MemoryStorage::default();
    let mut journal = open(&storage).journal;
    for record in records {
        journal.write(record).unwrap();
    }
    storage
}

fn some_records() -> Vec<Record> {
    let choices: Vec<_> = (0..60).map(|n| (n * 5 % SLOTS, (n % 7) as u8)).collect();
    plausible(&choices)
}

fn choices(most: usize) -> impl Strategy<Value = Vec<(SlotIndex, u8)>> {
    proptest::collection::vec((0..SLOTS, any::<u8>()), 0..most)
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(choices in choices(80)) {
        let records = plausible(&choices);
        let opened = open(&written(&records));
        prop_assert_eq!(Some(opened.history), histories(&records).pop());
        prop_assert_eq!(opened.findings, []);
    }

    #[test]
    fn compact_records_come_to_the_same_history(choices in choices(80)) {
        let records = plausible(&choices);
        let history = histories(&records).pop().unwrap();
        let again: Vec<_> = history.records().collect();
        prop_assert_eq!(histories(&again).pop().unwrap(), history);
    }

    #[test]
    fn what_was_written_whole_is_read_again_wherever_the_file_ends_and_whatever_follows(
        choices in choices(40), at in any::<proptest::sample::Index>(),
        junk in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let records = plausible(&choices);
        let intact = written(&records).content(NAME).unwrap();
        let mut bytes = intact[..at.index(intact.len() + 1)].to_vec();
        bytes.extend(junk);
        // What follows may be what was cut off, for a byte or two.
        let same = bytes.iter().zip(&intact).take_while(|(now, before)| now == before);
        let same = same.count();
        let lines = |bytes: &[u8]| bytes.split(|&byte| byte == b'\n').count() - 1;
        let head = lines(&written(&[]).content(NAME).unwrap());
        let whole = lines(&intact[..same]).saturating_sub(head);
        let cut = MemoryStorage::with(NAME, &bytes);
        let mut opened = open(&cut);
        prop_assert_eq!(&opened.history, &histories(&records)[whole]);
        opened.journal.write(&ready(2, 1000)).unwrap();
        prop_assert_eq!(open(&cut).findings, []);
    }

    #[test]
    fn a_changed_byte_leaves_a_beginning_and_is_named(
        choices in choices(40), at in any::<proptest::sample::Index>(), bit in 0..8_u8,
    ) {
        let records = plausible(&choices);
        let mut bytes = written(&records).content(NAME).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let damaged = MemoryStorage::with(NAME, &bytes);
        let opened = open(&damaged);
        prop_assert!(histories(&records).contains(&opened.history));
        match opened.findings.as_slice() {
            [Finding::Damaged { offset, .. }] => {
                prop_assert!(*offset <= at);
                prop_assert_eq!(damaged.content(DAMAGED).unwrap(), bytes);
            }
            [Finding::Torn] => prop_assert_eq!(at, bytes.len() - 1),
            other => prop_assert!(false, "{:?}", other),
        }
        // Whatever was found, it goes on.
        let mut journal = opened.journal;
        journal.write(&ready(1, 1000)).unwrap();
        prop_assert_eq!(open(&damaged).findings, []);
    }
}

#[test]
fn a_file_cut_off_anywhere_holds_a_beginning() {
    let records = some_records();
    let bytes = written(&records).content(NAME).unwrap();
    let histories = histories(&records);
    for length in 0..bytes.len() {
        let cut = MemoryStorage::with(NAME, &bytes[..length]);
        let mut opened = open(&cut);
        assert!(histories.contains(&opened.history), "cut at {length}");
        opened.journal.write(&ready(2, 1000)).unwrap();
        assert_eq!(open(&cut).findings, [], "cut at {length}");
    }
}

#[test]
fn a_line_that_is_missing_is_noticed() {
    let bytes = written(&some_records()).content(NAME).unwrap();
    let lines: Vec<_> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    let without_one = [&lines[..5], &lines[6..]].concat().concat();
    let opened = open(&MemoryStorage::with(NAME, &without_one));
    let [Finding::Damaged { offset, .. }] = opened.findings.as_slice() else {
        panic!("{:?}", opened.findings);
    };
    assert_eq!(*offset, lines[..5].concat().len());
}

/// Writes records and compacts now and then, like a daemon that notes some and asks for others.
/// Returns those that it was told are written.
fn drive(storage: &MemoryStorage, records: &[Record]) -> Result<usize, JournalError> {
    let mut journal = Journal::open(Arc::new(storage.clone()), identity())?.journal;
    let mut compaction = None;
    for (done, record) in records.iter().enumerate() {
        match done % 20 {
            7 => compaction = Some(journal.begin_compaction()),
            12 => {
                let outcome = compaction.take().expect("it was begun").run();
                // A failed one changes nothing.
                let _failed = journal.finish_compaction(outcome);
            }
            _ => {}
        }
        if journal.write(record).is_err() {
            return Ok(done);
        }
    }
    Ok(records.len())
}

#[test]
fn a_crash_in_any_operation_loses_nothing_that_was_written() {
    let records = some_records();
    let histories = histories(&records);
    let undisturbed = MemoryStorage::default();
    assert_eq!(drive(&undisturbed, &records).unwrap(), records.len());
    assert!(
        undisturbed.content(NAME).unwrap().len() < written(&records).content(NAME).unwrap().len()
    );
    for operation in 0..undisturbed.operations() {
        for bytes in [0, 1, 30, usize::MAX] {
            let storage = MemoryStorage::default();
            storage.plan(operation, Fault::Crash(bytes));
            let Ok(done) = drive(&storage, &records) else {
                continue;
            };
            let opened = open(&storage.after_crash());
            let known = histories[done..]
                .iter()
                .take(2)
                .any(|history| *history == opened.history);
            assert!(
                known,
                "crash in operation {operation} after {bytes} bytes, {done} records"
            );
            assert!(!matches!(
                opened.findings.as_slice(),
                [Finding::Damaged { .. }]
            ));
        }
    }
}

#[test]
fn a_failure_in_any_operation_refuses_one_record_at_most() {
    let records = some_records();
    let histories = histories(&records);
    let undisturbed = MemoryStorage::default();
    drive(&undisturbed, &records).unwrap();
    for operation in 0..undisturbed.operations() {
        for fault in [
            Fault::Fails(Errno::EIO),
            Fault::Fails(Errno::ENOSPC),
            Fault::Short(3),
        ] {
            let storage = MemoryStorage::default();
            storage.plan(operation, fault);
            if let Ok(done) = drive(&storage, &records) {
                let opened = open(&storage.after_crash());
                assert_eq!(
                    opened.history, histories[done],
                    "{fault:?} in operation {operation}"
                );
                assert_eq!(opened.findings, []);
            }
        }
    }
}

#[test]
fn what_is_owed_is_written_before_anything_else() {
    let storage = MemoryStorage::default();
    let mut journal = open(&storage).journal;
    journal.write(&ready(0, 0)).unwrap();
    journal.write(&attached(0, 1, "a")).unwrap();
    storage.full(true);
    let refused = journal.write(&attached(1, 1, "b")).unwrap_err().to_string();
    assert_eq!(
        refused,
        "write the journal /memory/journal: ENOSPC: No space left on device"
    );
    journal.note(Record::Detached { slot: 0, epoch: 1 });
    journal.note(ready(0, 1));
    assert!(journal.trouble().is_some());
    let opened = open(&storage.after_crash());
    assert!(matches!(opened.history.slots[&0].state, Known::Attached(_)));
    storage.full(false);
    journal.write(&attached(0, 2, "c")).unwrap();
    assert!(journal.trouble().is_none());
    let slot = &open(&storage).history.slots[&0];
    assert!(
        matches!(&slot.state, Known::Attached(held) if held.holder.owner == "c"),
        "{slot:?}"
    );
}

#[test]
fn what_is_owed_is_written_when_there_is_room_again() {
    let storage = MemoryStorage::default();
    let mut journal = open(&storage).journal;
    storage.full(true);
    journal.note(ready(0, 0));
    storage.full(false);
    journal.try_again();
    assert!(journal.trouble().is_none());
    assert_eq!(open(&storage).history.slots[&0].state, Known::Ready);
}

#[test]
fn trouble_is_over_when_there_is_room_for_as_much_as_was_refused() {
    let storage = MemoryStorage::default();
    let mut journal = open(&storage).journal;
    storage.full(true);
    journal.write(&attached(0, 1, "a")).unwrap_err();
    journal.try_again();
    assert!(journal.trouble().is_some());
    storage.full(false);
    journal.try_again();
    assert!(journal.trouble().is_none());
    assert_eq!(open(&storage).findings, []);
    assert_eq!(open(&storage).history.slots.len(), 0);
}

#[test]
fn a_torn_end_that_cannot_be_cut_off_is_cut_off_before_the_next_record() {
    let storage = MemoryStorage::default();
    let mut journal = open(&storage).journal;
    let next = storage.operations();
    storage.plan(next, Fault::Short(20));
    storage.plan(next + 1, Fault::Fails(Errno::EIO));
    storage.plan(next + 2, Fault::Fails(Errno::EIO));
    storage.plan(next + 3, Fault::Fails(Errno::EIO));
    journal.write(&attached(0, 1, "a")).unwrap_err();
    let still_torn = journal.write(&ready(1, 0)).unwrap_err().to_string();
    assert!(
        still_torn.starts_with("cut off the end of the journal"),
        "{still_torn}"
    );
    journal.write(&ready(1, 0)).unwrap();
    let opened = open(&storage);
    assert_eq!(
        (opened.history.slots.len(), opened.findings),
        (1, Vec::new())
    );
}

#[test]
fn a_file_that_grew_is_compacted_and_one_that_did_not_is_left_alone() {
    let storage = MemoryStorage::default();
    let mut journal = open(&storage).journal;
    assert!(!journal.wants_compaction());
    for epoch in 1.. {
        journal.write(&attached(0, epoch, "a")).unwrap();
        journal.write(&Record::Detached { slot: 0, epoch }).unwrap();
        if journal.wants_compaction() {
            break;
        }
    }
    let compaction = journal.begin_compaction();
    assert!(!journal.wants_compaction(), "one at a time");
    journal.write(&ready(3, 0)).unwrap();
    journal.finish_compaction(compaction.run()).unwrap();
    assert!(!journal.wants_compaction());
    journal.write(&attached(3, 1, "late")).unwrap();
    assert!(storage.content(NAME).unwrap().len() < 1000);
    let slots = open(&storage).history.slots;
    assert_eq!(slots[&0].state, Known::Spent);
    assert!(matches!(slots[&3].state, Known::Attached(_)));
    assert_eq!(storage.content(NEW), None);
}

#[test]
fn a_journal_of_another_boot_or_network_is_not_used() {
    for other in [
        Identity {
            boot: "77aa".into(),
            ..identity()
        },
        Identity {
            netns: 8,
            ..identity()
        },
    ] {
        let storage = written(&some_records());
        let opened = Journal::open(Arc::new(storage), other).unwrap();
        assert_eq!(opened.history, History::default());
        assert_eq!(opened.findings, [Finding::Foreign(identity())]);
    }
}

#[test]
fn a_later_version_is_refused_and_left_as_it_is() {
    let (mut line, mut chain) = (Vec::new(), Chain::default());
    let later = serde_json::json!({"pcpm_journal": format::VERSION + 1, "other": true});
    chain.write(&later, &mut line);
    let storage = MemoryStorage::with(NAME, &line);
    let error = Journal::open(Arc::new(storage.clone()), identity()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/memory/journal: it has format 4 and this pcpmd knows 3"),
        "{text}"
    );
    assert_eq!(storage.content(NAME).unwrap(), line);
}

#[test]
fn what_an_earlier_version_wrote_is_gone_on_with_in_todays_format() {
    let (mut bytes, mut chain) = (Vec::new(), Chain::default());
    let first = serde_json::json!({"pcpm_journal": 1, "boot": "3f3c", "netns": 7});
    chain.write(&first, &mut bytes);
    for record in [ready(3, 0), attached(3, 1, "a"), ready(4, 0)] {
        chain.write(&record, &mut bytes);
    }
    let storage = MemoryStorage::with(NAME, &bytes);
    let Opened {
        mut journal,
        history,
        findings,
    } = open(&storage);
    assert_eq!(findings, []);
    assert!(matches!(history.slots[&3].state, Known::Attached(_)));
    journal.write(&kept(4, 1)).unwrap();
    let text = String::from_utf8(storage.content(NAME).unwrap()).unwrap();
    assert!(text[9..].starts_with(r#"{"pcpm_journal":3,"#), "{text}");
    let slots = open(&storage).history.slots;
    assert!(matches!(slots[&3].state, Known::Attached(_)));
    assert_eq!(slots[&4].state, Known::Kept("t".into()));
}

#[test]
fn people_can_read_it() {
    let text = String::from_utf8(written(&[ready(3, 4)]).content(NAME).unwrap()).unwrap();
    let lines: Vec<_> = text.lines().map(|line| &line[9..]).collect();
    assert_eq!(
        lines,
        [
            r#"{"pcpm_journal":3,"boot":"3f3c","netns":7}"#,
            r#"{"started":{"life":0,"last_policy":0,"last_tenant":0,"last_name":0}}"#,
            r#"{"ready":{"slot":3,"epoch":4,"mtu":1500}}"#,
        ]
    );
}

#[test]
fn a_directory_of_the_host_keeps_it() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let open = || Journal::open(Arc::new(Directory::new(dir.path())), identity()).unwrap();
    let mut journal = open().journal;
    journal.write(&ready(3, 0)).unwrap();
    let compaction = journal.begin_compaction();
    journal.finish_compaction(compaction.run()).unwrap();
    journal.write(&attached(3, 1, "a")).unwrap();
    assert!(matches!(open().history.slots[&3].state, Known::Attached(_)));
    let file = dir.path().join(NAME);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1);
}

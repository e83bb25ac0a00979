//! Dropped packets: what was dropped in all, and what lately, one by one or in groups.

use pcpm_api::types::{DropCount, DroppedPackets, DropsReply};

use super::status::{section, totals as total_rows};
use super::table::{Cell, render};
use super::{Hue, Look, humanise};

/// Lines cannot wait for each other to be aligned: columns are as wide as their usual content.
const WIDTHS: [usize; 7] = [24, 8, 20, 5, 20, 10, 11];

const GROUP_TITLES: [&str; 7] = [
    "LAST", "PACKETS", "REASON", "SLOT", "OWNER", "HOP", "PACKET",
];

/// Totals by reason, and the records in groups of packets that look alike.
pub(crate) fn screen(
    totals: &[DropCount],
    records: &[DroppedPackets],
    records_lost: u64,
    look: Look,
) -> String {
    let mut text = section("dropped since start", &total_rows(totals), look);
    if text.is_empty() {
        text = "nothing was dropped\n".into();
    }
    let groups = groups(records);
    if groups.is_empty() {
        return text;
    }
    if look.aligned {
        text += "\n";
    }
    let rows: Vec<_> = groups.iter().map(group_row).collect();
    text += &render(&GROUP_TITLES, &rows, look);
    if records_lost > 0 {
        text += &lost(records_lost, "kept");
    }
    text
}

fn lost(records: u64, what: &str) -> String {
    format!("{records} records came too fast to be {what}\n")
}

/// A line for each record.
pub(crate) fn lines(frame: &DropsReply, look: Look) -> String {
    let mut text = String::new();
    if frame.records_lost > 0 {
        text += &lost(frame.records_lost, "shown");
    }
    for record in &frame.records {
        let mut row = row(record);
        if look.aligned {
            row.iter_mut()
                .zip(WIDTHS)
                .for_each(|(cell, width)| cell.pad(width));
        }
        text += &render(&[], &[row], look);
    }
    text
}

/// Packets that look alike, as one record: the latest, with all their number. Latest first.
fn groups(records: &[DroppedPackets]) -> Vec<DroppedPackets> {
    let mut groups: Vec<DroppedPackets> = Vec::new();
    for record in records.iter().rev() {
        match groups.iter_mut().find(|group| look_alike(group, record)) {
            Some(group) => group.packets += record.packets,
            None => groups.push(record.clone()),
        }
    }
    groups
}

fn look_alike(one: &DroppedPackets, other: &DroppedPackets) -> bool {
    let looks = |record: &DroppedPackets| DroppedPackets {
        sequence: 0,
        time_ms: 0,
        packets: 0,
        ..record.clone()
    };
    looks(one) == looks(other)
}

fn group_row(group: &DroppedPackets) -> Vec<Cell> {
    let [time, reason, slot, owner, _, hop, packets, packet] = cells(group);
    vec![time, packets, reason, slot, owner, hop, packet]
}

fn row(record: &DroppedPackets) -> Vec<Cell> {
    let [time, reason, slot, owner, tenant, hop, packets, packet] = cells(record);
    vec![time, packets, reason, slot, owner, tenant, hop, packet]
}

fn cells(record: &DroppedPackets) -> [Cell; 8] {
    let optional = |field: &Option<String>| Cell::new(field.as_deref().unwrap_or("-"));
    [
        Cell::painted(Hue::Faint, humanise::moment(record.time_ms)),
        Cell::painted(Hue::Warning, &record.reason),
        optional(&record.slot),
        optional(&record.owner),
        optional(&record.tenant),
        Cell::new(&record.hop),
        Cell::new(humanise::count(record.packets)),
        Cell::new(packet(record)),
    ]
}

/// `tcp 10.213.0.7:40312 > 10.213.0.9:80`, as far as it is known.
fn packet(record: &DroppedPackets) -> String {
    let end = |address: &Option<String>, port: Option<u16>| match (address, port) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.clone(),
        (None, _) => String::new(),
    };
    let Some(protocol) = &record.protocol else {
        return "-".into();
    };
    format!(
        "{protocol} {} > {}",
        end(&record.source, record.source_port),
        end(&record.destination, record.destination_port)
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PIPE, PLAIN};
    use super::*;

    fn record(sequence: u64, reason: &str, port: u16) -> DroppedPackets {
        DroppedPackets {
            sequence,
            time_ms: sequence * 1000,
            reason: reason.into(),
            hop: "from-slot".into(),
            packets: 3,
            slot: Some("s0007".into()),
            owner: Some("web".into()),
            tenant: Some("shop".into()),
            protocol: Some("tcp".into()),
            source: Some("10.213.0.7".into()),
            source_port: Some(port),
            destination: Some("2001:db8::1".into()),
            destination_port: Some(80),
        }
    }

    #[test]
    fn records_that_look_alike_are_one_row_with_their_sum_the_latest_first() {
        let records = [
            record(1, "other-tenant", 9),
            record(2, "other-tenant", 10),
            record(3, "other-tenant", 9),
        ];
        let text = screen(&[], &records, 0, PIPE);
        let expected = "nothing was dropped\n\
            1970-01-01T00:00:03.000Z\t6\tother-tenant\ts0007\tweb\tfrom-slot\t\
            tcp 10.213.0.7:9 > [2001:db8::1]:80\n\
            1970-01-01T00:00:02.000Z\t3\tother-tenant\ts0007\tweb\tfrom-slot\t\
            tcp 10.213.0.7:10 > [2001:db8::1]:80\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let bare = DroppedPackets {
            slot: None,
            owner: None,
            tenant: None,
            protocol: None,
            ..record(1, "arp", 0)
        };
        let frame = DropsReply {
            records: vec![bare],
            records_lost: 0,
        };
        let expected = "1970-01-01T00:00:01.000Z\t3\tarp\t-\t-\t-\tfrom-slot\t-\n";
        assert_eq!(lines(&frame, PIPE), expected);
    }

    #[test]
    fn lost_records_are_told() {
        let frame = DropsReply {
            records: Vec::new(),
            records_lost: 4,
        };
        assert!(lines(&frame, PLAIN).starts_with("4 records came too fast"));
        assert!(screen(&[], &[record(1, "arp", 0)], 4, PLAIN).contains("4 records"));
    }
}

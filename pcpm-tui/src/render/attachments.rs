//! Attachments: the one just made, a list of them, one in detail.

use pcpm_api::types::{Attachment, GetReply, Source, Traffic};

use super::table::{Cell, render};
use super::{Hue, Look, humanise};

/// The attachment just made.
pub(crate) fn attached(attachment: &Attachment, look: Look) -> String {
    let mut rows = place(attachment);
    rows.push(field("source", &origin(attachment)));
    render(&[], &rows, look)
}

/// All attachments.
pub(crate) fn list(all: &[Attachment], now_ms: u64, look: Look) -> String {
    if all.is_empty() && look.aligned {
        return "no attachments\n".into();
    }
    let titles = [
        "OWNER", "TENANT", "SLOT", "ADDRESS", "AGE", "LEASE", "SOURCE", "LABELS",
    ];
    let rows: Vec<_> = all
        .iter()
        .map(|attachment| row(attachment, now_ms))
        .collect();
    render(&titles, &rows, look)
}

/// One attachment with everything known about it.
pub(crate) fn details(reply: &GetReply, now_ms: u64, look: Look) -> String {
    let attachment = &reply.attachment;
    let mut rows = place(attachment);
    rows.extend([
        field("interface", &attachment.interface),
        field("mac", &attachment.mac),
        field("mtu", &attachment.mtu.to_string()),
        field("labels", &labels(attachment)),
        field("lease", attachment.lease.as_str()),
        field("source", &origin(attachment)),
        field("age", &humanise::age(attachment.attached_at_ms, now_ms)),
        field("id", &attachment.id),
    ]);
    rows.extend(traffic(&reply.traffic));
    render(&[], &rows, look)
}

fn field(name: &str, value: &str) -> Vec<Cell> {
    vec![Cell::painted(Hue::Faint, name), Cell::new(value)]
}

fn place(attachment: &Attachment) -> Vec<Vec<Cell>> {
    vec![
        field("owner", &attachment.owner),
        field("tenant", &attachment.tenant),
        field("slot", &attachment.slot),
        field("epoch", &attachment.epoch.to_string()),
        field("netns", &attachment.netns),
        field("address", &attachment.addresses.join(", ")),
        field("gateway", &attachment.gateways.join(", ")),
    ]
}

fn row(attachment: &Attachment, now_ms: u64) -> Vec<Cell> {
    vec![
        Cell::new(&attachment.owner),
        Cell::new(&attachment.tenant),
        Cell::new(&attachment.slot),
        Cell::new(attachment.addresses.join(",")),
        Cell::new(humanise::age(attachment.attached_at_ms, now_ms)),
        Cell::new(attachment.lease.as_str()),
        Cell::painted(source_hue(attachment.source), attachment.source.as_str()),
        Cell::new(labels(attachment)),
    ]
}

const fn source_hue(source: Source) -> Hue {
    match source {
        Source::Warm => Hue::Plain,
        Source::Cold => Hue::Warning,
    }
}

fn origin(attachment: &Attachment) -> String {
    format!(
        "{}, took {}",
        attachment.source,
        humanise::micros(attachment.took_us)
    )
}

fn labels(attachment: &Attachment) -> String {
    let labels: Vec<_> = attachment
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    if labels.is_empty() {
        "-".into()
    } else {
        labels.join(",")
    }
}

fn traffic(traffic: &Traffic) -> [Vec<Cell>; 3] {
    let volume = |packets, bytes| {
        format!(
            "{} packets, {}",
            humanise::count(packets),
            humanise::bytes(bytes)
        )
    };
    [
        field("sent", &volume(traffic.sent_packets, traffic.sent_bytes)),
        field(
            "received",
            &volume(traffic.received_packets, traffic.received_bytes),
        ),
        field(
            "dropped",
            &format!("{} packets", humanise::count(traffic.dropped_packets)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pcpm_api::types::Lease;

    use super::super::tests::{PIPE, PLAIN};
    use super::*;

    fn attachment(owner: &str) -> Attachment {
        Attachment {
            id: "7-3".into(),
            owner: owner.into(),
            tenant: "shop".into(),
            slot: "s0007".into(),
            epoch: 3,
            netns: "/run/pcpm/netns/s0007".into(),
            interface: "eth0".into(),
            addresses: vec!["10.213.0.7".into()],
            gateways: vec!["169.254.1.1".into()],
            mac: "02:00:00:00:00:07".into(),
            mtu: 1500,
            publish: Vec::new(),
            labels: BTreeMap::from([("app".into(), "web".into())]),
            lease: Lease::Explicit,
            source: Source::Warm,
            took_us: 14,
            attached_at_ms: 1_000,
        }
    }

    #[test]
    fn the_list_is_a_table_on_a_terminal() {
        let text = list(&[attachment("web-1"), attachment("a")], 61_000, PLAIN);
        let expected = "\
OWNER  TENANT  SLOT   ADDRESS     AGE  LEASE     SOURCE  LABELS
web-1  shop    s0007  10.213.0.7  1m   explicit  warm    app=web
a      shop    s0007  10.213.0.7  1m   explicit  warm    app=web
";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_empty_list_is_said_to_people_only() {
        assert_eq!(list(&[], 0, PLAIN), "no attachments\n");
        assert_eq!(list(&[], 0, PIPE), "");
    }

    #[test]
    fn hostile_labels_stay_in_their_column() {
        let mut hostile = attachment("web-1");
        hostile.labels = BTreeMap::from([("a".into(), "\u{1b}[2J\tx\n".into())]);
        let text = list(&[hostile], 0, PIPE);
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("\ta=\\u{1b}[2J\\tx\\n\n"), "{text:?}");
    }

    #[test]
    fn details_tell_the_traffic_in_words() {
        let reply = GetReply {
            attachment: attachment("web-1"),
            traffic: Traffic {
                sent_packets: 12_345,
                sent_bytes: 3 << 20,
                ..Traffic::default()
            },
            netns_fd: None,
        };
        let text = details(&reply, 3_601_000, PLAIN);
        assert!(
            text.contains("sent       12.3k packets, 3.0MiB\n"),
            "{text}"
        );
        assert!(text.contains("age        1h\n"), "{text}");
        assert!(text.contains("source     warm, took 14µs\n"), "{text}");
    }
}

//! Attachments: the one just made, a list of them, one in detail.

use pcpm_api::publish::{self, Port, Transport};
use pcpm_api::rates;
use pcpm_api::types::{
    Attachment, Flows, GetReply, PublishedPort, SharedNamespace, Source, Traffic,
};

use super::table::{Cell, render};
use super::{Hue, Look, humanise};

/// The attachment just made.
pub(crate) fn attached(attachment: &Attachment, look: Look) -> String {
    let mut rows = place(attachment);
    rows.extend(options(attachment));
    rows.push(field("source", &origin(attachment)));
    render(&[], &rows, look)
}

/// All attachments.
pub(crate) fn list(all: &[Attachment], now_ms: u64, look: Look) -> String {
    if all.is_empty() && look.aligned {
        return "no attachments\n".into();
    }
    let titles = [
        "OWNER",
        "TENANT",
        "SLOT",
        "ADDRESS",
        "PUBLISHED",
        "AGE",
        "LEASE",
        "SOURCE",
        "LABELS",
        "STATE",
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
    let broken = attachment.broken.as_ref();
    rows.extend(broken.map(|reason| field("broken", reason)));
    rows.extend([
        field("interface", &attachment.interface),
        field("mac", &attachment.mac),
        field("mtu", &attachment.mtu.to_string()),
    ]);
    rows.extend(options(attachment));
    rows.extend([
        field("labels", &labels(attachment)),
        field("lease", &lease(attachment)),
        field("source", &origin(attachment)),
        field("age", &humanise::age(attachment.attached_at_ms, now_ms)),
        field("id", &attachment.id),
        field("uid", &attachment.uid.to_string()),
    ]);
    rows.extend(traffic(&reply.traffic));
    rows.push(flows(&reply.flows));
    render(&[], &rows, look)
}

fn field(name: &str, value: &str) -> Vec<Cell> {
    vec![Cell::painted(Hue::Faint, name), Cell::new(value)]
}

fn place(attachment: &Attachment) -> Vec<Vec<Cell>> {
    let mut rows = vec![
        field("owner", &attachment.owner),
        field("tenant", &attachment.tenant),
        field("class", &attachment.class),
        field("slot", &attachment.slot),
        field("epoch", &attachment.epoch.to_string()),
        field("netns", &attachment.netns),
    ];
    rows.extend(SharedNamespace::ALL.iter().filter_map(|kind| {
        let path = attachment.shared(*kind)?;
        Some(field(kind.as_str(), path))
    }));
    rows.push(field("address", &attachment.addresses.join(", ")));
    if attachment.inner_addresses != attachment.addresses {
        rows.push(field("inside", &attachment.inner_addresses.join(", ")));
    }
    rows.push(field("gateway", &attachment.gateways.join(", ")));
    rows
}

fn row(attachment: &Attachment, now_ms: u64) -> Vec<Cell> {
    vec![
        Cell::new(&attachment.owner),
        Cell::new(&attachment.tenant),
        Cell::new(&attachment.slot),
        Cell::new(attachment.addresses.join(",")),
        Cell::new(or_dash(&published(attachment))),
        Cell::new(humanise::age(attachment.attached_at_ms, now_ms)),
        Cell::new(lease(attachment)),
        Cell::painted(source_hue(attachment.source), attachment.source.as_str()),
        Cell::new(labels(attachment)),
        state(attachment),
    ]
}

fn state(attachment: &Attachment) -> Cell {
    match attachment.broken {
        None => Cell::new("attached"),
        Some(_) => Cell::painted(Hue::Bad, "broken"),
    }
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

fn lease(attachment: &Attachment) -> String {
    match attachment.lease_pid {
        Some(pid) => format!("{}:{pid}", attachment.lease),
        None => attachment.lease.to_string(),
    }
}

fn labels(attachment: &Attachment) -> String {
    let labels: Vec<_> = attachment
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    or_dash(&labels)
}

fn or_dash(words: &[String]) -> String {
    if words.is_empty() {
        "-".into()
    } else {
        words.join(",")
    }
}

/// What is published, allowed, denied and limited; nothing about what is not.
fn options(attachment: &Attachment) -> Vec<Vec<Cell>> {
    let Attachment {
        allow,
        deny,
        rate_up,
        rate_down,
        rate_up_packets,
        rate_down_packets,
        ..
    } = attachment;
    let lists = [
        ("publish", published(attachment)),
        ("allow", allow.clone()),
        ("deny", deny.clone()),
        ("rate up", limits(*rate_up, *rate_up_packets)),
        ("rate down", limits(*rate_down, *rate_down_packets)),
    ];
    let some = lists.iter().filter(|(_, words)| !words.is_empty());
    some.map(|(name, words)| field(name, &words.join(", ")))
        .collect()
}

fn limits(bits: Option<u64>, packets: Option<u64>) -> Vec<String> {
    let limit = |rate: Option<u64>, unit| rate.map(|rate| format!("{}{unit}", rates::show(rate)));
    let both = [limit(bits, "bit/s"), limit(packets, " packets/s")];
    both.into_iter().flatten().collect()
}

/// Neighbouring ports as ranges, as the command line takes them.
fn published(attachment: &Attachment) -> Vec<String> {
    let ports: Option<Vec<Port>> = attachment.publish.iter().map(port).collect();
    match ports {
        Some(ports) => publish::collapse(&ports)
            .iter()
            .map(ToString::to_string)
            .collect(),
        // From a daemon that knows more than this program.
        None => vec![format!("{} ports", attachment.publish.len())],
    }
}

fn port(port: &PublishedPort) -> Option<Port> {
    let host_address = match &port.host_address {
        Some(address) => Some(address.parse().ok()?),
        None => None,
    };
    Some(Port {
        transport: match port.protocol.as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return None,
        },
        host_address,
        host_port: port.host_port,
        port: port.port,
    })
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

/// Entries of the flow table, and what the slot was refused of them.
fn flows(flows: &Flows) -> Vec<Cell> {
    let mut cell = Cell::new(format!(
        "{} of {} entries, {} made",
        humanise::count(flows.used.into()),
        humanise::count(flows.limit.into()),
        humanise::count(flows.opened),
    ));
    if flows.refused > 0 {
        let refused = format!(", {} packets refused", humanise::count(flows.refused));
        cell.push(Hue::Warning, &refused);
    }
    vec![Cell::painted(Hue::Faint, "flows"), cell]
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
            class: "default".into(),
            slot: "s0007".into(),
            epoch: 3,
            netns: "/run/pcpm/netns/s0007".into(),
            ipc: None,
            uts: Some("/run/pcpm/uts/s0007".into()),
            interface: "eth0".into(),
            addresses: vec!["10.213.0.7".into()],
            inner_addresses: vec!["10.213.0.7".into()],
            gateways: vec!["169.254.1.1".into()],
            mac: "02:00:00:00:00:07".into(),
            mtu: 1500,
            publish: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            rate_up: None,
            rate_down: None,
            rate_up_packets: None,
            rate_down_packets: None,
            labels: BTreeMap::from([("app".into(), "web".into())]),
            lease: Lease::Explicit,
            lease_pid: None,
            source: Source::Warm,
            took_us: 14,
            attached_at_ms: 1_000,
            uid: 0,
            broken: None,
        }
    }

    fn published_port(port: u16) -> PublishedPort {
        PublishedPort {
            protocol: "tcp".into(),
            host_address: None,
            host_port: port,
            port,
        }
    }

    #[test]
    fn the_list_is_a_table_on_a_terminal() {
        let mut web = attachment("web-1");
        web.publish = vec![published_port(80), published_port(81)];
        let mut broken = attachment("a");
        broken.broken = Some("its link is gone".into());
        let text = list(&[web, broken], 61_000, PLAIN);
        let expected = "\
OWNER  TENANT  SLOT   ADDRESS     PUBLISHED        AGE  LEASE     SOURCE  LABELS   STATE
web-1  shop    s0007  10.213.0.7  tcp:80-81:80-81  1m   explicit  warm    app=web  attached
a      shop    s0007  10.213.0.7  -                1m   explicit  warm    app=web  broken
";
        assert_eq!(text, expected);
    }

    #[test]
    fn options_are_shown_as_they_are_written() {
        let mut attachment = attachment("web-1");
        attachment.publish = vec![published_port(80)];
        attachment.allow = vec!["10.0.0.0/8".into(), "example.com:443".into()];
        attachment.rate_up = Some(10_000_000);
        attachment.rate_up_packets = Some(1_500);
        let text = attached(&attachment, PIPE);
        for line in [
            "publish\ttcp:80:80\n",
            "allow\t10.0.0.0/8, example.com:443\n",
            "rate up\t10Mbit/s, 1500 packets/s\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(
            !text.contains("deny") && !text.contains("rate down"),
            "{text}"
        );
    }

    #[test]
    fn what_is_inside_is_shown_where_it_is_something_else() {
        let mut attachment = attachment("web-1");
        assert!(!attached(&attachment, PIPE).contains("inside"));
        attachment.inner_addresses = vec!["192.0.0.2".into()];
        let text = attached(&attachment, PIPE);
        assert!(
            text.contains("address\t10.213.0.7\ninside\t192.0.0.2\n"),
            "{text}"
        );
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
        assert!(
            text.ends_with("\ta=\\u{1b}[2J\\tx\\n\tattached\n"),
            "{text:?}"
        );
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
            flows: Flows {
                used: 18,
                limit: 65_536,
                opened: 40,
                refused: 3,
            },
            netns_fd: None,
        };
        let text = details(&reply, 3_601_000, PLAIN);
        assert!(
            text.contains("sent       12.3k packets, 3.0MiB\n"),
            "{text}"
        );
        assert!(
            text.contains("flows      18 of 65.5k entries, 40 made, 3 packets refused\n"),
            "{text}"
        );
        assert!(text.contains("age        1h\n"), "{text}");
        assert!(text.contains("source     warm, took 14µs\n"), "{text}");
    }
}

//! The status screen: what an operator wants to know first, on one page.

use std::time::Duration;

use pcpm_api::rates;
use pcpm_api::types::{
    AttachTotals, ClassStatus, ContainerStarts, DropCount, FlowTable, Latency, Memory, Pacing,
    RecycleTotals, RefillTotals, Reservation, SlotCounts, Status, Uplink, WaitingRequest,
    WarmTarget,
};

use super::table::{Cell, render};
use super::{Hue, Look, escape, humanise};

const BAR_WIDTH: usize = 60;

/// The whole screen.
pub(crate) fn screen(status: &Status, look: Look) -> String {
    let mut text = headline(status, look);
    text += &render(&[], &figures(status, look), look);
    text += &section("waiting", &waiting(status), look);
    text += &section("drops", &totals(&status.drops), look);
    text += &section("failed slots", &failures(status), look);
    text += &section("warnings", &warnings(status), look);
    text
}

/// How large the pool is and how much of it is kept ready.
pub(crate) fn sizes(counts: &SlotCounts, warm: &WarmTarget, look: Look) -> String {
    let rows = [
        field("slots", slots(counts)),
        field("target", Cell::new(target(warm))),
    ];
    render(&[], &rows, look)
}

fn headline(status: &Status, look: Look) -> String {
    let mut text = format!(
        "pcpmd {}, up {}, {} {}",
        escape::text(&status.version),
        humanise::long(Duration::from_secs(status.uptime_s)),
        status.clients,
        if status.clients == 1 {
            "client"
        } else {
            "clients"
        },
    );
    if status.draining {
        text += &look.paint(Hue::Warning, ", draining: takes no new attachments");
    }
    text + "\n"
}

fn figures(status: &Status, look: Look) -> Vec<Vec<Cell>> {
    let mut rows = vec![field("pool", Cell::new(&status.pool_cidr))];
    rows.extend(uplinks(&status.uplinks));
    rows.extend([field("slots", slots(&status.slots))]);
    if look.aligned {
        rows.push(field("", bar(&status.slots)));
    }
    rows.push(field("target", Cell::new(target(&status.target))));
    rows.extend(classes(&status.classes));
    if status.published_ports > 0 {
        let ports = status.published_ports.to_string();
        rows.push(field("published", Cell::new(format!("{ports} ports"))));
    }
    rows.push(field("flows", flows(&status.flows)));
    rows.extend([
        field("attach", Cell::new(attach(&status.attach))),
        field("attach time", latency(&status.attach_latency)),
        field("refill", Cell::new(refill(&status.refill))),
        field("refill time", latency(&status.refill.create)),
        field("refill steps", steps(&status.refill)),
    ]);
    if let Some(pacing) = &status.pacing {
        rows.push(field("pacing", paced(pacing)));
    }
    if status.recycle.enabled {
        rows.push(field("recycle", Cell::new(recycle(&status.recycle))));
    }
    rows.extend(starts(&status.starts));
    rows.push(field("memory", Cell::new(memory(&status.memory))));
    rows
}

/// One line for each class, if there are several, and one for each of their reservations.
fn classes(classes: &[ClassStatus]) -> Vec<Vec<Cell>> {
    let several = classes.len() > 1;
    let rows = classes.iter().flat_map(|class| {
        let own = several.then(|| field(&format!("class {}", class.name), one_class(class)));
        own.into_iter()
            .chain(policy(class))
            .chain(class.reservations.iter().map(reservation))
    });
    rows.collect()
}

fn one_class(class: &ClassStatus) -> Cell {
    let mut cell = slots(&class.slots);
    let shared = class.share.iter().map(|kind| format!(", {kind}"));
    let shared: String = shared.collect();
    let made = format!("; mtu {}, {}{shared}", class.mtu, class.addresses);
    cell.push(Hue::Faint, &made);
    if class.draining {
        cell.push(Hue::Warning, "; draining");
    }
    cell
}

/// What the class gives to each attachment, if anything.
fn policy(class: &ClassStatus) -> Option<Vec<Cell>> {
    let policy = &class.policy;
    let rules = |what: &str, rules: &[String]| {
        (!rules.is_empty()).then(|| format!("{what} {}", rules.join(", ")))
    };
    let rate =
        |what: &str, rate: Option<u64>| rate.map(|rate| format!("{what} {}", rates::show(rate)));
    let parts = [
        policy.default.map(|default| format!("world {default}")),
        rules("allow", &policy.allow),
        rules("deny", &policy.deny),
        rate("rate up", policy.rate_up),
        rate("rate down", policy.rate_down),
        rate("packets up", policy.rate_up_packets),
        rate("packets down", policy.rate_down_packets),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let name = format!("policy {}", class.name);
    (!parts.is_empty()).then(|| field(&name, Cell::new(parts.join("; "))))
}

fn reservation(reservation: &Reservation) -> Vec<Cell> {
    let Reservation {
        name,
        tenants,
        warm,
        ready,
    } = reservation;
    let hue = if ready < warm {
        Hue::Warning
    } else {
        Hue::Plain
    };
    let mut cell = Cell::painted(hue, format!("{ready} of {warm} ready"));
    cell.push(Hue::Plain, &format!(" for {}", tenants.join(", ")));
    field(&format!("reserve {name}"), cell)
}

fn field(name: &str, value: Cell) -> Vec<Cell> {
    vec![Cell::painted(Hue::Title, name), value]
}

fn uplinks(uplinks: &[Uplink]) -> Vec<Vec<Cell>> {
    if uplinks.is_empty() {
        let alone = "no uplink: slots reach each other and the host only";
        return vec![field("uplink", Cell::painted(Hue::Warning, alone))];
    }
    let rows = uplinks.iter().map(|each| field("uplink", uplink(each)));
    rows.collect()
}

fn uplink(uplink: &Uplink) -> Cell {
    let Uplink {
        interface,
        address,
        address6,
        mtu,
    } = uplink;
    let other = address6.as_ref().filter(|other| *other != address);
    let other = other.map_or_else(String::new, |other| format!(", {other}"));
    Cell::new(format!("{interface}, {address}{other}, mtu {mtu}"))
}

/// States with their share of the pool, in the order of the bar, and the sign they have there.
fn states(counts: &SlotCounts) -> [(&'static str, u32, char, Hue); 7] {
    [
        ("attached", counts.attached, '#', Hue::Busy),
        ("ready", counts.ready, '=', Hue::Good),
        ("kept", counts.kept, '~', Hue::Good),
        ("creating", counts.creating, '+', Hue::Warning),
        ("retiring", counts.retiring, '-', Hue::Warning),
        ("failed", counts.failed, '!', Hue::Bad),
        ("vacant", counts.vacant, '.', Hue::Faint),
    ]
}

fn slots(counts: &SlotCounts) -> Cell {
    let mut cell = Cell::new("");
    let shown = states(counts)
        .into_iter()
        .filter(|(state, number, ..)| *number > 0 || ["attached", "ready"].contains(state));
    for (i, (state, number, _, hue)) in shown.enumerate() {
        cell.push(Hue::Plain, if i == 0 { "" } else { ", " });
        cell.push(
            if number == 0 { Hue::Faint } else { hue },
            &format!("{number} {state}"),
        );
        if state == "ready" {
            cell.push(Hue::Faint, &format!(" (target {})", counts.target));
        }
    }
    cell.push(Hue::Plain, &format!(" of {}", counts.capacity));
    if counts.beyond > 0 {
        let resizing = format!("; resizing: {} more are not replaced", counts.beyond);
        cell.push(Hue::Warning, &resizing);
    }
    if counts.waiting > 0 {
        cell.push(
            Hue::Warning,
            &format!("; {} waiting for a slot", counts.waiting),
        );
    }
    cell
}

/// The first of those who wait, the one served next first; the line about slots counts all.
fn waiting(status: &Status) -> Vec<Vec<Cell>> {
    let time = humanise::millis;
    let row = |request: &WaitingRequest| {
        vec![
            Cell::new(&request.owner),
            Cell::new(&request.tenant),
            Cell::new(request.on_empty.as_str()),
            Cell::new(format!("for {}", time(request.waited_ms))),
            Cell::new(format!("{} left", time(request.remaining_ms))),
        ]
    };
    status.waiting.iter().map(row).collect()
}

fn target(target: &WarmTarget) -> String {
    format!("{}: {}", target.target, escape::text(&target.reason))
}

fn bar(counts: &SlotCounts) -> Cell {
    let states = states(counts);
    let numbers = states.map(|(_, number, ..)| number);
    let mut cell = Cell::new("[");
    for ((_, _, sign, hue), width) in states.into_iter().zip(shares(numbers, BAR_WIDTH)) {
        cell.push(hue, &sign.to_string().repeat(width));
    }
    cell.push(Hue::Plain, "]");
    cell
}

/// Shares of `width` for each number; what is there at all is seen.
fn shares<const N: usize>(numbers: [u32; N], width: usize) -> [usize; N] {
    let total = numbers.iter().map(|&n| n as usize).sum::<usize>().max(1);
    let share = |n: u32| (n as usize * width / total).max(usize::from(n > 0));
    let mut shares = numbers.map(share);
    let biggest = (0..N).max_by_key(|&i| shares[i]).unwrap_or(0);
    let others = shares.iter().sum::<usize>() - shares[biggest];
    if shares[biggest] > 0 {
        shares[biggest] = width.saturating_sub(others);
    }
    shares
}

fn attach(totals: &AttachTotals) -> String {
    let AttachTotals {
        warm,
        cold,
        detached,
        exhausted,
        refused,
    } = *totals;
    format!(
        "{} warm, {} cold, {} detached, {} exhausted, {} refused",
        humanise::count(warm),
        humanise::count(cold),
        humanise::count(detached),
        humanise::count(exhausted),
        humanise::count(refused),
    )
}

/// How full the flow table is, and what was refused for it.
fn flows(table: &FlowTable) -> Cell {
    let (used, capacity) = (u64::from(table.used), u64::from(table.capacity));
    let percent = (used * 100).checked_div(capacity).unwrap_or_default();
    let hue = if percent >= 90 { Hue::Bad } else { Hue::Plain };
    let mut cell = Cell::painted(hue, format!("{percent} %"));
    cell.push(
        Hue::Plain,
        &format!(
            " of {} entries in use, at most {} a slot; {} collected",
            humanise::count(capacity),
            humanise::count(table.per_slot.into()),
            humanise::count(table.collected),
        ),
    );
    let refused = table.refused_limit + table.refused_full + table.refused_ports;
    if refused > 0 {
        let refused = format!("; {} packets refused", humanise::count(refused));
        cell.push(Hue::Warning, &refused);
    }
    cell
}

fn refill(totals: &RefillTotals) -> String {
    format!(
        "{} created, {} retired, {} failed",
        humanise::count(totals.created),
        humanise::count(totals.retired),
        humanise::count(totals.failed),
    )
}

fn paced(pacing: &Pacing) -> Cell {
    let hue = match pacing.pause_us {
        0 => Hue::Plain,
        _ => Hue::Busy,
    };
    Cell::painted(hue, &pacing.reason)
}

fn recycle(totals: &RecycleTotals) -> String {
    let unclean: u64 = totals.unclean.iter().map(|count| count.slots).sum();
    let each = totals.unclean.iter();
    let each: Vec<_> = each
        .map(|count| format!("{} {}", humanise::count(count.slots), count.what))
        .collect();
    let why = if each.is_empty() {
        String::new()
    } else {
        format!(" ({})", each.join(", "))
    };
    format!(
        "{} used again, {} not{why}",
        humanise::count(totals.recycled),
        humanise::count(unclean),
    )
}

/// What the engine shims tell, if they tell anything.
fn starts(starts: &ContainerStarts) -> Vec<Vec<Cell>> {
    let phases = [
        ("attach", starts.attach),
        ("bundle", starts.bundle),
        ("create", starts.create),
        ("engine", starts.engine),
        ("start", starts.start),
    ];
    let told = |latency: &Latency| latency.count > 0;
    let mut rows = Vec::new();
    if told(&starts.total) {
        rows.push(field("start time", latency(&starts.total)));
        rows.push(field("start phases", Cell::new(medians(&phases))));
    }
    if told(&starts.add) {
        rows.push(field("CNI ADD time", latency(&starts.add)));
    }
    rows
}

fn medians(parts: &[(&str, Latency)]) -> String {
    let measured = parts.iter().filter(|(_, part)| part.count > 0);
    let medians = measured.map(|(name, part)| format!("{name} {}", humanise::micros(part.p50_us)));
    format!("p50 of {}", medians.collect::<Vec<_>>().join(", "))
}

/// Where the time of making a slot goes.
fn steps(totals: &RefillTotals) -> Cell {
    let steps = [
        ("namespace", totals.namespace),
        ("mount", totals.mount),
        ("link", totals.link),
        ("configure", totals.configure),
    ];
    if steps.iter().all(|(_, latency)| latency.count == 0) {
        return Cell::painted(Hue::Faint, "nothing measured yet");
    }
    Cell::new(medians(&steps))
}

fn latency(latency: &Latency) -> Cell {
    if latency.count == 0 {
        return Cell::painted(Hue::Faint, "nothing measured yet");
    }
    Cell::new(format!(
        "p50 {}, p90 {}, p99 {}, max {}",
        humanise::micros(latency.p50_us),
        humanise::micros(latency.p90_us),
        humanise::micros(latency.p99_us),
        humanise::micros(latency.max_us),
    ))
}

fn memory(memory: &Memory) -> String {
    let kernel = [
        ("slab", memory.kernel_slab_bytes_per_slot),
        ("percpu", memory.kernel_percpu_bytes_per_slot),
    ];
    let kernel: Vec<_> = kernel
        .iter()
        .filter_map(|(name, size)| Some(format!("{name} {}", humanise::bytes((*size)?))))
        .collect();
    let kernel = if kernel.is_empty() {
        "not measured yet".into()
    } else {
        kernel.join(", ")
    };
    format!(
        "daemon {}; kernel per slot: {kernel}",
        humanise::bytes(memory.daemon_rss_bytes)
    )
}

/// Rows of what was dropped at all.
pub(super) fn totals(drops: &[DropCount]) -> Vec<Vec<Cell>> {
    let seen = drops.iter().filter(|drop| drop.packets > 0);
    let row = seen.map(|drop| {
        vec![
            Cell::new(humanise::count(drop.packets)),
            Cell::painted(Hue::Warning, &drop.reason),
            Cell::new(&drop.description),
        ]
    });
    row.collect()
}

fn failures(status: &Status) -> Vec<Vec<Cell>> {
    let row = status.failures.iter().map(|failure| {
        let retry = humanise::millis(failure.retry_in_ms);
        vec![
            Cell::new(&failure.slot),
            Cell::new(format!("retry in {retry}")),
            Cell::painted(Hue::Bad, &failure.reason),
        ]
    });
    row.collect()
}

fn warnings(status: &Status) -> Vec<Vec<Cell>> {
    let row = status
        .warnings
        .iter()
        .map(|text| vec![Cell::painted(Hue::Warning, text)]);
    row.collect()
}

/// Rows under a title, indented for people, each led by the title for programs.
pub(super) fn section(title: &str, rows: &[Vec<Cell>], look: Look) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let lead = if look.aligned { "" } else { title };
    let rows = rows
        .iter()
        .map(|row| [&[Cell::new(lead)], row.as_slice()].concat());
    let body = render(&[], &rows.collect::<Vec<_>>(), look);
    if look.aligned {
        look.paint(Hue::Title, title) + "\n" + &body
    } else {
        body
    }
}

#[cfg(test)]
mod tests {
    use pcpm_api::types::{Failure, OnEmpty, TargetMode, UncleanCount};

    use pcpm_api::types::{ClassPolicy, DefaultPolicy, SharedNamespace};

    use super::super::tests::{PIPE, PLAIN, TERMINAL};
    use super::*;

    fn pacing() -> Pacing {
        Pacing {
            reason: "held back: foreign rtnl waits p99 3.1 ms, bound 2.0 ms, 140/s".into(),
            pause_us: 500,
            ..Pacing::default()
        }
    }

    fn recycled() -> RecycleTotals {
        RecycleTotals {
            enabled: true,
            recycled: 11_000,
            unclean: vec![UncleanCount {
                what: "sysctls".to_owned(),
                slots: 3,
            }],
            ..RecycleTotals::default()
        }
    }

    /// Some phases are not told by all.
    fn starts_of(took: Latency) -> ContainerStarts {
        ContainerStarts {
            total: took,
            attach: took,
            create: took,
            add: took,
            ..ContainerStarts::default()
        }
    }

    fn status() -> Status {
        let took = Latency {
            count: 9,
            p50_us: 14,
            p90_us: 20,
            p99_us: 88,
            max_us: 1_250,
        };
        let drop = |reason: &str, packets| DropCount {
            reason: reason.into(),
            description: format!("about {reason}"),
            packets,
        };
        Status {
            version: "0.1.0".into(),
            uptime_s: 273_661,
            draining: false,
            pool_cidr: "10.213.0.0/16".into(),
            slots: SlotCounts {
                ready: 30,
                attached: 24,
                creating: 3,
                retiring: 1,
                failed: 1,
                vacant: 5,
                capacity: 64,
                target: 40,
                waiting: 2,
                beyond: 0,
                kept: 0,
                reserved: 0,
            },
            target: WarmTarget {
                mode: TargetMode::Adaptive,
                target: 40,
                floor: 8,
                ceiling: 64,
                burst: 30,
                refill_per_s: 600,
                reason: "p99.9 burst of the last 10 min was 30, refill 600/s".into(),
            },
            classes: Vec::new(),
            attach: AttachTotals {
                warm: 12_000,
                cold: 3,
                detached: 11_979,
                exhausted: 2,
                refused: 0,
            },
            waiting: vec![WaitingRequest {
                owner: "web-9".into(),
                tenant: "shop".into(),
                class: "default".into(),
                on_empty: OnEmpty::Wait,
                waited_ms: 1_200,
                remaining_ms: 3_800,
            }],
            attach_latency: took,
            pacing: Some(pacing()),
            recycle: recycled(),
            starts: starts_of(took),
            refill: RefillTotals {
                created: 12_060,
                retired: 11_979,
                failed: 4,
                create: took,
                link: took,
                ..RefillTotals::default()
            },
            uplink: None,
            uplinks: Vec::new(),
            published_ports: 3,
            flows: FlowTable {
                capacity: 261_760,
                used: 31_000,
                per_slot: 65_536,
                collected: 7,
                refused_limit: 12,
                ..FlowTable::default()
            },
            clients: 1,
            memory: Memory {
                daemon_rss_bytes: 12 << 20,
                kernel_slab_bytes_per_slot: Some(87_040),
                kernel_percpu_bytes_per_slot: None,
            },
            drops: vec![drop("spoofed_source", 120), drop("not_attached", 0)],
            failures: vec![Failure {
                slot: "s0042".into(),
                reason: "create veth s0042 in hub 0: EEXIST".into(),
                retry_in_ms: 4_200,
            }],
            warnings: vec!["few files\u{1b}[2J".into()],
        }
    }

    #[test]
    fn classes_and_reservations_have_a_line_each() {
        let class = |name: &str, reservations| ClassStatus {
            name: name.into(),
            slots: SlotCounts {
                ready: 4,
                capacity: 9,
                target: 4,
                ..SlotCounts::default()
            },
            target: status().target,
            draining: name == "big",
            mtu: 9000,
            addresses: "10.213.16.0/24".into(),
            recycle: "never".into(),
            share: if name == "big" {
                vec![SharedNamespace::Ipc, SharedNamespace::Uts]
            } else {
                Vec::new()
            },
            policy: ClassPolicy {
                default: (name == "big").then_some(DefaultPolicy::Closed),
                deny: vec!["10.0.0.0/8".into(), "192.0.2.1".into()],
                rate_up: Some(10_000_000),
                ..ClassPolicy::default()
            },
            reservations,
        };
        let shops = Reservation {
            name: "shops".into(),
            tenants: vec!["shop-*".into(), "b".into()],
            warm: 3,
            ready: 2,
        };
        let with_classes = Status {
            classes: vec![class("default", vec![shops]), class("big", Vec::new())],
            ..status()
        };
        let text = screen(&with_classes, PIPE);
        for line in [
            "class default\t0 attached, 4 ready (target 4) of 9; mtu 9000, 10.213.16.0/24\n",
            "policy default\tdeny 10.0.0.0/8, 192.0.2.1; rate up 10M\n",
            "policy big\tworld closed; deny 10.0.0.0/8, 192.0.2.1; rate up 10M\n",
            "reserve shops\t2 of 3 ready for shop-*, b\n",
            "class big\t0 attached, 4 ready (target 4) of 9; mtu 9000, 10.213.16.0/24, ipc, uts; draining\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!screen(&status(), PIPE).contains("class "));
    }

    #[test]
    fn the_screen_of_a_pool_with_worries() {
        let bar = "#".repeat(22) + &"=".repeat(30) + "++-!....";
        let expected = format!(
            "\
pcpmd 0.1.0, up 3d4h, 1 client
pool          10.213.0.0/16
uplink        no uplink: slots reach each other and the host only
slots         24 attached, 30 ready (target 40), 3 creating, 1 retiring, 1 failed, 5 vacant of 64; 2 waiting for a slot
              [{bar}]
target        40: p99.9 burst of the last 10 min was 30, refill 600/s
published     3 ports
flows         11 % of 261.8k entries in use, at most 65.5k a slot; 7 collected; 12 packets refused
attach        12.0k warm, 3 cold, 12.0k detached, 2 exhausted, 0 refused
attach time   p50 14µs, p90 20µs, p99 88µs, max 1.3ms
refill        12.1k created, 12.0k retired, 4 failed
refill time   p50 14µs, p90 20µs, p99 88µs, max 1.3ms
refill steps  p50 of link 14µs
pacing        held back: foreign rtnl waits p99 3.1 ms, bound 2.0 ms, 140/s
recycle       11.0k used again, 3 not (3 sysctls)
start time    p50 14µs, p90 20µs, p99 88µs, max 1.3ms
start phases  p50 of attach 14µs, create 14µs
CNI ADD time  p50 14µs, p90 20µs, p99 88µs, max 1.3ms
memory        daemon 12.0MiB; kernel per slot: slab 85.0KiB
waiting
  web-9  shop  wait  for 1.2s  3.8s left
drops
  120  spoofed_source  about spoofed_source
failed slots
  s0042  retry in 4.2s  create veth s0042 in hub 0: EEXIST
warnings
  few files\\u{{1b}}[2J
"
        );
        assert_eq!(screen(&status(), PLAIN), expected);
    }

    #[test]
    fn colours_add_nothing_but_colours() {
        let coloured = screen(&status(), TERMINAL);
        let mut text = String::new();
        for (i, part) in coloured.split("\u{1b}[").enumerate() {
            let word = part.split_once('m').map_or(part, |(_, word)| word);
            text += if i == 0 { part } else { word };
        }
        assert_eq!(text, screen(&status(), PLAIN));
        assert!(
            coloured.contains("\u{1b}[31m1 failed\u{1b}[0m"),
            "{coloured}"
        );
    }

    #[test]
    fn every_uplink_has_a_line() {
        let uplink = |interface: &str, address: &str, address6: Option<&str>| Uplink {
            interface: interface.into(),
            address: address.into(),
            address6: address6.map(Into::into),
            mtu: 1500,
        };
        let uplinks = vec![
            uplink("eth0", "192.0.2.2", Some("2001:db8:1::2")),
            uplink("eth1", "2001:db8:3::2", Some("2001:db8:3::2")),
        ];
        let status = Status {
            uplinks,
            ..status()
        };
        let lines: Vec<_> = screen(&status, PIPE)
            .lines()
            .filter(|line| line.starts_with("uplink"))
            .map(str::to_owned)
            .collect();
        let expected = [
            "uplink\teth0, 192.0.2.2, 2001:db8:1::2, mtu 1500",
            "uplink\teth1, 2001:db8:3::2, mtu 1500",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn every_line_for_a_pipe_says_what_it_is_about() {
        let text = screen(&status(), PIPE);
        assert!(text.lines().all(|line| !line.starts_with('\t')), "{text}");
        assert!(text.contains("drops\t120\tspoofed_source\t"), "{text}");
        assert!(
            text.contains("failed slots\ts0042\tretry in 4.2s\t"),
            "{text}"
        );
        assert!(!text.contains("[#"), "{text}");
    }

    #[test]
    fn a_healthy_pool_has_no_sections_of_worries() {
        let healthy = Status {
            waiting: Vec::new(),
            drops: Vec::new(),
            failures: Vec::new(),
            warnings: Vec::new(),
            ..status()
        };
        assert_eq!(
            screen(&healthy, PLAIN).lines().last().map(|l| &l[..6]),
            Some("memory")
        );
    }

    #[test]
    fn a_bar_is_always_full_and_hides_no_state() {
        for numbers in [
            [64, 0, 0],
            [1, 0, 9_999],
            [5_000, 5_000, 1],
            [1, 1, 1],
            [0, 0, 7],
        ] {
            let shares = shares(numbers, 20);
            assert_eq!(shares.iter().sum::<usize>(), 20, "{numbers:?}");
            for (number, share) in numbers.into_iter().zip(shares) {
                assert_eq!(number > 0, share > 0, "{numbers:?}");
            }
        }
        assert_eq!(shares([0, 0], 20), [0, 0]);
    }
}

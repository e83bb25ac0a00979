//! A pool that lived for some minutes, the same each time, for tests.

use pcpm_api::types::{Status, WatchFrame};
use serde_json::{Value, json};

use super::state::{Mode, State};

/// When it began, in milliseconds since 1970.
pub(crate) const BEGUN_MS: u64 = 1_767_225_600_000;

/// A number from 0 to `below`, that looks arbitrary.
fn noise(seed: u64, below: u64) -> u64 {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) % below
}

/// How many are attached after so many seconds: quiet, then a burst.
fn attached(second: u64) -> u64 {
    match second % 120 {
        quiet @ 0..60 => 20 + quiet / 10 + noise(quiet, 3),
        burst @ 60..90 => 30 + (burst - 60) * 2,
        rest => 90 - (rest - 90) * 2,
    }
}

fn counts(second: u64, trouble: bool) -> Value {
    let attached = attached(second);
    let creating = 2 + noise(second, 4);
    let failed = u64::from(trouble);
    let ready = (124 - attached - creating).min(64);
    json!({"ready": ready, "kept": 0, "attached": attached, "creating": creating, "retiring": 1 + noise(second + 7, 3),
           "failed": failed, "vacant": 0, "capacity": 128, "target": 64, "waiting": if trouble { 3 } else { 0 },
           "beyond": 0})
}

pub(crate) fn status(second: u64, trouble: bool) -> Status {
    let latency = json!({"count": 10, "p50_us": 14, "p90_us": 20, "p99_us": 40, "max_us": 90});
    let total: u64 = (0..=second).map(|second| 8 + attached(second) / 4).sum();
    let waiting = json!([{"owner": "web-9", "tenant": "shop", "on_empty": "wait", "waited_ms": 1234, "remaining_ms": 2000}]);
    let told = json!({
        "version": "0.1.0", "uptime_s": 3600 + second, "draining": false, "pool_cidr": "10.213.0.0/16",
        "slots": counts(second, trouble),
        "target": {"mode": "fixed", "target": 64, "floor": 64, "ceiling": 64, "burst": 0, "refill_per_s": 480,
                   "reason": "fixed"},
        "attach": {"warm": total, "cold": total / 30, "detached": total, "exhausted": 0, "refused": 0},
        "waiting": if trouble { waiting } else { json!([]) },
        "attach_latency": latency,
        "refill": {"created": total, "retired": total, "failed": 0, "create": latency, "namespace": latency,
                   "mount": latency, "link": latency, "configure": latency},
        "published_ports": 3,
        "flows": {"capacity": 1000, "used": if trouble { 930 } else { 120 }, "per_slot": 250, "opened": total * 3,
                  "collected": 2, "pass_us": 80, "refused_limit": 0, "refused_full": 0, "refused_ports": 0},
        "clients": 3, "memory": {"daemon_rss_bytes": 14_000_000},
        "drops": [{"reason": "other-tenant", "description": "The destination slot is held by another tenant.",
                   "packets": if trouble { 40 * second } else { 40 }},
                  {"reason": "host-closed", "description": "The host's service is not open to slots.", "packets": 7},
                  {"reason": "detached", "description": "The slot is held by nobody.", "packets": 60 * second}],
        "failures": if trouble {
            json!([{"slot": "s0127", "reason": "create veth s0127 in hub 0: EEXIST", "retry_in_ms": 900}])
        } else { json!([]) },
        "warnings": []
    });
    serde_json::from_value(told).unwrap()
}

const TENANTS: [&str; 4] = ["shop", "search", "ml", "edge-eu"];

fn slot(number: u64, second: u64, trouble: bool) -> Value {
    let name = format!("s{number:04}");
    let address = format!("10.213.0.{number}");
    let now_ms = BEGUN_MS + second * 1000;
    match number {
        0..40 => {
            let kind = ["web", "job", "fn", "api"][usize::try_from(noise(number, 4)).unwrap()];
            let tenant = TENANTS[usize::try_from(noise(number + 3, 4)).unwrap()];
            json!({"slot": name, "state": "attached", "epoch": 3, "owner": format!("{kind}-{number}"),
                   "tenant": tenant, "addresses": [address],
                   "attached_at_ms": now_ms - 1000 - noise(number, 900_000),
                   "took_us": 12 + noise(number, 40), "source": if number.is_multiple_of(13) { "cold" } else { "warm" }})
        }
        127 if trouble => {
            json!({"slot": name, "state": "failed", "epoch": 0, "addresses": [address],
                                 "reason": "create veth s0127 in hub 0: EEXIST"})
        }
        126 => json!({"slot": name, "state": "creating", "epoch": 0, "addresses": [address]}),
        125 => json!({"slot": name, "state": "retiring", "epoch": 1, "addresses": [address]}),
        _ => json!({"slot": name, "state": "ready", "epoch": 1, "addresses": [address]}),
    }
}

fn usage(second: u64) -> Vec<Value> {
    let one = |number: u64| {
        let bytes: u64 = (0..=second)
            .map(|second| noise(number * 7 + second, 40_000) * (number % 5))
            .sum();
        json!({"slot": format!("s{number:04}"), "epoch": 3,
               "traffic": {"sent_packets": bytes / 900, "sent_bytes": bytes, "received_packets": bytes / 700,
                           "received_bytes": bytes * 3, "dropped_packets": number / 9},
               "flows": {"used": number % 7 * 2, "limit": 250, "opened": number * second, "refused": 0}})
    };
    (0..40).map(one).collect()
}

fn steps(second: u64) -> Value {
    let times = |from: u64, count: u64| {
        let one = |number: u64| {
            let us = from + from * noise(second * 31 + number, 100) / 60;
            json!({"from_us": us, "count": 1 + noise(second + number, 3)})
        };
        let slow = second
            .is_multiple_of(17)
            .then(|| json!({"from_us": from * 20, "count": 1}));
        (0..count).map(one).chain(slow).collect::<Vec<_>>()
    };
    json!([
        {"step": "warm", "times": times(14, 6)},
        {"step": "cold", "times": if second.is_multiple_of(9) { times(1900, 1) } else { Vec::new() }},
        {"step": "create", "times": times(1800, 5)}, {"step": "namespace", "times": times(400, 5)},
        {"step": "mount", "times": times(20, 2)}, {"step": "link", "times": times(700, 5)},
        {"step": "configure", "times": times(600, 5)}, {"step": "retire", "times": times(30_000, 2)},
        {"step": "start/total", "times": times(90_000, 3)}, {"step": "start/attach", "times": times(60, 3)},
        {"step": "start/bundle", "times": times(180, 3)}, {"step": "start/create", "times": times(60_000, 3)},
        {"step": "start/engine", "times": times(9_000, 3)}, {"step": "start/start", "times": times(20_000, 3)},
    ])
}

fn locks(second: u64, time_ms: u64) -> Value {
    let waits = 20 + noise(second, 60);
    let max_us = 900 + noise(second + 5, 30_000);
    let lock = |name: &str, kind: &str, waits: u64| {
        json!({"lock": name, "kind": kind, "waits": waits, "total_us": waits * 400, "avg_us": 400,
               "p50_us": 200 + noise(second, 90), "p99_us": max_us / 2, "max_us": max_us,
               "times": [{"from_us": 192, "count": waits - 1 - waits / 5},
                         {"from_us": 448 + 64 * noise(second, 6), "count": waits / 5},
                         {"from_us": max_us, "count": 1}]})
    };
    let stack = [
        "__mutex_lock",
        "rtnl_newlink",
        "rtnetlink_rcv_msg",
        "netlink_rcv_skb",
        "netlink_unicast",
    ];
    let long = json!([{"time_ms": time_ms, "lock": "rtnl_mutex", "waited_us": max_us + 10_000, "thread": "ip",
        "pid": 4711, "tid": 4711, "caller": "rtnl_newlink", "holder": "systemd-network", "holder_tid": 412,
        "holder_caller": "rtnl_dellink", "stack": stack}]);
    json!([{
        "sequence": second, "time_ms": time_ms, "interval_ms": 1000, "missed": 0,
        "locks": [lock("rtnl_mutex", "mutex", waits), lock("(rcu_barrier)", "mutex", 3)],
        "waiters": [
            {"lock": "rtnl_mutex", "caller": "rtnl_newlink", "thread": "pcpm-refill-0", "operation": "refill/link",
             "waits": waits / 2, "total_us": waits * 200, "max_us": max_us},
            {"lock": "rtnl_mutex", "caller": "rtnl_newlink", "thread": "ip", "waits": waits / 4,
             "total_us": waits * 90, "max_us": max_us / 3}],
        "blockers": [
            {"lock": "rtnl_mutex", "thread": "systemd-network", "pid": 412, "tid": 412, "caller": "rtnl_dellink",
             "waits": waits / 2, "total_us": waits * 250},
            {"lock": "rtnl_mutex", "thread": "pcpm-refill-1", "operation": "refill/configure", "waits": waits / 3,
             "total_us": waits * 100}],
        "long_waits": if second.is_multiple_of(11) { long } else { json!([]) },
    }])
}

fn events(second: u64, time_ms: u64) -> Value {
    let kinds = [
        ("ready", "", None),
        ("attached", "warm, 14 µs", Some("web-7")),
        ("detached", "", Some("job-3")),
        (
            "refused",
            "tenant 'shop' has 40 of 40 attachments",
            Some("web-99"),
        ),
    ];
    let (kind, message, owner) = kinds[usize::try_from(noise(second, 4)).unwrap()];
    json!([{"sequence": second, "time_ms": time_ms, "kind": kind, "slot": format!("s{:04}", noise(second, 128)),
            "owner": owner, "tenant": owner.map(|_| "shop"), "message": message}])
}

/// The frame of a second.
pub(crate) fn frame(second: u64, trouble: bool) -> WatchFrame {
    let time_ms = BEGUN_MS + second * 1000;
    let slots: Vec<_> = if second == 0 || trouble {
        (0..128)
            .map(|number| slot(number, second, trouble))
            .collect()
    } else {
        Vec::new()
    };
    let told = json!({
        "full": second == 0, "time_ms": time_ms, "counts": counts(second, trouble), "slots": slots,
        "events": events(second, time_ms), "events_lost": 0, "figures": status(second, trouble),
        "steps": steps(second), "usage": usage(second), "locks": locks(second, time_ms),
        "tenants": [{"tenant": "shop", "attachments": 11, "limit": 11}, {"tenant": "ml", "attachments": 4, "limit": 50}],
        "dropped": [{"sequence": second, "time_ms": time_ms, "reason": "other-tenant", "hop": "from-slot", "packets": 2,
                     "slot": "s0003", "owner": "web-3", "tenant": "shop", "protocol": "tcp", "source": "10.213.0.3",
                     "source_port": 40_000, "destination": "10.213.0.9", "destination_port": 80}],
    });
    serde_json::from_value(told).unwrap()
}

/// A dashboard that watched the pool for so many seconds, in trouble in the last ten of them if asked for.
pub(crate) fn watched(seconds: u64, trouble: bool) -> State {
    let mut state = State::new(Mode::default());
    state.tick(BEGUN_MS);
    for second in 0..seconds {
        state.take(frame(second, trouble && second + 10 >= seconds));
        state.tick(BEGUN_MS + second * 1000);
    }
    state
}

//! Who waits for the rtnl lock, and who holds it, as the daemon tells it. The locks are the machine's, not the
//! world's: others may wait for them, too, so everything is asked for by name.

use std::{
    io::{self, BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use pcpm_api::types::{LockFrame, LockWaiter, LocksReply, LongWait, WatchFrame};
use pcpm_tests::{Daemon, Process, World, binary};
use serde_json::json;

/// Makes links and removes them until it is killed.
const LINKS: &str = "while :; do ip link add l0 type veth peer name l1; ip link del l0; done";
/// Holds the lock for long, again and again: many links removed at once.
const BULK: &str = "for i in $(seq 60); do echo link add l$i group 9 type veth peer name m$i; done > /run/add; \
                    while :; do ip -batch /run/add; ip link del group 9; done";

/// Runs a script in a network of its own, until it is dropped.
fn storm(world: &World, script: &str) -> Result<Process> {
    // The shell and its children die with the namespace's first process.
    let words = ["-n", "--pid", "--kill-child", "--fork", "sh", "-c", script];
    world.host().command("unshare", words).spawn()
}

fn seen(daemon: &Daemon) -> Result<LocksReply> {
    daemon
        .connect()?
        .call("Locks", &json!({"last_ms": 20_000, "top": 1000}))
}

/// Asks until something is seen that suits.
fn until<T>(daemon: &Daemon, what: &str, suits: impl Fn(&LocksReply) -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + pcpm_tests::PATIENCE;
    let mut wire = daemon.connect()?;
    wire.stream("Locks", &json!({}))?;
    loop {
        let _another_second: LocksReply = wire.next_reply()?;
        let reply = seen(daemon)?;
        if let Some(found) = suits(&reply) {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "no {what} in {reply:#?}");
    }
}

#[test]
fn waits_for_the_rtnl_lock_are_told_with_those_who_wait_and_those_who_hold_it() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let _load = [
        storm(&world, LINKS)?,
        storm(&world, LINKS)?,
        storm(&world, BULK)?,
    ];
    let lock = until(&daemon, "wait of ip for the rtnl lock", |reply| {
        let of_ip = |lock: &str, thread: &str| lock == "rtnl_mutex" && thread == "ip";
        let (waiters, blockers) = (&reply.waiters, &reply.blockers);
        let told = waiters.iter().any(|w| of_ip(&w.lock, &w.thread))
            && blockers.iter().any(|b| of_ip(&b.lock, &b.thread));
        let lock = reply.locks.iter().find(|lock| lock.lock == "rtnl_mutex");
        lock.filter(|_| told).cloned()
    })?;
    assert!(
        lock.waits > 0 && lock.p50_us <= lock.p99_us && lock.p99_us <= lock.max_us,
        "{lock:?}"
    );
    let text = world.pcpm(["locks", "--last", "20s"])?.run()?;
    assert!(text.contains("rtnl_mutex\tmutex"), "{text}");
    Ok(())
}

#[test]
fn whoever_watches_and_asks_is_told_of_locks_once_a_second() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let _load = [storm(&world, LINKS)?, storm(&world, BULK)?];
    let mut wire = daemon.connect()?;
    wire.stream("Watch", &json!({"locks": true}))?;
    let mut told: Vec<LockFrame> = Vec::new();
    let is_told = |frame: &LockFrame| {
        let rtnl = frame.locks.iter().any(|lock| lock.lock == "rtnl_mutex");
        rtnl && !frame.waiters.is_empty() && !frame.blockers.is_empty()
    };
    let deadline = Instant::now() + pcpm_tests::PATIENCE;
    while told.iter().filter(|frame| is_told(frame)).count() < 3 {
        ensure!(Instant::now() < deadline, "not three times in {told:#?}");
        let frame: WatchFrame = wire.next_reply()?;
        told.extend(frame.locks.unwrap_or_default());
    }
    assert!(
        told.is_sorted_by(|a, b| a.sequence < b.sequence),
        "{told:#?}"
    );
    let request = json!({"last_ms": 600_000, "history": true});
    let past: LocksReply = daemon.connect()?.call("Locks", &request)?;
    let past = past.history.unwrap_or_default();
    for frame in &told {
        let same = past.iter().find(|past| past.sequence == frame.sequence);
        let same = same.with_context(|| format!("{} is not in {past:#?}", frame.sequence))?;
        assert_eq!(
            (same.time_ms, &same.waiters[..]),
            (frame.time_ms, &frame.waiters[..same.waiters.len()])
        );
    }
    let watch = world.pcpm(["watch", "--locks"])?;
    let mut watch = watch
        .with(|command| {
            command.stdout(Stdio::piped());
        })
        .spawn()?;
    let lines = watch.child().stdout.take().context("its output")?;
    let of_rtnl = |line: &io::Result<String>| {
        line.as_ref()
            .is_ok_and(|l| l.contains("\tlock\t-\t-\t-\trtnl_mutex: "))
    };
    ensure!(
        BufReader::new(lines).lines().any(|line| of_rtnl(&line)),
        "no line of the lock"
    );
    Ok(())
}

#[test]
fn whoever_does_not_ask_is_told_nothing_of_locks() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let mut wire = daemon.connect()?;
    wire.stream("Watch", &json!({}))?;
    let frame: WatchFrame = wire.next_reply()?;
    assert!(frame.locks.is_none() && frame.locks_unavailable.is_none());
    Ok(())
}

#[test]
fn long_waits_say_what_the_pool_s_worker_was_doing() -> Result<()> {
    let world = World::new()?;
    let config = "[locks]\nlong_wait_ms = 1\n";
    std::fs::write(world.path("/run/pcpmd.toml"), config)?;
    let _blocker = storm(&world, BULK)?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "256"])?;
    let wait = until(&daemon, "long wait of a worker", |reply| {
        // Slots to be made in the next second: the first may all have been made without a long wait.
        for owner in 0..32 {
            daemon.attach(&owner.to_string(), "t").ok()?;
            daemon.detach(&owner.to_string()).ok()?;
        }
        let suits = |w: &&LongWait| {
            let refills = |operation: &String| operation.starts_with("refill/");
            w.lock == "rtnl_mutex" && w.operation.as_ref().is_some_and(refills)
        };
        reply.long_waits.iter().find(suits).cloned()
    })?;
    assert!(wait.thread.starts_with("pcpm-refill-"), "{wait:?}");
    assert!(wait.waited_us >= 1000, "{wait:?}");
    assert!(wait.stack.contains(&wait.caller), "{wait:?}");
    Ok(())
}

#[test]
fn waits_of_the_recycler_and_of_the_reaper_say_what_they_were_doing() -> Result<()> {
    let world = World::new()?;
    // A dump takes the lock for the moment it needs, so somebody else has to have it for long.
    let config = "[refill]\nrecycle = \"verified\"\n[reaper]\ninterval = \"1s\"\n";
    std::fs::write(world.path("/run/pcpmd.toml"), config)?;
    let _blocker = [storm(&world, BULK)?, storm(&world, LINKS)?];
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "16"])?;
    for (thread, operation) in [
        ("pcpm-recycle", "recycle/"),
        ("pcpm-reaper", "reap/slots"),
        ("pcpm-reaper", "reap/hub"),
    ] {
        let told = until(&daemon, operation, |reply| {
            // A slot to be judged in the next second.
            daemon.attach("a", "t").ok()?;
            daemon.detach("a").ok()?;
            let of_it = |w: &&LockWaiter| {
                let told = w
                    .operation
                    .as_ref()
                    .is_some_and(|o| o.starts_with(operation));
                w.lock == "rtnl_mutex" && told
            };
            reply.waiters.iter().find(of_it).cloned()
        })?;
        assert_eq!(told.thread, thread, "{told:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_attached_where_it_is_off_and_that_is_said() -> Result<()> {
    let world = World::new()?;
    std::fs::write(world.path("/run/pcpmd.toml"), "[locks]\nenabled = false\n")?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "1"])?;
    let reply = seen(&daemon)?;
    assert!(
        reply.unavailable.is_some() && reply.locks.is_empty(),
        "{reply:?}"
    );
    let (code, complaint) = world.pcpm(["locks"])?.fails()?;
    assert_eq!(code, 1);
    assert!(complaint.contains("off by configuration"), "{complaint}");
    Ok(())
}

#[test]
fn a_bad_period_is_refused_by_its_name() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    for (parameters, field) in [
        (json!({"last_ms": 600_001}), "last_ms"),
        (json!({"top": 1001}), "top"),
    ] {
        let refusal = daemon.connect()?.refused("Locks", &parameters)?;
        assert_eq!(refusal.parameters["field"], field);
    }
    Ok(())
}

#[test]
fn observing_for_a_while_takes_that_while() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(1)?;
    let begun = Instant::now();
    let seen = world
        .pcpm(["--json", "locks", "--duration", "1s"])?
        .json()?;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(seen["interval_ms"].as_u64() >= Some(1), "{seen}");
    Ok(())
}

#[test]
fn the_doctor_says_how_the_lock_was_found_with_and_without_a_daemon() -> Result<()> {
    let world = World::new()?;
    let found = |checks: &serde_json::Value| -> Result<serde_json::Value> {
        let checks = checks["checks"].as_array().or(checks.as_array());
        let mut checks = checks.into_iter().flatten();
        let check = checks.find(|check| check["name"] == "lock-insight");
        check.cloned().context("no check of lock insight")
    };
    let pcpmd = world
        .host()
        .command(binary("pcpmd")?, ["--check", "--json"]);
    let before = found(&pcpmd.json()?)?;
    assert!(
        before["detail"]
            .as_str()
            .is_some_and(|d| d.contains("waits of our own in dev_ioctl")),
        "{before}"
    );
    let daemon = world.pool_of(1)?;
    until(&daemon, "second", |_| Some(()))?;
    let during = found(&world.pcpm(["--json", "doctor"])?.json()?)?;
    assert_eq!(
        (&during["status"], &before["status"]),
        (&"ok".into(), &"ok".into()),
        "{before} {during}"
    );
    Ok(())
}

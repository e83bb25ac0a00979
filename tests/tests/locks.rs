//! Who waits for the rtnl lock, and who holds it, as the daemon tells it. The locks are the machine's, not the
//! world's: others may wait for them, too, so everything is asked for by name.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pcpm_api::types::{LocksReply, LongWait};
use pcpm_tests::{Daemon, Process, World};
use serde_json::json;

/// Makes links and removes them until it is killed.
const LINKS: &str = "while :; do ip link add a type veth peer b; ip link del a; done";
/// Holds the lock for long, again and again: many links removed at once.
const BULK: &str = "for i in $(seq 60); do echo link add a$i group 9 type veth peer b$i; done > /tmp/add; \
                    while :; do ip -batch /tmp/add; ip link del group 9; done";

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
fn long_waits_say_what_the_pool_s_worker_was_doing() -> Result<()> {
    let world = World::new()?;
    let config = "[locks]\nlong_wait_ms = 1\n";
    std::fs::write(world.path("/run/pcpmd.toml"), config)?;
    let _blocker = storm(&world, BULK)?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "256"])?;
    let wait = until(&daemon, "long wait of a worker", |reply| {
        let suits = |w: &&LongWait| w.operation.is_some() && w.lock == "rtnl_mutex";
        reply.long_waits.iter().find(suits).cloned()
    })?;
    assert!(wait.thread.starts_with("pcpm-refill-"), "{wait:?}");
    assert!(wait.waited_us >= 1000, "{wait:?}");
    assert!(wait.stack.contains(&wait.caller), "{wait:?}");
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

//! The pool fills, and `pcpm status` says so.

use anyhow::Result;
use pcpm_tests::World;

#[test]
fn the_pool_fills_to_its_capacity() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(24)?;
    let slots = daemon.status()?.slots;
    assert_eq!((slots.ready, slots.capacity), (24, 24));
    assert_eq!(
        slots.creating + slots.attached + slots.retiring + slots.failed,
        0
    );
    Ok(())
}

#[test]
fn only_as_many_as_asked_for_are_kept_ready() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "40", "--ready", "6"])?;
    daemon.wait_until_ready(6)?;
    daemon.attach("one", "t")?;
    daemon.wait_until("the attached slot is replaced", |counts| {
        counts.ready == 6 && counts.attached == 1
    })?;
    Ok(())
}

#[test]
fn every_ready_slot_has_its_namespace() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(12)?;
    let names = world.tool("ls /run/pcpm/netns").run()?;
    let expected: Vec<_> = (0..12).map(|i| format!("s{i:04}")).collect();
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), expected);
    for name in expected {
        let links = world
            .slot(format!("/run/pcpm/netns/{name}"))
            .tool("ip -o link")
            .run()?;
        assert!(
            links.contains(": eth0") && links.contains(": lo"),
            "{links}"
        );
    }
    Ok(())
}

#[test]
fn status_as_json_has_what_programs_rely_on() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(4)?;
    let status = world.pcpm(["--json", "status"])?.json()?;
    for state in [
        "ready", "attached", "creating", "retiring", "failed", "capacity",
    ] {
        assert!(status["slots"][state].is_u64(), "{state} in {status}");
    }
    assert_eq!(status["slots"]["ready"], 4);
    assert!(status["uptime_s"].is_u64(), "{status}");
    assert!(
        !status["version"].as_str().unwrap_or_default().is_empty(),
        "{status}"
    );
    assert_eq!(status["uplink"]["interface"], "eth0");
    assert_eq!(status["uplink"]["address"], "192.0.2.2");
    Ok(())
}

#[test]
fn memory_is_reported_once_the_pool_was_filled() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(200)?;
    let memory = daemon.status()?.memory;
    assert!(memory.daemon_rss_bytes > 1_000_000, "{memory:?}");
    // How much is not judged here: the kernel counts for the whole machine, other tests included.
    assert!(memory.kernel_slab_bytes_per_slot.is_some(), "{memory:?}");
    assert!(memory.kernel_percpu_bytes_per_slot.is_some(), "{memory:?}");
    Ok(())
}

#[test]
fn without_an_uplink_the_daemon_runs_and_says_so() -> Result<()> {
    let world = World::without_uplink()?;
    let daemon = world.pool_of(4)?;
    let status = daemon.status()?;
    assert_eq!(status.uplink, None);
    let shown = world.pcpm(["status"])?.run()?;
    let line = shown
        .lines()
        .find(|line| line.starts_with("uplink"))
        .unwrap_or_default();
    assert!(line.contains("no uplink"), "{shown}");
    let (one, other) = (daemon.attach("one", "t")?, daemon.attach("other", "t")?);
    let address = &other.attachment.addresses[0];
    daemon
        .place(&one)
        .command("ping", ["-c1", "-W5", address])
        .run()?;
    Ok(())
}

#[test]
fn watch_begins_with_all_slots_and_goes_on_with_changes() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(5)?;
    let mut wire = daemon.connect()?;
    wire.stream("Watch", &serde_json::json!({"interval_ms": 20}))?;
    let first: pcpm_api::types::WatchFrame = wire.next_reply()?;
    assert!(first.full);
    assert_eq!(first.slots.len(), 5);
    let attached = daemon.attach("web", "shop")?;
    let delta: pcpm_api::types::WatchFrame = wire.next_reply()?;
    assert!(!delta.full);
    let changed = delta
        .slots
        .iter()
        .find(|slot| slot.slot == attached.attachment.slot);
    assert_eq!(
        changed.and_then(|slot| slot.owner.as_deref()),
        Some("web"),
        "{delta:?}"
    );
    assert!(
        delta
            .events
            .iter()
            .any(|event| event.owner.as_deref() == Some("web")),
        "{delta:?}"
    );
    Ok(())
}

#[test]
fn an_adaptive_target_follows_a_burst_and_explains_itself() -> Result<()> {
    let world = World::new()?;
    let daemon =
        world.spawn_daemon(&["--capacity", "64", "--ready", "8", "--target", "adaptive"])?;
    daemon.wait_until_ready(8)?;
    for owner in 0..30 {
        daemon.attach(&format!("o{owner}"), "t")?;
    }
    let status = world.pcpm(["--json", "status"])?.json()?;
    let target = &status["target"];
    assert_eq!(target["mode"], "adaptive", "{target}");
    assert!(target["target"].as_u64() >= Some(8), "{target}");
    assert!(target["refill_per_s"].as_u64() > Some(0), "{target}");
    let text = world.pcpm(["status"])?.run()?;
    let words = "p99.9 burst of the last 10 min was ";
    assert!(text.contains(words), "{text}");
    Ok(())
}

//! Refill that is held back for the sake of others who need the rtnl lock.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use pcpm_api::types::{Pacing, Status};
use pcpm_tests::{Daemon, PATIENCE, Process, World};
use serde_json::json;

/// Makes links and removes them until it is killed.
const LINKS: &str = "while :; do ip link add name l0 type veth peer name l1; ip link del l0; done";

/// Others who need the lock, until it is dropped.
fn others(world: &World) -> Result<Process> {
    let words = ["-n", "--pid", "--kill-child", "--fork", "sh", "-c", LINKS];
    world.host().command("unshare", words).spawn()
}

fn paced_pool(world: &World, config: &str, capacity: u32) -> Result<Daemon> {
    std::fs::write(world.path("/run/pcpmd.toml"), config)?;
    let capacity = capacity.to_string();
    world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", &capacity])
}

fn pacing(daemon: &Daemon) -> Result<Pacing> {
    let status: Status = daemon.connect()?.call("Status", &json!({}))?;
    status.pacing.context("nothing of pacing in the status")
}

/// Has slots made anew until something is seen that suits.
fn refilling_until(daemon: &Daemon, what: &str, suits: impl Fn(&Pacing) -> bool) -> Result<Pacing> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        daemon
            .connect()?
            .call::<serde_json::Value>("Attach", &json!({"owner": "a"}))?;
        daemon
            .connect()?
            .call::<serde_json::Value>("Detach", &json!({"owner": "a"}))?;
        let seen = pacing(daemon)?;
        if suits(&seen) {
            return Ok(seen);
        }
        ensure!(Instant::now() < deadline, "no {what}: {seen:?}");
    }
}

#[test]
fn refill_slows_down_for_others_and_the_pool_fills_all_the_same() -> Result<()> {
    let world = World::new()?;
    let _load = [others(&world)?, others(&world)?];
    // Nobody can wait for less.
    let daemon = paced_pool(&world, "[refill]\nmax_rtnl_wait = \"50us\"\n", 64)?;
    let seen = refilling_until(&daemon, "pause", |seen| {
        seen.pause_us > 0 && seen.reason.starts_with("held back: ")
    })?;
    assert!(seen.foreign_waits >= 2 && seen.p99_us > 50, "{seen:?}");
    assert!(seen.reason.contains("bound 50 us"), "{seen:?}");
    daemon.wait_until_ready(64)?;
    // Told as long as it is not long ago.
    let deadline = Instant::now() + PATIENCE;
    loop {
        refilling_until(&daemon, "wait", |seen| seen.p99_us > 0)?;
        let status = world.pcpm(["status"])?.run()?;
        if status.contains("foreign rtnl waits p99") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{status}");
    }
}

#[test]
fn refill_goes_on_at_full_speed_while_nobody_waits_too_long() -> Result<()> {
    let world = World::new()?;
    let _load = [others(&world)?, others(&world)?];
    let daemon = paced_pool(&world, "[refill]\nmax_rtnl_wait = \"10s\"\n", 64)?;
    daemon.wait_until_ready(64)?;
    let seen = refilling_until(&daemon, "wait for a worker", |seen| seen.foreign_waits > 2)?;
    assert_eq!((seen.pause_us, seen.paused_ms), (0, 0), "{seen:?}");
    Ok(())
}

#[test]
fn where_nobody_can_know_who_waits_that_is_said() -> Result<()> {
    let world = World::new()?;
    let config = "[refill]\nmax_rtnl_wait = \"2ms\"\n[locks]\nenabled = false\n";
    let daemon = paced_pool(&world, config, 4)?;
    daemon.wait_until_ready(4)?;
    let seen = pacing(&daemon)?;
    assert!(
        seen.reason.starts_with("no effect: no lock insight: off"),
        "{seen:?}"
    );
    Ok(())
}

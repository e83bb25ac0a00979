//! Slots that are used again: only those in which nothing differs from how they were made.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pcpm_api::types::{AttachReply, RecycleTotals};
use pcpm_tests::{Daemon, HttpServer, INTERNET_ADDRESS, PATIENCE, World};

fn pool(world: &World, slots: u32) -> Result<Daemon> {
    pool_with(world, slots, "verified")
}

fn pool_with(world: &World, slots: u32, recycle: &str) -> Result<Daemon> {
    let settings = format!("[refill]\nrecycle = \"{recycle}\"\n");
    fs::write(world.path("/run/pcpmd.toml"), settings)?;
    let slots_text = slots.to_string();
    let arguments = ["--config", "/run/pcpmd.toml", "--capacity", &slots_text];
    let daemon = world.spawn_daemon(&arguments)?;
    daemon.wait_until_ready(slots)?;
    wait_until(&daemon, |totals| totals.portrayed == slots)?;
    Ok(daemon)
}

/// Nothing tells of golden copies: they are nobody's business but the pool's.
fn wait_until(daemon: &Daemon, wanted: impl Fn(&RecycleTotals) -> bool) -> Result<RecycleTotals> {
    let begun = Instant::now();
    loop {
        let totals = daemon.status()?.recycle;
        if wanted(&totals) {
            return Ok(totals);
        }
        ensure!(begun.elapsed() < PATIENCE, "{totals:?}\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends an attachment and returns what was wrong with its slot.
fn detach(daemon: &Daemon, held: &AttachReply) -> Result<Option<String>> {
    let before = daemon.status()?.recycle;
    let judged = |totals: &RecycleTotals| {
        totals.recycled + totals.unclean.iter().map(|count| count.slots).sum::<u64>()
    };
    daemon.detach(&held.attachment.owner)?;
    let after = wait_until(daemon, |totals| judged(totals) > judged(&before))?;
    let grew = |what: &str, slots: u64| {
        let count = before.unclean.iter().find(|count| count.what == what);
        slots > count.map_or(0, |count| count.slots)
    };
    let mut unclean = after.unclean.iter();
    let found = unclean.find(|count| grew(&count.what, count.slots));
    Ok(found.map(|count| count.what.clone()))
}

#[test]
fn a_slot_that_was_used_honestly_is_used_again() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 1)?;
    let _server = HttpServer::start(&world.internet(), &format!("{INTERNET_ADDRESS}:80"))?;
    for epoch in 1..=3 {
        let held = daemon.attach(&format!("user{epoch}"), "t")?;
        ensure!(held.attachment.epoch == epoch);
        let place = daemon.place(&held);
        place
            .tool(&format!(
                "curl -sS --max-time 10 http://{INTERNET_ADDRESS}/"
            ))
            .run()?;
        place.tool("ping -c 1 -W 5 169.254.1.1").run()?;
        ensure!(daemon.get(&held.attachment.owner)?.traffic.sent_packets > 0);
        // Until the kernel has let go of the sockets that were closed.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(detach(&daemon, &held)?, None, "{}", daemon.log());
        daemon.wait_until_ready(1)?;
    }
    let status = daemon.status()?;
    assert_eq!((status.refill.created, status.recycle.recycled), (1, 3));
    let held = daemon.attach("last", "t")?;
    assert_eq!(daemon.get(&held.attachment.owner)?.traffic.sent_packets, 0);
    Ok(())
}

/// Services have their own view of the mounts, with copies of the slots' among them, and privileges that the daemon
/// has not.
#[test]
fn a_service_with_mounts_of_its_own_keeps_no_slot_from_being_used_again() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 1)?;
    let script = "touch /run/begun; exec sleep 1000";
    let arguments = ["-m", "--propagation", "slave", "sh", "-c", script];
    let _service = world.command("unshare", arguments).spawn()?;
    let begun = Instant::now();
    while !world.path("/run/begun").exists() {
        ensure!(begun.elapsed() < PATIENCE, "the service does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let held = daemon.attach("user", "t")?;
    assert_eq!(detach(&daemon, &held)?, None, "{}", daemon.log());
    Ok(())
}

#[test]
fn a_slot_that_somebody_holds_or_changed_is_replaced() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let held = daemon.attach("holder", "t")?;
    let netns = &held.attachment.netns;
    let handle = world.host().within(|| Ok(File::open(netns)?))?;
    assert_eq!(detach(&daemon, &held)?.as_deref(), Some("handles"));
    drop(handle);
    daemon.wait_until_ready(2)?;
    let held = daemon.attach("sleeper", "t")?;
    let sleeper = daemon.place(&held).tool("sleep 1000").spawn()?;
    daemon.place(&held).tool("ip address").run()?;
    assert_eq!(detach(&daemon, &held)?.as_deref(), Some("holders"));
    drop(sleeper);
    daemon.wait_until_ready(2)?;
    wait_until(&daemon, |totals| totals.portrayed == 2)?;
    let held = daemon.attach("writer", "t")?;
    let script = "echo 9 >/proc/sys/net/core/somaxconn";
    daemon.place(&held).command("sh", ["-c", script]).run()?;
    assert_eq!(detach(&daemon, &held)?.as_deref(), Some("sysctls"));
    daemon.wait_until_ready(2)?;
    let held = daemon.attach("changer", "t")?;
    let change = "ip address add 10.9.9.9/32 dev eth0";
    daemon.place(&held).tool(change).run()?;
    assert_eq!(detach(&daemon, &held)?.as_deref(), Some("tampered"));
    assert_eq!(daemon.status()?.recycle.recycled, 0);
    Ok(())
}

#[test]
fn a_slot_kept_for_its_tenant_is_met_by_nobody_else() -> Result<()> {
    let world = World::new()?;
    let daemon = pool_with(&world, 4, "same-tenant")?;
    let held = daemon.attach("first", "shop")?;
    let slot = &held.attachment.slot;
    let mark = "ip tcp_metrics flush; nc -w1 127.0.0.1 9 || true";
    daemon.place(&held).command("sh", ["-c", mark]).run()?;
    assert_eq!(detach(&daemon, &held)?, None, "{}", daemon.log());
    assert_eq!(daemon.status()?.slots.kept, 1);
    for owner in ["x", "y", "z"] {
        let other = daemon.attach(owner, "other")?.attachment;
        ensure!(other.slot != *slot, "{owner} met what shop left");
    }
    let again = daemon.attach("second", "shop")?.attachment;
    assert_eq!((&again.slot, again.epoch), (slot, 2));
    Ok(())
}

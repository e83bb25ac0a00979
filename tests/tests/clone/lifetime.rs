//! Pools of such slots over restarts and changes of the settings, and slots that are used again.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pcpm_tests::{Daemon, INTERNET_ADDRESS, PATIENCE, World, binary};

use crate::pool::{CONFIG, INNER, attach, ping, pool, pool_with};

fn kill(daemon: &mut Daemon) -> Result<()> {
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE).map(drop)
}

#[test]
fn the_next_daemon_goes_on_with_the_slots() -> Result<()> {
    let world = World::new()?;
    let mut first = pool(&world, 2)?;
    let slot = attach(&first, "web", "t", &[])?;
    kill(&mut first)?;
    ping(&slot.place, INTERNET_ADDRESS, 56)?;
    let next = world.spawn_daemon(&["--config", CONFIG])?;
    let found = next.get("web")?.attachment;
    assert_eq!(found.id, slot.attachment.id);
    assert_eq!(found.inner_addresses, slot.attachment.inner_addresses);
    ping(&slot.place, INTERNET_ADDRESS, 56)
}

#[test]
fn another_mode_or_address_waits_until_nobody_holds_a_slot() -> Result<()> {
    let world = World::new()?;
    let mut first = pool(&world, 2)?;
    let slot = attach(&first, "web", "t", &[])?;
    kill(&mut first)?;
    let settings = fs::read_to_string(world.path(CONFIG))?;
    let unique = "capacity = 2\n".to_owned();
    let elsewhere = settings.replace(INNER, "10.9.9.9");
    let start = [
        binary("pcpmd")?.display().to_string(),
        format!("--config {CONFIG}"),
    ]
    .join(" ");
    for (changed, reason) in [
        (
            &unique,
            "address_mode: all slots have the same inner address",
        ),
        (&elsewhere, "clone.inner: slots have 10.9.9.2 inside"),
    ] {
        fs::write(world.path(CONFIG), changed)?;
        let (_, told) = world.tool(&start).fails()?;
        assert!(
            told.contains(reason) && told.contains("--cleanup"),
            "{told}"
        );
        ping(&slot.place, INTERNET_ADDRESS, 56)?;
    }
    fs::write(world.path(CONFIG), settings)?;
    let mut next = world.spawn_daemon(&["--config", CONFIG])?;
    next.detach("web")?;
    next.wait_until_ready(2)?;
    kill(&mut next)?;
    fs::write(world.path(CONFIG), unique)?;
    let last = world.spawn_daemon(&["--config", CONFIG])?;
    last.wait_until_ready(2)?;
    let slot = attach(&last, "web", "t", &[])?;
    assert_eq!(slot.attachment.inner_addresses, slot.attachment.addresses);
    ping(&slot.place, INTERNET_ADDRESS, 56)
}

#[test]
fn a_reload_does_not_change_the_mode() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    fs::write(world.path(CONFIG), "capacity = 2\n")?;
    let told = world.pcpm(["--json", "reload"])?.json()?;
    let waiting = told["restart_needed"].to_string();
    assert!(waiting.contains("address_mode"), "{told}");
    let slot = attach(&daemon, "web", "t", &[])?;
    assert_eq!(slot.attachment.inner_addresses[0], INNER);
    ping(&slot.place, INTERNET_ADDRESS, 56)
}

#[test]
fn slots_are_used_again() -> Result<()> {
    let world = World::new()?;
    let daemon = pool_with(&world, 1, "[refill]\nrecycle = \"verified\"\n")?;
    let deadline = Instant::now() + PATIENCE;
    while daemon.status()?.recycle.portrayed == 0 {
        ensure!(Instant::now() < deadline, "{}", daemon.log());
    }
    for epoch in 1..=3 {
        let owner = format!("user{epoch}");
        let slot = attach(&daemon, &owner, "t", &[])?;
        ensure!(
            slot.attachment.epoch == epoch,
            "{:?}",
            daemon.status()?.recycle
        );
        ping(&slot.place, INTERNET_ADDRESS, 56)?;
        // Until the kernel has let go of the sockets that were closed.
        std::thread::sleep(Duration::from_millis(500));
        daemon.detach(&owner)?;
        daemon.wait_until_ready(1)?;
    }
    let recycled = daemon.status()?.recycle.recycled;
    assert_eq!(recycled, 3, "{}", daemon.log());
    Ok(())
}

/// An uplink that has the inner address could not be reached from slots.
#[test]
fn an_inner_address_that_the_uplink_has_is_refused() -> Result<()> {
    let world = World::new()?;
    let settings = "address_mode = \"clone\"\n[clone]\ninner = \"192.0.2.2\"\n";
    fs::write(world.path(CONFIG), settings)?;
    let start = [
        binary("pcpmd")?.display().to_string(),
        format!("--config {CONFIG}"),
    ]
    .join(" ");
    let (_, told) = world.tool(&start).fails()?;
    assert!(
        told.contains("clone.inner") && told.contains("eth0"),
        "{told}"
    );
    Ok(())
}

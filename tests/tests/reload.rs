//! The configuration is read again while the daemon runs.

use std::fs;

use anyhow::Result;
use nix::sys::signal::Signal;
use pcpm_tests::World;

const FILE: &str = "/run/pcpmd.toml";

#[test]
fn a_reload_applies_what_it_can_and_names_what_needs_a_restart() -> Result<()> {
    let world = World::new()?;
    let file = world.path(FILE);
    fs::write(&file, "capacity = 4\n")?;
    let daemon = world.spawn_daemon(&["--config", FILE])?;
    daemon.wait_until_ready(4)?;
    fs::write(
        &file,
        "capacity = 6\n[quota.tenant]\nattachments = 1\n[nat]\nflows = 2048\n",
    )?;
    let text = world.pcpm(["reload"])?.run()?;
    assert!(
        text.contains("changed: capacity, nat.flows, quota.tenant.attachments"),
        "{text}"
    );
    assert!(text.contains("restart needed for: nat.flows"), "{text}");
    daemon.wait_until_ready(6)?;
    let text = world.pcpm(["status"])?.run()?;
    assert!(text.contains("restart needed for: nat.flows"), "{text}");
    daemon.attach("a", "t")?;
    let (_, text) = world.pcpm(["attach", "b", "--tenant", "t"])?.fails()?;
    assert!(text.contains("quota of 1 attachments"), "{text}");
    Ok(())
}

#[test]
fn a_hangup_reloads_and_a_broken_file_changes_nothing() -> Result<()> {
    let world = World::new()?;
    let file = world.path(FILE);
    fs::write(&file, "capacity = 4\n")?;
    let daemon =
        world.spawn_daemon_with(&["--config", FILE], |tool| tool.env("INVOCATION_ID", "1"))?;
    daemon.wait_until_ready(4)?;
    fs::write(&file, "capacity = 5\nno_such_key = 1\n")?;
    let reloaded = |wanted: &str| {
        daemon.watch(wanted, |frame| {
            let mut told = frame.events.iter().filter(|event| event.kind == "reloaded");
            if frame.full {
                daemon.signal(Signal::SIGHUP).ok()?;
            }
            told.any(|event| event.message.contains(wanted))
                .then_some(())
        })
    };
    reloaded("no_such_key")?;
    assert_eq!(daemon.status()?.slots.capacity, 4);
    fs::write(&file, "capacity = 5\n")?;
    reloaded("changed: capacity")?;
    daemon.wait_until_ready(5)?;
    Ok(())
}

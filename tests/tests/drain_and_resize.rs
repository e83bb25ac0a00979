//! The pool is drained and resized while it runs.

use anyhow::Result;
use pcpm_tests::{PATIENCE, World};

#[test]
fn a_drained_pool_takes_nobody_and_waits_for_the_last_to_go() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(3)?;
    daemon.attach("last", "t")?;
    let (code, text) = world
        .pcpm(["drain", "--wait", "--timeout", "50ms"])?
        .fails()?;
    assert!(code == 1 && text.contains("1 are still attached"), "{text}");
    assert!(daemon.status()?.draining);
    let (code, text) = world.pcpm(["attach", "late"])?.fails()?;
    assert!(code == 1 && text.contains("draining"), "{text}");
    let mut drain = world
        .pcpm(["drain", "--wait", "--timeout", "60s"])?
        .spawn()?;
    daemon.detach("last")?;
    assert!(drain.wait(PATIENCE)?.success());
    world.pcpm(["drain", "--undo"])?.run()?;
    daemon.attach("new", "t")?;
    Ok(())
}

#[test]
fn a_pool_grows_and_shrinks_while_it_runs() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    world.pcpm(["resize", "--capacity", "20"])?.run()?;
    daemon.wait_until_ready(20)?;
    let owners: Vec<_> = (0..20).map(|n| format!("o{n}")).collect();
    for owner in &owners {
        daemon.attach(owner, "t")?;
    }
    let high = daemon.get("o19")?.attachment.netns;
    world.slot(&high).tool("ping -c1 -W5 198.51.100.1").run()?;
    world.pcpm(["resize", "--capacity", "4"])?.run()?;
    let text = world.pcpm(["status"])?.run()?;
    assert!(text.contains("resizing: 16 more"), "{text}");
    world.slot(&high).tool("ping -c1 -W5 198.51.100.1").run()?;
    for owner in &owners {
        daemon.detach(owner)?;
    }
    daemon.wait_until("the pool is small again", |counts| {
        counts.ready == 4 && counts.beyond == 0 && counts.retiring == 0
    })?;
    let (_, text) = world.pcpm(["resize", "--capacity", "513"])?.fails()?;
    assert!(text.contains("max_capacity"), "{text}");
    Ok(())
}

#[test]
fn fewer_are_kept_ready_on_request() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(8)?;
    world.pcpm(["resize", "--ready", "2"])?.run()?;
    daemon.wait_until("six are gone", |counts| {
        counts.ready == 2 && counts.vacant == 6
    })?;
    Ok(())
}

//! A daemon that stops leaves its host as it found it.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use pcpm_tests::{HostState, PATIENCE, World, binary, wait_for_path};
use serde_json::json;

/// `log` is what the daemon wrote, to be shown with what it left.
fn assert_as_before(world: &World, before: &HostState, log: &str) -> Result<()> {
    let difference = HostState::of(world.host())?.difference(before);
    assert_eq!(difference, "", "after the daemon, which wrote:\n{log}");
    Ok(())
}

#[test]
fn nothing_is_left_after_sigterm() -> Result<()> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let mut daemon = world.pool_of(20)?;
    let attached = daemon.attach("web", "t")?;
    daemon
        .place(&attached)
        .tool("ping -c1 -W5 198.51.100.1")
        .run()?;
    daemon.stop(PATIENCE)?;
    assert_as_before(&world, &before, &daemon.log())
}

#[test]
fn nothing_is_left_after_sigint_while_it_fills() -> Result<()> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let mut daemon = world.spawn_daemon(&["--capacity", "400"])?;
    daemon.wait_until("some slots are ready", |counts| counts.ready >= 10)?;
    daemon.signal(Signal::SIGINT)?;
    assert!(daemon.wait(PATIENCE)?.success(), "{}", daemon.log());
    assert_as_before(&world, &before, &daemon.log())
}

#[test]
fn a_daemon_that_stops_clears_what_a_killed_one_left_too() -> Result<()> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let mut killed = world.pool_of(10)?;
    killed.attach("web", "t")?;
    killed.signal(Signal::SIGKILL)?;
    killed.wait(PATIENCE)?;
    let mut next = world.spawn_daemon(&["--capacity", "10"])?;
    assert_eq!(next.status()?.slots.attached, 1);
    next.stop(PATIENCE)?;
    let difference = HostState::of(world.host())?.difference(&before);
    // It cannot know who made the directory that it found.
    let left = difference
        .lines()
        .filter(|line| !line.ends_with("/run/pcpm"));
    assert_eq!(
        left.collect::<Vec<_>>(),
        [""; 0],
        "after the daemon, which wrote:\n{}",
        next.log()
    );
    Ok(())
}

#[test]
fn attach_is_refused_by_name_while_it_stops() -> Result<()> {
    let world = World::new()?;
    let mut daemon = world.pool_of(300)?;
    let mut wire = daemon.connect()?;
    let _: serde_json::Value = wire.call("Status", &serde_json::json!({}))?;
    daemon.signal(Signal::SIGTERM)?;
    // Until it has seen the signal it attaches as ever; then it refuses, or is gone.
    for number in 0.. {
        let owner = serde_json::json!({"owner": format!("late-{number}")});
        match wire.try_call("Attach", &owner) {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => {
                assert!(
                    ["Draining", "PoolExhausted"].contains(&refusal.name.as_str()),
                    "{refusal:?}"
                );
                break;
            }
            Err(_) => break,
        }
    }
    assert!(daemon.wait(PATIENCE)?.success(), "{}", daemon.log());
    Ok(())
}

#[test]
fn four_thousand_slots_are_gone_within_fifteen_seconds() -> Result<()> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let mut daemon = world.spawn_daemon(&["--capacity", "4000"])?;
    daemon.wait_until_ready(4000)?;
    let took = daemon.stop(PATIENCE)?;
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    assert_as_before(&world, &before, &daemon.log())
}

#[test]
fn nothing_is_left_after_a_signal_while_the_hubs_are_made() -> Result<()> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let capacity = ["--capacity", "16000", "--ready", "0"];
    let mut starting = world.host().command(binary("pcpmd")?, capacity).spawn()?;
    wait_for_path(&world.path("/run/pcpm/hubs/0"), &starting)?;
    starting.signal(Signal::SIGTERM)?;
    let ended = starting.wait(PATIENCE)?;
    assert!(ended.success(), "{ended}");
    assert_as_before(&world, &before, "")
}

#[test]
fn who_waits_for_a_slot_when_the_daemon_stops_is_told() -> Result<()> {
    let world = World::new()?;
    let mut daemon = world.pool_of(1)?;
    daemon.attach("first", "t")?;
    let mut wire = daemon.connect()?;
    wire.send(&json!({
        "method": "io.pcpm.Pool.Attach",
        "parameters": {"owner": "second", "on_empty": "wait", "timeout_ms": 60_000},
    }))?;
    daemon.wait_until("a request waits", |counts| counts.waiting == 1)?;
    daemon.stop(PATIENCE)?;
    let answer = wire.receive()?.context("no answer")?;
    assert_eq!(answer["error"], "io.pcpm.Pool.Draining", "{answer}");
    Ok(())
}

//! `pcpm run` and `pcpm exec`: a command in a slot, its signals and its exit status.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use pcpm_tests::{PATIENCE, Process, World};

/// Starts `pcpm run -- sh -c SCRIPT` and waits for the script's first line.
fn run_until_first_line(world: &World, script: &str) -> Result<(Process, String)> {
    let mut running = world
        .pcpm(["run", "--name", "job", "--", "sh", "-c", script])?
        .with(|command| {
            command.stdout(Stdio::piped());
        })
        .spawn()?;
    let output = running.child().stdout.take().context("no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    Ok((running, line.trim().to_owned()))
}

#[test]
fn a_command_runs_in_a_slot_of_its_own() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let links = world
        .pcpm(["run", "--", "ip", "-o", "-4", "address", "show", "eth0"])?
        .run()?;
    assert!(links.contains(" 10.213."), "{links}");
    daemon.wait_until_ready(2)?;
    Ok(())
}

#[test]
fn the_exit_status_of_the_command_is_passed_on() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        let output = world.pcpm(["run", "--", "sh", "-c", script])?.output()?;
        assert_eq!(output.status.code(), Some(code), "{script}");
    }
    let missing = world.pcpm(["run", "--", "/no/such/command"])?.fails()?;
    assert_eq!(missing.0, 127, "{}", missing.1);
    daemon.wait_until_ready(4)?;
    Ok(())
}

#[test]
fn signals_reach_the_command() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let script = "trap 'exit 42' TERM; echo started; while :; do sleep 0.05; done";
    let (mut running, _) = run_until_first_line(&world, script)?;
    running.signal(Signal::SIGTERM)?;
    assert_eq!(running.wait(PATIENCE)?.code(), Some(42));
    daemon.wait_until_ready(2)?;
    Ok(())
}

#[test]
fn the_slot_is_given_back_when_pcpm_is_killed() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (running, _) = run_until_first_line(&world, "echo started; exec sleep 1000")?;
    assert_eq!(daemon.status()?.slots.attached, 1);
    running.signal(Signal::SIGKILL)?;
    daemon.wait_until_ready(2)?;
    Ok(())
}

#[test]
fn a_command_knows_its_slot() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(2)?;
    let script = "echo $PCPM_OWNER $PCPM_SLOT $PCPM_ADDRESS $PCPM_NETNS $PCPM_INNER_ADDRESS";
    let said = world
        .pcpm(["run", "--name", "job", "--", "sh", "-c", script])?
        .run()?;
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words[0], "job");
    assert_eq!(words[3], format!("/run/pcpm/netns/{}", words[1]));
    assert!(words[2].starts_with("10.213."), "{said}");
    assert_eq!(
        words[4], words[2],
        "the same unless all slots have one inner address"
    );
    Ok(())
}

#[test]
fn exec_enters_the_slot_of_an_owner() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let attached = daemon.attach("web", "t")?.attachment;
    let addresses = world
        .pcpm(["exec", "web", "--", "ip", "-o", "-4", "address"])?
        .run()?;
    assert!(
        addresses.contains(&attached.inner_addresses[0]),
        "{addresses}"
    );
    let (code, _) = world
        .pcpm(["exec", "web", "--", "sh", "-c", "exit 9"])?
        .fails()?;
    assert_eq!(code, 9);
    let (code, error) = world.pcpm(["exec", "nobody", "--", "true"])?.fails()?;
    assert_eq!(code, 1);
    assert!(error.contains("nobody"), "{error}");
    assert_eq!(daemon.status()?.slots.attached, 1);
    Ok(())
}

#[test]
fn a_run_that_ends_leaves_the_next_holder_of_its_name_alone() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(3)?;
    let (mut running, _) = run_until_first_line(&world, "echo started; exec sleep 1000")?;
    daemon.detach("job")?;
    let next = daemon.attach("job", "another")?.attachment;
    running.signal(Signal::SIGTERM)?;
    running.wait(PATIENCE)?;
    assert_eq!(daemon.get("job")?.attachment.id, next.id);
    Ok(())
}

#[test]
fn two_runs_do_not_share_a_slot() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(3)?;
    let (_running, _) = run_until_first_line(&world, "echo started; exec sleep 1000")?;
    let (code, error) = world
        .pcpm(["run", "--name", "job", "--", "true"])?
        .fails()?;
    assert_eq!(code, 1);
    assert!(error.contains("job"), "{error}");
    assert_eq!(daemon.status()?.slots.attached, 1);
    Ok(())
}

#[test]
fn a_command_keeps_its_network_over_a_restart_and_gives_it_back_when_it_is_killed() -> Result<()> {
    let world = World::new()?;
    let keep = ["--capacity", "2", "--on-exit", "keep"];
    let mut first = world.spawn_daemon(&keep)?;
    first.wait_until_ready(2)?;
    let (running, _) = run_until_first_line(&world, "echo started; exec sleep 1000")?;
    let held = first.get("job")?.attachment;
    first.stop(PATIENCE)?;

    let mut second = world.spawn_daemon(&keep)?;
    let kept = second.get("job")?.attachment;
    assert_eq!(kept.id, held.id);
    world
        .slot(&kept.netns)
        .tool("ping -c1 -W5 198.51.100.1")
        .run()?;
    second.stop(PATIENCE)?;

    running.signal(Signal::SIGKILL)?;
    drop(running);
    let third = world.spawn_daemon(&keep)?;
    third.wait_until_ready(2)?;
    assert_eq!(third.status()?.slots.attached, 0);
    Ok(())
}

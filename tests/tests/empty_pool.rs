//! A pool that has nothing ready: who waits is seen, served in order, and told the truth.

use std::process::Stdio;

use anyhow::Result;
use pcpm_tests::World;
use serde_json::Value;

#[test]
fn the_queue_is_seen_and_whoever_waited_for_a_new_slot_is_told_it_is_cold() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    daemon.attach("first", "t")?;
    let mut waits = world
        .pcpm([
            "--json",
            "attach",
            "second",
            "--tenant",
            "shop",
            "--timeout",
            "60s",
        ])?
        .with(|command| {
            command.stdout(Stdio::piped());
        })
        .spawn()?;
    daemon.watch("a request waits", |frame| {
        (frame.counts.waiting == 1).then_some(())
    })?;
    let status = world.pcpm(["status"])?.run()?;
    let line = status.lines().find(|line| line.contains("second"));
    let words: Vec<_> = line.unwrap_or_default().split('\t').collect();
    assert_eq!(
        words[..4],
        ["waiting", "second", "shop", "wait"],
        "{status}"
    );
    daemon.detach("first")?;
    assert!(waits.wait(pcpm_tests::PATIENCE)?.success());
    let attachment: Value = serde_json::from_reader(waits.child().stdout.take().unwrap())?;
    assert_eq!(attachment["source"], "cold", "{attachment}");
    Ok(())
}

#[test]
fn whoever_does_not_wait_is_told_how_things_are() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    daemon.attach("first", "t")?;
    let refused = world.pcpm(["attach", "second", "--on-empty", "fail"])?;
    let (code, text) = refused.fails()?;
    assert_eq!(code, 4);
    for words in ["0 of 1 slots ready", "0 requests waiting", "try again in"] {
        assert!(text.contains(words), "{text}");
    }
    let refused = world.pcpm(["attach", "third", "--timeout", "10ms"])?;
    assert_eq!(refused.fails()?.0, 4);
    Ok(())
}

//! A daemon that is killed and comes back: what it said stays true.

use std::fs;
use std::io::Write as _;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use pcpm_api::types::CheckStatus;
use pcpm_tests::{ChaosPlan, Daemon, PATIENCE, World, chaos};
use serde_json::{Value, json};

const JOURNAL: &str = "/run/pcpm/journal";

fn kill(daemon: &mut Daemon) -> Result<()> {
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE)?;
    Ok(())
}

fn restarted(world: &World, daemon: &mut Daemon, slots: u32) -> Result<Daemon> {
    kill(daemon)?;
    world.spawn_daemon(&["--capacity", &slots.to_string()])
}

/// What `show` prints, but for what passes.
fn show(world: &World, owner: &str) -> Result<Value> {
    let mut shown = world.pcpm(["--json", "show", owner])?.json()?;
    shown["traffic"].take();
    Ok(shown)
}

#[test]
fn nothing_is_lost_under_load_however_often_the_daemon_is_killed() -> Result<()> {
    let chaos = chaos(ChaosPlan {
        cycles: 8,
        clients: 40,
        seed: 1,
    })?;
    println!("{chaos}");
    assert!(chaos.is_clean(), "{chaos}");
    assert!(chaos.attaches > 40 && chaos.detaches > 40, "{chaos}");
    Ok(())
}

#[test]
fn an_attachment_is_the_same_after_a_restart() -> Result<()> {
    let world = World::new()?;
    let mut daemon = world.pool_of(4)?;
    world
        .pcpm([
            "attach",
            "web",
            "--tenant",
            "shop",
            "--label",
            "tier=front",
            "--publish",
            "8080:80",
            "--allow",
            "198.51.100.0/24",
            "--deny",
            "0.0.0.0/0",
            "--rate-up",
            "10M",
        ])?
        .run()?;
    world.pcpm(["attach", "plain"])?.run()?;
    let before = [show(&world, "web")?, show(&world, "plain")?];
    for _ in 0..3 {
        daemon = restarted(&world, &mut daemon, 4)?;
        assert_eq!([show(&world, "web")?, show(&world, "plain")?], before);
        daemon.wait_until("the pool is as it was", |counts| {
            (counts.attached, counts.ready) == (2, 2)
        })?;
    }
    let again = world.pcpm(["--json", "attach", "plain"])?.json()?;
    assert_eq!(again["id"], before[1]["id"]);
    let web = before[0]["netns"].as_str().context("no netns")?;
    world.slot(web).tool("ping -c1 -W5 198.51.100.1").run()?;
    daemon.detach("web")?;
    daemon.wait_until("its slot is made anew", |counts| counts.ready == 3)?;
    Ok(())
}

#[test]
fn a_detached_slot_does_not_come_back_with_its_traces() -> Result<()> {
    let world = World::new()?;
    let mut daemon = world.pool_of(1)?;
    let first = daemon.attach("first", "t")?;
    let dirty = daemon.place(&first);
    dirty.tool("ip link add left-behind type bridge").run()?;
    daemon.detach("first")?;
    let daemon = restarted(&world, &mut daemon, 1)?;
    daemon.wait_until_ready(1)?;
    let second = daemon.attach("second", "t")?;
    let links = daemon.place(&second).tool("ip -o link").run()?;
    assert!(!links.contains("left-behind"), "{links}");
    assert_ne!(first.attachment.id, second.attachment.id);
    Ok(())
}

#[test]
fn leases_of_connections_end_with_the_daemon_and_those_of_processes_with_them() -> Result<()> {
    let world = World::new()?;
    let mut daemon = world.pool_of(3)?;
    let mut wire = daemon.connect()?;
    let leased = json!({"owner": "connection", "lease": "connection"});
    wire.call::<Value>("Attach", &leased)?;
    let background = ["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"];
    let pid = world.command("sh", background).run()?;
    let lease = format!("pid:{}", pid.trim());
    world
        .pcpm(["attach", "process", "--lease", &lease])?
        .run()?;
    world.pcpm(["attach", "explicit"])?.run()?;
    let daemon = restarted(&world, &mut daemon, 3)?;
    daemon.wait_until("one lease has ended", |counts| counts.attached == 2)?;
    assert!(daemon.get("connection").is_err());
    world.tool(&format!("kill {pid}")).run()?;
    daemon.wait_until("the other has, too", |counts| counts.attached == 1)?;
    daemon.get("explicit")?;
    Ok(())
}

#[test]
fn a_full_state_directory_refuses_attaches_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    world.tool("mkdir -p /run/pcpm").run()?;
    world
        .tool("mount -t tmpfs -o size=64k,mode=755 tmpfs /run/pcpm")
        .run()?;
    let mut daemon = world.pool_of(4)?;
    let before = daemon.attach("before", "t")?;
    let filler = world.path("/run/pcpm/filler");
    let mut file = fs::File::create(&filler)?;
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);
    let labels = json!({"large": "x".repeat(200)});
    // What is left of the last page takes some.
    let mut wire = daemon.connect()?;
    // Shorter records may fit where this one does not: those of slots that are being made anew.
    let mut is_settled = false;
    let refused = loop {
        let request = json!({"owner": "one-more", "labels": labels});
        match wire.try_call("Attach", &request)? {
            Ok(_) => {
                daemon.detach("one-more")?;
                is_settled = false;
            }
            Err(refused) if is_settled => break refused,
            Err(_) => {
                daemon.wait_until_ready(3)?;
                is_settled = true;
            }
        }
    };
    assert_eq!(refused.name, "NotRecorded");
    let shown = world.pcpm(["status"])?.run()?;
    assert!(shown.contains("ENOSPC"), "{shown}");
    let checks = world.pcpm(["--json", "doctor"])?.output()?;
    let checks: Value = serde_json::from_slice(&checks.stdout)?;
    let journal = checks.as_array().or(checks["checks"].as_array());
    let journal = journal
        .into_iter()
        .flatten()
        .find(|check| check["name"] == "journal");
    assert_eq!(
        journal.context("no check")?["status"],
        json!(CheckStatus::Failed)
    );
    // A detach needs no room, and holds whatever becomes of the daemon.
    daemon.detach("before")?;
    let daemon = restarted(&world, &mut daemon, 4)?;
    assert!(daemon.get("before").is_err());
    fs::remove_file(filler)?;
    daemon.wait_until_ready(4)?;
    let after = daemon.attach("after", "t")?;
    assert_ne!(before.attachment.id, after.attachment.id);
    Ok(())
}

#[test]
fn a_damaged_journal_is_told_and_its_beginning_used() -> Result<()> {
    let world = World::new()?;
    let mut daemon = world.pool_of(3)?;
    daemon.attach("early", "t")?;
    let intact = fs::metadata(world.path(JOURNAL))?.len();
    daemon.attach("late", "t")?;
    kill(&mut daemon)?;
    let mut bytes = fs::read(world.path(JOURNAL))?;
    bytes[usize::try_from(intact)? + 30] ^= 1;
    fs::write(world.path(JOURNAL), bytes)?;
    let daemon = world.spawn_daemon(&["--capacity", "3"])?;
    daemon.get("early")?;
    assert!(daemon.get("late").is_err());
    let status = daemon.status()?;
    let warning = format!("the journal is damaged at byte {intact}");
    assert!(
        status.warnings.iter().any(|told| told.contains(&warning)),
        "{status:?}"
    );
    daemon.wait_until(
        "the slot that nobody is known to hold is made anew",
        |counts| (counts.attached, counts.ready) == (1, 2),
    )?;
    Ok(())
}

#[test]
fn a_journal_of_a_later_version_is_refused_and_nothing_is_touched() -> Result<()> {
    let world = World::new()?;
    let mut daemon = world.pool_of(2)?;
    let attached = daemon.attach("web", "t")?;
    let place = daemon.place(&attached);
    kill(&mut daemon)?;
    let ours = fs::read_to_string(world.path(JOURNAL))?;
    let (_, rest) = ours.split_once('\n').context("no lines")?;
    // The checksum of a line stands before it.
    let later = "{\"pcpm_journal\":1000}";
    let line = format!("{:08x} {later}", crc32(later.as_bytes()));
    fs::write(world.path(JOURNAL), format!("{line}\n{rest}"))?;
    let refused = world
        .spawn_daemon(&["--capacity", "2"])
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("it has format 1000 and this pcpmd knows"),
        "{refused}"
    );
    place.tool("ping -c1 -W5 198.51.100.1").run()?;
    fs::write(world.path(JOURNAL), ours)?;
    world.spawn_daemon(&["--capacity", "2"])?.get("web")?;
    Ok(())
}

/// CRC-32 as zip has it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

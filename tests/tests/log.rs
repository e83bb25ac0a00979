//! What the daemon logs: events as lines with fields, for people, programs and the journal, and never at the
//! expense of whom it serves.

use std::fs::{self, File};
use std::io::pipe;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use pcpm_tests::{PATIENCE, World};
use serde_json::{Value, json};

const FILE: &str = "/run/pcpmd.toml";
const JOURNAL: &str = "/run/systemd/journal/socket";

#[test]
fn every_line_is_an_object_and_the_level_follows_a_reload() -> Result<()> {
    let world = World::without_uplink()?;
    let file = world.path(FILE);
    let settings = |level: &str| {
        let text = format!("capacity = 2\n[log]\nformat = \"json\"\nlevel = \"{level}\"\n");
        fs::write(&file, text)
    };
    settings("info")?;
    let mut daemon = world.spawn_daemon(&["--config", FILE])?;
    daemon.wait_until_ready(2)?;
    daemon.attach("quiet", "t")?;
    settings("debug")?;
    let reloaded = world.pcpm(["reload"])?.run()?;
    assert!(!reloaded.contains("restart needed"), "{reloaded}");
    let attached = daemon.attach("loud", "t")?;
    daemon.stop(PATIENCE)?;
    let log = daemon.log();
    let lines: Vec<Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context(log.clone())?;
    for key in ["time", "level", "target", "message"] {
        assert!(lines.iter().all(|line| line[key].is_string()), "{log}");
    }
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "attached")
        .map(|line| {
            (
                &line["level"],
                &line["owner"],
                &line["tenant"],
                &line["slot"],
            )
        })
        .collect();
    let (level, owner, tenant) = ("debug".into(), "loud".into(), "t".into());
    let slot = attached.attachment.slot.into();
    assert_eq!(told, [(&level, &owner, &tenant, &slot)], "{log}");
    Ok(())
}

#[test]
fn the_journal_gets_fields_to_select_by() -> Result<()> {
    let world = World::without_uplink()?;
    fs::create_dir_all(world.path("/run/systemd/journal"))?;
    let journal = UnixDatagram::bind(world.path(JOURNAL))?;
    journal.set_read_timeout(Some(PATIENCE))?;
    let stderr = File::create(world.path("/run/stderr"))?;
    let stream = stderr.metadata()?;
    let stream = format!("{}:{}", stream.dev(), stream.ino());
    let options = ["--capacity", "1", "--log-level", "debug"];
    let daemon = world.spawn_daemon_with(&options, |tool| {
        tool.env("JOURNAL_STREAM", stream).with(|command| {
            command.stderr(stderr);
        })
    })?;
    daemon.attach("web-1", "shop")?;
    let mut datagram = [0; 4096];
    let attached = loop {
        let length = journal.recv(&mut datagram)?;
        let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
        if text.contains("attached: ") && text.contains("web-1") {
            break text;
        }
    };
    for field in [
        "MESSAGE",
        "PRIORITY",
        "PCPM_OWNER",
        "PCPM_TENANT",
        "PCPM_SLOT",
    ] {
        assert!(attached.contains(&format!("{field}\n")), "{attached:?}");
    }
    assert_eq!(fs::read_to_string(world.path("/run/stderr"))?, "");
    Ok(())
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() -> Result<()> {
    let world = World::without_uplink()?;
    let (unread, stderr) = pipe()?;
    fcntl(&unread, FcntlArg::F_SETPIPE_SZ(4096))?;
    let options = ["--capacity", "1", "--log-level", "debug"];
    let mut daemon = world.spawn_daemon_with(&options, |tool| {
        tool.with(|command| {
            command.stderr(stderr);
        })
    })?;
    daemon.attach("web", "t")?;
    let lost = |warning: &String| warning.contains("lines of the log were lost");
    let deadline = Instant::now() + PATIENCE;
    while !daemon.status()?.warnings.iter().any(lost) {
        ensure!(Instant::now() < deadline, "nothing is lost");
        for _ in 0..100 {
            // Refused, which is a line of the log.
            let again = json!({"owner": "web", "tenant": "t", "exclusive": true});
            assert!(daemon.attach_with(&again).is_err());
        }
    }
    daemon.stop(PATIENCE)?;
    drop(unread);
    Ok(())
}

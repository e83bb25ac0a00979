//! Something that the daemon lives on runs out: it says so, goes on with what it has, and is whole again when
//! there is enough.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pcpm_api::types::{Event, SlotCounts, WatchFrame};
use pcpm_tests::{Daemon, PATIENCE, Wire, World};
use serde_json::{Value, json};

/// Follows what happens from now on, over a connection that is there before anything runs out.
struct Watcher {
    wire: Wire,
    /// Not looked at yet.
    events: VecDeque<Event>,
}

impl Watcher {
    fn begin(daemon: &Daemon) -> Result<Self> {
        let mut wire = daemon.connect()?;
        wire.stream("Watch", &json!({"interval_ms": 20}))?;
        let _first: WatchFrame = wire.next_reply()?;
        let events = VecDeque::new();
        Ok(Self { wire, events })
    }

    /// Waits for the next event of this kind that says so.
    fn event(&mut self, kind: &str, says: &str) -> Result<Event> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.kind == kind && event.message.contains(says) {
                    return Ok(event);
                }
            }
            self.frame(&format!("{kind}: {says}"), deadline)?;
        }
    }

    /// Waits until the pool's counts are as wanted.
    fn counts(&mut self, what: &str, wanted: impl Fn(&SlotCounts) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.frame(what, deadline)?) {}
        Ok(())
    }

    fn frame(&mut self, what: &str, deadline: Instant) -> Result<SlotCounts> {
        ensure!(Instant::now() < deadline, "{what} never happened");
        let frame: WatchFrame = self.wire.next_reply().context(what.to_owned())?;
        self.events.extend(frame.events);
        Ok(frame.counts)
    }
}

/// Sets the soft limit of a running process on open files.
fn limit_files(daemon: &Daemon, files: usize) -> Result<()> {
    let pid = daemon.main_thread().to_string();
    let limit = format!("--nofile={files}:");
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .output()?;
    ensure!(set.status.success(), "prlimit: {set:?}");
    Ok(())
}

fn open_files(daemon: &Daemon) -> Result<usize> {
    let all = fs::read_dir(format!("/proc/{}/fd", daemon.main_thread()))?;
    Ok(all.count())
}

#[test]
fn without_a_free_file_descriptor_slots_and_clients_wait_until_there_is_one() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    let (mut wire, mut watcher) = (daemon.connect()?, Watcher::begin(&daemon)?);
    let _known: Value = wire.call("Status", &json!({}))?;
    limit_files(&daemon, open_files(&daemon)?)?;
    let _resized: Value = wire.call("Resize", &json!({"capacity": 8}))?;
    watcher.event("failed", "EMFILE")?;
    // A few more than descriptors that were open for a moment only, while they were counted.
    let waiting: Vec<_> = (0..16).map(|_| daemon.connect()).collect::<Result<_>>()?;
    watcher.event("clients", "cannot be accepted")?;
    // Who is connected is served out of what is there.
    let request = json!({"owner": "web", "tenant": "t"});
    let web: pcpm_api::types::AttachReply = wire.call("Attach", &request)?;
    daemon.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    limit_files(&daemon, 4096)?;
    drop(waiting);
    let _next = daemon.connect()?;
    watcher.event("clients", "are accepted again")?;
    watcher.counts("every slot is made", |counts| counts.ready == 7)?;
    daemon.detach("web")?;
    daemon.wait_until_ready(8)
}

#[test]
fn without_room_for_mount_points_slots_wait_until_there_is_some() -> Result<()> {
    let world = World::new()?;
    world.tool("mkdir -p /run/pcpm").run()?;
    let mount = "mount -t tmpfs -o nr_inodes=14,mode=755 tmpfs /run/pcpm";
    world.tool(mount).run()?;
    let daemon = world.spawn_daemon(&["--capacity", "16"])?;
    let mut watcher = Watcher::begin(&daemon)?;
    daemon.wait_until("some slots are there, and no more", |counts| {
        counts.ready > 0 && counts.failed > 0
    })?;
    let failure = daemon.watch_figures("a failure is told", |figures| {
        figures.failures.first().cloned()
    })?;
    assert!(failure.reason.contains("ENOSPC"), "{failure:?}");
    // Nothing is left of those that could not be made.
    let links = world.slot("/run/pcpm/hubs/0").tool("ip -o link").run()?;
    let links = links.lines().filter(|line| line.contains(": s00")).count();
    let ready = daemon.status()?.slots.ready as usize;
    assert!(links.abs_diff(ready) <= 2, "{links} links, {ready} slots");
    world
        .tool("mount -o remount,nr_inodes=1000 /run/pcpm")
        .run()?;
    watcher.counts("every slot is made", |counts| counts.ready == 16)
}

/// A control group that bounds the memory of what is in it, of either version.
struct MemoryGroup {
    path: PathBuf,
    limit: &'static str,
    usage: &'static str,
}

impl MemoryGroup {
    fn create() -> Option<Self> {
        let kinds = [
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            ),
            ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ];
        for (root, limit, usage) in kinds {
            let path = Path::new(root).join(format!("pcpm-test-{}", std::process::id()));
            if !Path::new(root).join("cgroup.procs").exists() || fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self { path, limit, usage };
            if group.path.join(limit).exists() {
                return Some(group);
            }
        }
        None
    }

    fn take_in(&self, daemon: &Daemon) -> io::Result<()> {
        fs::write(
            self.path.join("cgroup.procs"),
            daemon.main_thread().to_string(),
        )
    }

    fn used(&self) -> Result<u64> {
        Ok(fs::read_to_string(self.path.join(self.usage))?
            .trim()
            .parse()?)
    }

    fn set_limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.path.join(self.limit), bytes.to_string())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Processes that were killed leave it when they are reaped.
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.path).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn without_memory_slots_fail_or_the_daemon_is_killed_and_nothing_is_lost() -> Result<()> {
    let Some(group) = MemoryGroup::create() else {
        println!("not run: no control group with a limit on memory can be made here");
        return Ok(());
    };
    let world = World::new()?;
    let mut daemon = world.spawn_daemon(&["--capacity", "8", "--config", &many(&world)?])?;
    daemon.wait_until_ready(8)?;
    let web = daemon.attach("web", "t")?;
    group.take_in(&daemon)?;
    group.set_limit(group.used()? + (4 << 20))?;
    let is_killed = until_it_hurts(&mut daemon)?;
    println!("killed by the kernel: {is_killed}");
    daemon.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    group.set_limit(1 << 33)?;
    // Slots that were being made may have had it killed since.
    if is_killed || daemon.wait(Duration::from_secs(1)).is_ok() {
        // What a service manager does.
        daemon = world.spawn_daemon(&["--capacity", "8", "--config", &many(&world)?])?;
    }
    assert_eq!(daemon.get("web")?.attachment.id, web.attachment.id);
    daemon.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    daemon
        .connect()?
        .call::<Value>("Resize", &json!({"capacity": 300, "ready": 100}))?;
    daemon.wait_until("it fills again", |counts| counts.ready >= 100)?;
    Ok(())
}

fn many(world: &World) -> Result<String> {
    let file = "/run/pcpmd.toml";
    fs::write(world.path(file), "max_capacity = 2000\n")?;
    Ok(file.to_owned())
}

/// Has the pool grow until its memory is used up. Returns whether the kernel killed the daemon for it.
fn until_it_hurts(daemon: &mut Daemon) -> Result<bool> {
    let mut watcher = Watcher::begin(daemon)?;
    // It may not live to answer.
    let larger = json!({"capacity": 2000, "ready": 2000});
    let _resized: Result<Value> = daemon.connect()?.call("Resize", &larger);
    if watcher.event("failed", "ENOMEM").is_ok() {
        return Ok(false);
    }
    let status = daemon.wait(PATIENCE)?;
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32),
        "{status}\n{}",
        daemon.log()
    );
    Ok(true)
}

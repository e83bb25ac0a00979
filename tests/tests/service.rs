//! The daemon as a service: what its units say, judged by systemd's own tools, and what it tells a service manager.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pcpm_tests::{PATIENCE, World, wait_for_path};
use tempfile::TempDir;

const UNIT: &str = "pcpmd.service";
/// Has variables name the process that becomes the daemon, as service managers do.
const AS_SERVICE: [&str; 3] = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""];

fn contrib(name: &str) -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.join("../contrib").join(name)
}

fn unit() -> Result<String> {
    Ok(fs::read_to_string(contrib("systemd").join(UNIT))?)
}

/// The values of `key`, in their order.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines
        .filter_map(|(name, value)| (name == key).then_some(value))
        .collect()
}

/// The units where systemd's tools may judge them before anything is installed: what they execute is there.
fn copies() -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    for name in [UNIT, "pcpmd.socket"] {
        let text = fs::read_to_string(contrib("systemd").join(name))?;
        let text = text.replace("/usr/bin/pcpmd", "/bin/true");
        fs::write(directory.path().join(name), text)?;
    }
    Ok(directory)
}

fn run(program: &str, args: &[&str], directory: &TempDir) -> Result<String> {
    let mut command = Command::new(program);
    let output = command.args(args).current_dir(directory).output();
    let output = output.with_context(|| format!("start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {args:?}: {text}{errors}"
    );
    Ok(text + &errors)
}

#[test]
fn systemd_understands_every_word_of_the_units() -> Result<()> {
    let units = copies()?;
    for name in [UNIT, "pcpmd.socket"] {
        let path = format!("./{name}");
        let told = run("systemd-analyze", &["verify", "--man=no", &path], &units)?;
        assert!(!told.contains(name), "{told}");
    }
    Ok(())
}

#[test]
fn the_service_is_exposed_no_more_than_its_work_needs() -> Result<()> {
    // In tenths. The rest is what the work is: root with links, mounts and programs, on the host's network.
    let args = [
        "security",
        "--offline=yes",
        "--threshold=50",
        "./pcpmd.service",
    ];
    run("systemd-analyze", &args, &copies()?).map(drop)
}

#[test]
fn nothing_keeps_the_mounts_of_slots_from_the_host() -> Result<()> {
    // What makes systemd 252 give a service a mount namespace (exec_needs_mount_namespace), which only receives.
    let unit = unit()?;
    for key in [
        "BindPaths",
        "BindReadOnlyPaths",
        "DynamicUser",
        "ExecPaths",
        "ExtensionDirectories",
        "ExtensionImages",
        "InaccessiblePaths",
        "IPCNamespacePath",
        "LogNamespace",
        "MountFlags",
        "MountImages",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateTmp",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "RootImage",
        "TemporaryFileSystem",
    ] {
        assert!(values(&unit, key).is_empty(), "{key}");
    }
    Ok(())
}

/// The calls that the unit lets through, by systemd's own sets.
fn admitted() -> Result<BTreeSet<String>> {
    let unit = unit()?;
    let mut admitted = calls_of("@default")?;
    for filter in values(&unit, "SystemCallFilter") {
        let (refused, words) = match filter.strip_prefix('~') {
            Some(words) => (true, words),
            None => (false, filter),
        };
        for word in words.split_whitespace() {
            let mut calls = calls_of(word)?;
            if refused {
                admitted.retain(|call| !calls.contains(call));
            } else {
                admitted.append(&mut calls);
            }
        }
    }
    Ok(admitted)
}

fn calls_of(word: &str) -> Result<BTreeSet<String>> {
    if !word.starts_with('@') {
        return Ok([word.to_owned()].into());
    }
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", word])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let words = text.lines().filter_map(|line| line.strip_prefix("    "));
    let mut calls = BTreeSet::new();
    for word in words.filter(|word| !word.starts_with('#')) {
        calls.append(&mut calls_of(word)?);
    }
    ensure!(!calls.is_empty(), "systemd knows no set {word}");
    Ok(calls)
}

#[test]
fn the_system_call_filter_lets_a_whole_life_through() -> Result<()> {
    let world = World::new()?;
    // As where systemd is: the daemon gets mounts of its own.
    world.tool("mount --make-rshared /").run()?;
    let settings = "capacity = 4\negress = \"host\"\nhost_mounts = \"attached\"\n[refill]\nrecycle = \"verified\"\n\
                    max_rtnl_wait = \"2ms\"\n[metrics]\nlisten = \"unix:/run/pcpm/m.sock\"\n\
                    [reaper]\ninterval = \"1s\"\n";
    fs::write(world.path("/run/pcpmd.toml"), settings)?;
    for on_exit in ["keep", "remove"] {
        let calls = format!("/run/calls-{on_exit}");
        let strace = ["strace", "-D", "-f", "-qq", "-o", &calls];
        let args = ["--config", "/run/pcpmd.toml", "--on-exit", on_exit];
        let mut daemon =
            world.spawn_daemon_behind(&strace, &args, |tool| tool.env("INVOCATION_ID", "1"))?;
        daemon.wait_until_ready(4)?;
        let pcpm = |words: &str| world.pcpm(words.split(' '))?.run();
        pcpm("attach web --publish 8080:80 --allow *.example.org:443 --lease pid:1")?;
        pcpm("run -- true")?;
        pcpm("update web --rate-up 10M")?;
        pcpm("resize --capacity 3")?;
        daemon.watch("the hub is repaired", |frame| {
            if frame.full {
                world.tool("ip link del pcpm0").run().ok()?;
            }
            let mut told = frame.events.iter();
            told.any(|event| event.message.contains("hub 0"))
                .then_some(())
        })?;
        pcpm("reload")?;
        daemon.signal(Signal::SIGHUP)?;
        pcpm("locks --duration 1s")?;
        pcpm("doctor")?;
        let scrape = "curl -sS --fail --unix-socket /run/pcpm/m.sock http://pcpm/metrics";
        world.tool(scrape).run()?;
        pcpm("detach web")?;
        daemon.stop(PATIENCE)?;
    }
    let admitted = admitted()?;
    let kept = fs::read_to_string(world.path("/run/calls-keep"))?;
    let calls = kept + &fs::read_to_string(world.path("/run/calls-remove"))?;
    let names = calls.lines().filter_map(|line| {
        let call = line.split_once(' ')?.1.trim_start().split_once('(')?.0;
        let is_name = call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_name.then_some(call)
    });
    let mut names: BTreeSet<_> = names.collect();
    assert!(
        names.contains("setns") && names.contains("bpf"),
        "{names:?}"
    );
    // Called only if the kernel made the daemon's mount namespace on a processor that does not do.
    names.insert("sched_setaffinity");
    let refused: Vec<_> = names
        .iter()
        .filter(|&&name| !admitted.contains(name))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}

/// What a service manager hears.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(world: &World) -> Result<Self> {
        let socket = UnixDatagram::bind(world.path("/run/notify"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    fn next(&self) -> Result<String> {
        let mut message = [0; 1024];
        let length = self.0.recv(&mut message).context("hear the daemon")?;
        Ok(String::from_utf8_lossy(&message[..length]).into_owned())
    }

    /// Everything up to the message that has `line`.
    fn until(&self, line: &str) -> Result<Vec<String>> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.next()?);
            if heard[heard.len() - 1]
                .lines()
                .any(|said| said.starts_with(line))
            {
                return Ok(heard);
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_of_the_whole_life() -> Result<()> {
    let world = World::new()?;
    let manager = Manager::listen(&world)?;
    let mut daemon = world.spawn_daemon_behind(&AS_SERVICE, &["--capacity", "4"], |tool| {
        tool.env("NOTIFY_SOCKET", "/run/notify")
            .env("WATCHDOG_USEC", "300000")
    })?;
    manager.until("READY=1")?;
    assert_eq!(daemon.status()?.slots.ready, 4);
    daemon.attach("web", "t")?;
    let told = manager.until("STATUS=3 slots ready, 1 attached");
    assert!(told?.iter().any(|message| message.contains("WATCHDOG=1")));
    daemon.signal(Signal::SIGHUP)?;
    let began = manager.until("RELOADING=1")?;
    assert!(
        began[began.len() - 1].contains("MONOTONIC_USEC="),
        "{began:?}"
    );
    manager.until("READY=1")?;
    daemon.stop(PATIENCE)?;
    manager.until("STOPPING=1")?;
    Ok(())
}

#[test]
fn a_daemon_that_is_stuck_says_nothing() -> Result<()> {
    let world = World::new()?;
    let manager = Manager::listen(&world)?;
    let daemon = world.spawn_daemon_behind(&AS_SERVICE, &["--capacity", "1"], |tool| {
        tool.env("NOTIFY_SOCKET", "/run/notify")
            .env("WATCHDOG_USEC", "300000")
    })?;
    manager.until("WATCHDOG=1")?;
    daemon.signal(Signal::SIGSTOP)?;
    manager
        .0
        .set_read_timeout(Some(Duration::from_millis(600)))?;
    while manager.next().is_ok() {}
    daemon.signal(Signal::SIGCONT)?;
    manager.0.set_read_timeout(Some(PATIENCE))?;
    manager.until("WATCHDOG=1")?;
    Ok(())
}

#[test]
fn a_daemon_that_is_frozen_again_and_again_while_it_starts_serves() -> Result<()> {
    // The kernel breaks off its check of a program for each.
    const FREEZES: &str = "(for i in $(seq 40); do sleep 0.02; kill -STOP $$; kill -CONT $$; done) & exec \"$0\" \"$@\"";
    let world = World::new()?;
    let daemon = world.spawn_daemon_behind(&["sh", "-c", FREEZES], &["--capacity", "2"], |t| t)?;
    daemon.wait_until_ready(2)?;
    world.pcpm(["locks", "--duration", "100ms"])?.run()?;
    Ok(())
}

#[test]
fn clients_wait_at_a_socket_that_somebody_else_holds() -> Result<()> {
    let world = World::new()?;
    world.tool("mkdir /run/pcpm").run()?;
    let pcpmd = pcpm_tests::binary("pcpmd")?;
    let pcpmd = pcpmd.to_str().context("no text")?;
    let listen = ["-l", "/run/pcpm/pcpm.sock", pcpmd, "--capacity", "2"];
    let mut activator = world.command("systemd-socket-activate", listen).spawn()?;
    wait_for_path(&world.path("/run/pcpm/pcpm.sock"), &activator)?;
    let status = world.pcpm(["--json", "status"])?.json()?;
    assert_eq!(status["slots"]["capacity"], 2);
    activator.signal(Signal::SIGTERM)?;
    ensure!(activator.wait(PATIENCE)?.success());
    world.tool("test -S /run/pcpm/pcpm.sock").run()?;

    let elsewhere = ["-l", "/run/other.sock", pcpmd, "--capacity", "2"];
    let mut activator = world
        .command("systemd-socket-activate", elsewhere)
        .spawn()?;
    wait_for_path(&world.path("/run/other.sock"), &activator)?;
    let (code, _) = world
        .pcpm(["--socket", "/run/other.sock", "status"])?
        .fails()?;
    assert_eq!(code, 3);
    ensure!(!activator.wait(PATIENCE)?.success());
    Ok(())
}

#[test]
fn files_are_read_only_and_slots_are_seen_by_all() -> Result<()> {
    let world = World::new()?;
    world.tool("mount --make-rshared /").run()?;
    let settings = "capacity = 2\nhost_mounts = \"attached\"\n";
    fs::write(world.path("/run/pcpmd.toml"), settings)?;
    let args = ["--config", "/run/pcpmd.toml", "--on-exit", "keep"];
    let mut daemon = world.spawn_daemon(&args)?;
    daemon.wait_until_ready(2)?;
    let attached = daemon.attach("web", "t")?;
    daemon.wait_until_shown(&attached)?;
    let mounts = world.tool("cat /proc/self/mounts").run()?;
    let places = [
        "mounts/slots",
        &format!("attached/{}", attached.attachment.slot),
    ];
    for place in places {
        assert!(mounts.contains(&format!(" /run/pcpm/{place} ")), "{mounts}");
    }
    world
        .slot(&attached.attachment.netns)
        .tool("ip link show eth0")
        .run()?;
    let inside = |line: &str| {
        let pid = world.command("pgrep", ["-x", "pcpmd"]).run()?;
        let line = format!("nsenter -t {} -m {line}", pid.trim());
        world.tool(&line).output()
    };
    for place in ["/etc", "/usr", "/sys/fs/cgroup", "/"] {
        let touched = inside(&format!("touch {place}/pcpm-test"))?;
        let told = String::from_utf8_lossy(&touched.stderr).into_owned();
        assert!(told.contains("Read-only file system"), "{place}: {told}");
    }
    assert!(inside("touch /run/pcpm/test")?.status.success());
    daemon.stop(PATIENCE)?;
    world
        .slot(&attached.attachment.netns)
        .tool("ip link show eth0")
        .run()?;
    let next = world.spawn_daemon(&args[..2])?;
    assert_eq!(next.get("web")?.attachment.slot, attached.attachment.slot);
    drop(next);
    Ok(())
}

//! `pcpm-runtime` in the place of runc: bundles, real containers, and what is left when they are gone.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use pcpm_tests::engines::Runc;
use pcpm_tests::{Daemon, INTERNET_ADDRESS, Tool, World};
use serde_json::{Value, json};

/// Containers of runc in a world with a pool. The daemon comes first, so that it ends before its world.
struct Engine {
    daemon: Daemon,
    world: World,
}

impl Engine {
    fn new(slots: u32) -> Result<Self> {
        let world = World::new()?;
        let daemon = world.pool_of(slots)?;
        Ok(Self { daemon, world })
    }

    fn runc(&self) -> Result<Runc<'_>> {
        Runc::new(&self.world)
    }

    fn runtime(&self, line: &str) -> Result<Tool> {
        self.runc()?.runtime(line)
    }

    /// Makes a bundle whose container runs `script`.
    fn bundle(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
        let command = ["/bin/busybox", "sh", "-c", script];
        self.runc()?.bundle(name, &command, change)
    }

    fn attached(&self) -> Result<u32> {
        Ok(self.daemon.status()?.slots.attached)
    }

    fn start(&self, id: &str, bundle: &str) -> Result<()> {
        self.runc()?.start_pooled(id, bundle)
    }

    fn log(&self) -> Result<String> {
        Ok(self.runc()?.log())
    }
}

const IP: &str = "/bin/busybox ip -o -4 address show eth0";

#[test]
fn a_container_has_a_pooled_network_while_it_lives() -> Result<()> {
    let engine = Engine::new(2)?;
    let bundle = engine.bundle("c1", "exec /bin/busybox sleep 1000", |config| {
        config["annotations"] = json!({"io.pcpm.tenant": "shop", "io.pcpm.rate-up": "50M"});
    })?;
    engine.start("c1", &bundle)?;
    let attachment = engine.daemon.get("c1")?.attachment;
    assert_eq!(
        (attachment.tenant.as_str(), attachment.rate_up),
        ("shop", Some(50_000_000))
    );
    let shown = engine.runtime(&format!("exec c1 {IP}"))?.run()?;
    assert!(shown.contains(&attachment.addresses[0]), "{shown}");
    let inside = engine.world.slot(&attachment.netns);
    inside
        .tool(&format!("ping -c 1 -W 5 {INTERNET_ADDRESS}"))
        .run()?;

    let (code, _) = engine.runtime("delete c1")?.fails()?;
    assert_eq!(code, 1, "runc removes no container that runs");
    assert_eq!(engine.attached()?, 1, "nor is its network taken away");

    engine.runtime("kill c1 KILL")?.run()?;
    engine.runtime("delete --force c1")?.run()?;
    assert_eq!(engine.attached()?, 0);
    engine.runtime("delete --force c1")?.run()?;
    engine.daemon.wait_until_ready(2)
}

#[test]
fn how_long_a_container_took_to_start_is_told() -> Result<()> {
    let engine = Engine::new(1)?;
    let bundle = engine.bundle("c1", "exec /bin/busybox sleep 1000", |_| ())?;
    engine.start("c1", &bundle)?;
    // What is told is not waited for.
    let told = engine
        .daemon
        .watch_figures("the start is told", |figures| {
            (figures.starts.total.count > 0).then_some(figures.starts)
        })?;
    for (phase, latency) in [
        ("total", told.total),
        ("attach", told.attach),
        ("bundle", told.bundle),
        ("create", told.create),
        ("engine", told.engine),
        ("start", told.start),
    ] {
        assert_eq!(latency.count, 1, "{phase} of {told:?}");
        assert!(latency.max_us <= told.total.max_us, "{phase} of {told:?}");
    }
    assert_eq!((told.add.count, told.mount.count), (0, 0), "{told:?}");
    let text = engine.world.pcpm(["status"])?.run()?;
    assert!(text.contains("start phases\tp50 of attach "), "{text}");
    Ok(())
}

#[test]
fn no_start_depends_on_a_daemon_that_hears_of_it() -> Result<()> {
    let engine = Engine::new(1)?;
    let without = |config: &mut Value| config["annotations"] = json!({"io.pcpm.attach": "false"});
    for (id, signal) in [("deaf", Signal::SIGSTOP), ("dead", Signal::SIGKILL)] {
        let bundle = engine.bundle(id, "exec /bin/busybox sleep 1000", without)?;
        engine.daemon.signal(signal)?;
        engine.start(id, &bundle)?;
        let state = engine.runtime(&format!("state {id}"))?.run()?;
        assert!(state.contains("\"running\""), "{state}");
    }
    Ok(())
}

#[test]
fn a_container_in_the_foreground_gives_its_network_back_when_it_ends() -> Result<()> {
    let engine = Engine::new(1)?;
    for (script, code) in [("exit 0", 0), ("exit 7", 7)] {
        let bundle = engine.bundle(&format!("ends-{code}"), script, |_| ())?;
        let output = engine
            .runtime(&format!("run --bundle {bundle} c1"))?
            .output()?;
        assert_eq!(output.status.code(), Some(code), "{}", engine.log()?);
        engine.daemon.wait_until_ready(1)?;
    }
    Ok(())
}

#[test]
fn a_bundle_can_be_run_again() -> Result<()> {
    let engine = Engine::new(3)?;
    let bundle = engine.bundle("c1", IP, |_| ())?;
    let run = |id: &str| {
        engine
            .runtime(&format!("run --bundle {bundle} {id}"))?
            .run()
    };
    let first = run("c1")?;
    engine
        .daemon
        .wait_until("the slot is given back", |slots| slots.attached == 0)?;
    // By now the slot that the bundle names may be anybody's.
    engine.daemon.wait_until_ready(3)?;
    for owner in ["a", "b"] {
        engine.daemon.attach(owner, "other")?;
    }
    let again = run("c1")?;
    for held in ["a", "b"] {
        let address = &engine.daemon.get(held)?.attachment.addresses[0];
        assert!(
            !again.contains(&format!(" {address}/")),
            "{again}, after {first}"
        );
    }
    Ok(())
}

/// Slots that have all that a pod's containers share.
const PODS: &str = "capacity = 1\n[class.pods]\ncapacity = 3\nshare = [\"ipc\", \"uts\"]\n";

impl Engine {
    fn with_pods() -> Result<Self> {
        let world = World::new()?;
        fs::write(world.path("/run/pcpmd.toml"), PODS)?;
        let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml"])?;
        daemon.wait_until_ready(4)?;
        Ok(Self { daemon, world })
    }

    /// The number of a namespace, of container `id` or of what is mounted at `path`.
    fn namespace_of(&self, id: &str, kind: &str) -> Result<String> {
        let shown = self.runtime(&format!(
            "exec {id} /bin/busybox readlink /proc/self/ns/{kind}"
        ))?;
        Ok(shown.run()?.trim().to_owned())
    }

    fn namespace_at(&self, kind: &str, path: Option<&str>) -> Result<String> {
        let path = path.context("the slot has one")?;
        let inode = self.world.tool(&format!("stat -L -c %i {path}")).run()?;
        Ok(format!("{kind}:[{}]", inode.trim()))
    }
}

#[test]
fn a_container_is_in_the_namespaces_of_its_slot_and_shares_nothing_with_others() -> Result<()> {
    let engine = Engine::with_pods()?;
    let mut seen = Vec::new();
    for id in ["c1", "c2"] {
        let bundle = engine.bundle(id, "exec /bin/busybox sleep 1000", |config| {
            config["annotations"] =
                json!({"io.pcpm.class": "pods", "io.pcpm.share": "net,ipc,uts"});
            config["hostname"] = id.into();
        })?;
        engine.start(id, &bundle)?;
        let attachment = engine.daemon.get(id)?.attachment;
        assert_eq!(attachment.class, "pods");
        for (kind, path) in [
            ("net", Some(attachment.netns.as_str())),
            ("ipc", attachment.ipc.as_deref()),
            ("uts", attachment.uts.as_deref()),
        ] {
            let its = engine.namespace_of(id, kind)?;
            assert_eq!(its, engine.namespace_at(kind, path)?, "{kind} of {id}");
            assert!(!seen.contains(&its), "{kind} of {id}");
            seen.push(its);
        }
        // What joins the slot sees what the container made, as another container of the pod would.
        let hostname = engine.world.pcpm(["exec", id, "--", "hostname"])?.run()?;
        assert_eq!(hostname.trim(), id);
    }
    for id in ["c1", "c2"] {
        engine.runtime(&format!("kill {id} KILL"))?.run()?;
        engine.runtime(&format!("delete --force {id}"))?.run()?;
    }
    engine.daemon.wait_until_ready(4)?;
    let mounts = engine.world.tool("cat /proc/mounts").run()?;
    for kind in ["ipc", "uts"] {
        let below = format!(" /run/pcpm/{kind}/");
        let left = mounts.lines().filter(|line| line.contains(&below)).count();
        assert_eq!(left, 3, "{mounts}");
    }
    Ok(())
}

#[test]
fn a_container_is_in_the_network_of_its_slot_alone_unless_it_asks_for_more() -> Result<()> {
    let engine = Engine::with_pods()?;
    let bundle = engine.bundle("c1", "exec /bin/busybox sleep 1000", |config| {
        config["annotations"] = json!({"io.pcpm.class": "pods"});
    })?;
    engine.start("c1", &bundle)?;
    let attachment = engine.daemon.get("c1")?.attachment;
    let its = engine.namespace_of("c1", "ipc")?;
    assert_ne!(its, engine.namespace_at("ipc", attachment.ipc.as_deref())?);
    engine.runtime("delete --force c1")?.run()?;

    let bundle = engine.bundle("c2", "exit 0", |config| {
        config["annotations"] = json!({"io.pcpm.share": "net,ipc"});
    })?;
    let (_, told) = engine
        .runtime(&format!("run --bundle {bundle} c2"))?
        .fails()?;
    assert!(
        told.contains("slots of class 'default' have no ipc namespace"),
        "{told}"
    );
    assert_eq!(engine.attached()?, 0);
    Ok(())
}

#[test]
fn a_container_that_names_no_class_is_of_the_configured_one() -> Result<()> {
    let engine = Engine::with_pods()?;
    let runc = engine.runc()?;
    runc.configure("class = 'pods'\n")?;
    for (id, annotated, class) in [("c1", None, "pods"), ("c2", Some("default"), "default")] {
        let bundle = runc.bundle(id, &["/bin/busybox", "sleep", "1000"], |config| {
            if let Some(class) = annotated {
                config["annotations"] = json!({"io.pcpm.class": class});
            }
        })?;
        runc.start_pooled(id, &bundle)?;
        assert_eq!(engine.daemon.get(id)?.attachment.class, class, "{id}");
    }
    Ok(())
}

/// crun refuses hosts that have both versions of control groups mounted: it is shown one without the second.
const CRUN: &str = r#"#!/bin/sh
exec unshare --mount --propagation slave sh -c '
    ! mountpoint -q /sys/fs/cgroup/unified || umount -l /sys/fs/cgroup/unified
    exec crun "$@"' crun "$@"
"#;

#[test]
fn crun_makes_containers_as_runc_does() -> Result<()> {
    let engine = Engine::new(1)?;
    let runc = engine.runc()?;
    let crun = engine.world.path("/run/crun");
    fs::write(&crun, CRUN)?;
    fs::set_permissions(&crun, Permissions::from_mode(0o755))?;
    runc.configure("runtime = '/run/crun'\n")?;
    let bundle = runc.bundle("c1", &["/bin/busybox", "sleep", "1000"], |_| ())?;
    runc.start_pooled("c1", &bundle)
        .with_context(|| runc.log())?;
    let address = &engine.daemon.get("c1")?.attachment.addresses[0];
    let shown = runc.runtime(&format!("exec c1 {IP}"))?.run()?;
    assert!(shown.contains(address), "{shown}");
    runc.runtime("delete --force c1")?.run()?;
    engine.daemon.wait_until_ready(1)
}

#[test]
fn a_container_that_cannot_be_made_keeps_no_network() -> Result<()> {
    let engine = Engine::new(1)?;
    let bundle = engine.bundle("c1", "", |config| {
        config["process"]["args"] = json!(["/no/such/program"]);
    })?;
    let (code, said) = engine
        .runtime(&format!("create --bundle {bundle} c1"))?
        .fails()?;
    assert_eq!(code, 1, "{said}");
    assert!(
        engine.log()?.contains("/no/such/program"),
        "{}",
        engine.log()?
    );
    assert_eq!(engine.attached()?, 0);
    engine.daemon.wait_until_ready(1)
}

#[test]
fn other_networks_are_left_alone() -> Result<()> {
    let engine = Engine::new(1)?;
    let without = |config: &mut Value| {
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "network");
        }
    };
    let bundle = engine.bundle("hosts", "/bin/busybox ip -o link show eth0", without)?;
    let before = fs::read(engine.world.path(format!("{bundle}/config.json")))?;
    engine
        .runtime(&format!("run --bundle {bundle} hosts"))?
        .run()?;
    assert_eq!(
        fs::read(engine.world.path(format!("{bundle}/config.json")))?,
        before
    );

    let refusing = |config: &mut Value| config["annotations"] = json!({"io.pcpm.attach": "false"});
    let bundle = engine.bundle("none", "! /bin/busybox ip link show eth0", refusing)?;
    engine
        .runtime(&format!("run --bundle {bundle} none"))?
        .run()?;
    assert_eq!(engine.daemon.status()?.attach.warm, 0);
    Ok(())
}

#[test]
fn what_is_wrong_is_said_where_engines_look() -> Result<()> {
    let engine = Engine::new(1)?;
    let bundle = engine.bundle("c1", "exit 0", |config| {
        config["annotations"] = json!({"io.pcpm.rate-upp": "1M"});
    })?;
    let (code, said) = engine
        .runtime(&format!("create --bundle {bundle} c1"))?
        .fails()?;
    assert_eq!(code, 1);
    assert!(said.contains("io.pcpm.rate-upp"), "{said}");
    let log = engine.log()?;
    let entry: Value = serde_json::from_str(log.lines().last().context("no log")?)?;
    assert_eq!(entry["level"], "error");
    assert!(
        entry["msg"]
            .as_str()
            .is_some_and(|msg| msg.contains("io.pcpm.rate-upp")),
        "{entry}"
    );
    Ok(())
}

#[test]
fn without_a_daemon_it_is_as_configured() -> Result<()> {
    let world = World::new()?;
    let no_daemon = "socket = '/run/nobody.sock'\n";
    let runc = Runc::new(&world)?;
    let bundle = runc.bundle("c1", &["/bin/busybox", "true"], |_| ())?;
    let run = |settings: &str| -> Result<Tool> {
        fs::write(world.path("/run/runtime.toml"), settings)?;
        let tool = runc.runtime(&format!("run --bundle {bundle} c1"))?;
        Ok(tool.env("PCPM_RUNTIME_CONFIG", "/run/runtime.toml"))
    };
    let (code, said) = run(no_daemon)?.fails()?;
    assert_eq!(code, 1);
    assert!(
        said.contains("cannot reach pcpmd at /run/nobody.sock"),
        "{said}"
    );
    run(&format!("{no_daemon}on_daemon_down = 'continue'\n"))?.run()?;
    Ok(())
}

#[test]
fn everything_else_is_the_real_runtimes() -> Result<()> {
    let engine = Engine::new(1)?;
    for line in ["--version", "features", "state nobody", "no-such-verb"] {
        let ours = engine.runtime(line)?.output()?;
        let theirs = engine.runc()?.runc(line).output()?;
        assert_eq!(ours.status.code(), theirs.status.code(), "{line}");
        assert_eq!(ours.stdout, theirs.stdout, "{line}");
    }
    Ok(())
}

//! Classes of slots: several pools in one daemon.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pcpm_tests::{Daemon, HostState, HttpServer, PATIENCE, World, binary};
use serde_json::json;

const TWO: &str = r#"
capacity = 4

[class.big]
capacity = 3
ready = 2
mtu = 9000
addresses = "10.213.16.0/28"
refill.recycle = "verified"
"#;

fn daemon(world: &World, settings: &str, arguments: &[&str]) -> Result<Daemon> {
    fs::write(world.path("/run/pcpmd.toml"), settings)?;
    let config = ["--config", "/run/pcpmd.toml"];
    let arguments: Vec<&str> = config.iter().chain(arguments).copied().collect();
    world.spawn_daemon(&arguments)
}

fn attach(daemon: &Daemon, owner: &str, class: &str) -> Result<pcpm_api::types::AttachReply> {
    daemon.attach_with(&json!({"owner": owner, "class": class, "tenant": "t"}))
}

#[test]
fn slots_are_as_their_class_says_and_reach_each_other_across_classes() -> Result<()> {
    let world = World::new()?;
    let daemon = daemon(&world, TWO, &[])?;
    daemon.wait_until_ready(6)?;
    let big = attach(&daemon, "b", "big")?;
    let plain = attach(&daemon, "p", "default")?;
    ensure!(big.attachment.class == "big" && big.attachment.mtu == 9000);
    // Slots are made side by side: either is the first that is ready.
    let (big_slot, big_address) = (&big.attachment.slot, &big.attachment.addresses[0]);
    let pair = (big_slot.as_str(), big_address.as_str());
    ensure!(
        pair == ("s4096", "10.213.16.0") || pair == ("s4097", "10.213.16.1"),
        "{pair:?}"
    );
    let link = daemon.place(&big).tool("ip link show eth0").run()?;
    ensure!(link.contains("mtu 9000"), "{link}");
    let link = daemon.place(&plain).tool("ip link show eth0").run()?;
    ensure!(link.contains("mtu 1500"), "{link}");
    let address = &plain.attachment.addresses[0];
    daemon
        .place(&big)
        .tool(&format!("ping -c1 -W5 {address}"))
        .run()?;
    daemon.place(&big).tool("ping -c1 -W5 198.51.100.1").run()?;
    world.tool(&format!("ping -c1 -W5 {big_address}")).run()?;
    Ok(())
}

#[test]
fn a_burst_in_one_class_leaves_the_other_as_it_is() -> Result<()> {
    let world = World::new()?;
    let daemon = daemon(&world, TWO, &[])?;
    daemon.wait_until_ready(6)?;
    for n in 0..4 {
        daemon.attach(&format!("o{n}"), "t")?;
    }
    let (code, text) = world
        .pcpm(["attach", "late", "--on-empty", "fail"])?
        .fails()?;
    ensure!(code == 4 && text.contains("0 of 4 slots ready"), "{text}");
    let ready: Vec<_> = daemon
        .status()?
        .classes
        .iter()
        .map(|class| class.slots.ready)
        .collect();
    assert_eq!(ready, [0, 2]);
    attach(&daemon, "b", "big")?;
    let (code, text) = world.pcpm(["attach", "x", "--class", "huge"])?.fails()?;
    ensure!(
        code == 1 && text.contains("there is no class 'huge'"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_restart_keeps_the_classes_and_goes_on_without_one_that_is_gone() -> Result<()> {
    let world = World::new()?;
    let mut first = daemon(&world, TWO, &["--on-exit", "keep"])?;
    first.wait_until_ready(6)?;
    let held = attach(&first, "b", "big")?.attachment;
    let created = |daemon: &Daemon| anyhow::Ok(daemon.status()?.refill.created);
    first.wait_until("the class is full again", |counts| counts.ready == 6)?;
    first.stop(PATIENCE)?;

    let mut second = daemon(&world, TWO, &["--on-exit", "keep"])?;
    second.wait_until_ready(6)?;
    assert_eq!(created(&second)?, 0, "{}", second.log());
    let kept = second.get("b")?.attachment;
    assert_eq!(
        (&kept.id, &kept.class, kept.mtu),
        (&held.id, &held.class, 9000)
    );
    world
        .slot(&kept.netns)
        .tool("ping -c1 -W5 198.51.100.1")
        .run()?;
    second.stop(PATIENCE)?;

    // The addresses of what is held have to stay within max_capacity.
    let without = "capacity = 4\nmax_capacity = 8192\n";
    let third = daemon(&world, without, &[])?;
    third.wait_until_ready(4)?;
    let kept = third.get("b")?.attachment;
    assert_eq!((&kept.id, kept.class.as_str()), (&held.id, "big"));
    world
        .slot(&kept.netns)
        .tool("ping -c1 -W5 198.51.100.1")
        .run()?;
    third.detach("b")?;
    third.wait_until("nothing of the class is left", |counts| {
        counts.beyond == 0 && counts.retiring == 0
    })?;
    assert_eq!(third.status()?.classes.len(), 1);
    Ok(())
}

#[test]
fn a_class_is_resized_and_drained_by_itself() -> Result<()> {
    let world = World::new()?;
    let daemon = daemon(&world, TWO, &[])?;
    daemon.wait_until_ready(6)?;
    let sizes = [
        "resize",
        "--class",
        "big",
        "--capacity",
        "6",
        "--ready",
        "5",
    ];
    world.pcpm(sizes)?.run()?;
    daemon.wait_until_ready(9)?;
    let (_, text) = world
        .pcpm(["resize", "--class", "big", "--capacity", "17"])?
        .fails()?;
    ensure!(
        text.contains("17 is not from 1 to 16 (its addresses)"),
        "{text}"
    );
    attach(&daemon, "b", "big")?;
    let mut drain = world
        .pcpm(["drain", "--class", "big", "--wait", "--timeout", "60s"])?
        .spawn()?;
    daemon.attach("p", "t")?;
    daemon.detach("b")?;
    ensure!(
        drain.wait(PATIENCE)?.success(),
        "what is attached is of another class"
    );
    let (_, text) = world.pcpm(["attach", "b", "--class", "big"])?.fails()?;
    ensure!(text.contains("draining"), "{text}");
    world.pcpm(["drain", "--class", "big", "--undo"])?.run()?;
    world.pcpm(["attach", "b", "--class", "big"])?.run()?;
    let text = world.pcpm(["status"])?.run()?;
    ensure!(text.contains("class big"), "{text}");
    Ok(())
}

#[test]
fn one_tenants_burst_leaves_what_is_reserved_for_others() -> Result<()> {
    let world = World::new()?;
    let settings = "capacity = 6\n[reserve.shops]\ntenants = [\"shop-*\"]\nwarm = 2\n";
    let daemon = daemon(&world, settings, &[])?;
    daemon.wait_until_ready(6)?;
    let attach = |owner: &str, tenant: &str| {
        daemon.attach_with(&json!({"owner": owner, "tenant": tenant, "on_empty": "fail"}))
    };
    for n in 0..4 {
        attach(&format!("o{n}"), "greedy")?;
    }
    ensure!(
        attach("late", "greedy").is_err(),
        "what is reserved was taken"
    );
    attach("cart", "shop-eu")?;
    attach("stock", "shop-us")?;
    Ok(())
}

#[test]
fn a_reload_changes_the_sizes_of_classes_and_names_what_waits_for_a_restart() -> Result<()> {
    let world = World::new()?;
    let daemon = daemon(&world, TWO, &[])?;
    daemon.wait_until_ready(6)?;
    let other = TWO.replace("ready = 2\nmtu = 9000", "ready = 3\nmtu = 4000");
    let other = format!("{other}[class.third]\ncapacity = 1\n");
    fs::write(world.path("/run/pcpmd.toml"), other)?;
    let reply = world.pcpm(["--json", "reload"])?.json()?;
    let waits = reply["restart_needed"].to_string();
    ensure!(
        waits.contains("class.big.mtu") && waits.contains("class.third.capacity"),
        "{reply}"
    );
    ensure!(!waits.contains("class.big.ready"), "{reply}");
    daemon.wait_until_ready(7)?;
    Ok(())
}

/// Slots of the class shut reach the world where a rule says so, and nobody else.
const SHUT: &str = r#"
capacity = 2

[class.shut]
capacity = 3

[class.shut.policy]
default = "closed"
allow = ["198.51.100.1"]
deny = ["198.51.100.1:81"]
rate_down = "100M"
"#;

/// Web servers of the world, at two addresses.
fn servers(world: &World) -> Result<[HttpServer; 2]> {
    let internet = world.internet();
    internet.tool("ip addr add 198.51.100.80/32 dev lo").run()?;
    let start = |port| HttpServer::start(&internet, &format!("0.0.0.0:{port}"));
    Ok([start(80)?, start(81)?])
}

/// Whether a page comes: within the time in which a first packet that was lost is sent again, twice.
fn reaches(daemon: &Daemon, held: &pcpm_api::types::AttachReply, url: &str) -> Result<bool> {
    let place = daemon.place(held);
    let curl = place.command("curl", ["-sS", "-m5", url]);
    Ok(curl.output()?.status.success())
}

#[test]
fn a_class_gives_rules_and_limits_to_all_its_attachments_and_a_request_adds_its_own() -> Result<()>
{
    let world = World::new()?;
    let _servers = servers(&world)?;
    let daemon = daemon(&world, SHUT, &[])?;
    daemon.wait_until_ready(5)?;
    let [allowed, denied, elsewhere] =
        ["1/", "1:81/", "80/"].map(|rest| format!("http://198.51.100.{rest}"));
    let plain = attach(&daemon, "plain", "default")?;
    ensure!(reaches(&daemon, &plain, &elsewhere)?, "the pool is open");
    let shut = attach(&daemon, "shut", "shut")?;
    ensure!(reaches(&daemon, &shut, &allowed)?);
    ensure!(!reaches(&daemon, &shut, &denied)?);
    ensure!(!reaches(&daemon, &shut, &elsewhere)?);
    daemon
        .place(&shut)
        .tool(&format!("ping -c1 -W5 {}", plain.attachment.addresses[0]))
        .run()?;
    let own = json!({
        "owner": "own", "class": "shut", "tenant": "t",
        "allow": ["198.51.100.1:81", "198.51.100.80"], "rate_down": 50_000_000,
    });
    let own = daemon.attach_with(&own)?;
    for url in [&allowed, &denied, &elsewhere] {
        ensure!(reaches(&daemon, &own, url)?, "{url}");
    }
    assert_eq!(own.attachment.rate_down, Some(50_000_000));
    let text = world.pcpm(["show", "shut"])?.run()?;
    ensure!(
        text.contains("198.51.100.1:81") && text.contains("100M"),
        "{text}"
    );
    // What was asked for is taken back, what the class gives stays.
    world.pcpm(["update", "own", "--no-allow"])?.run()?;
    ensure!(!reaches(&daemon, &own, &denied)?);
    ensure!(!reaches(&daemon, &own, &elsewhere)?);
    ensure!(reaches(&daemon, &own, &allowed)?);
    Ok(())
}

#[test]
fn what_a_class_gives_is_another_thing_at_once_by_a_reload_and_by_a_restart() -> Result<()> {
    let world = World::new()?;
    let _servers = servers(&world)?;
    let mut first = daemon(&world, SHUT, &["--on-exit", "keep"])?;
    first.wait_until_ready(5)?;
    let url = "http://198.51.100.1/";
    let shut = attach(&first, "shut", "shut")?;
    let plain = attach(&first, "plain", "default")?;
    ensure!(reaches(&first, &shut, url)?);

    let other = SHUT.replace("allow = [\"198.51.100.1\"]", "allow = [\"198.51.100.80\"]");
    fs::write(world.path("/run/pcpmd.toml"), &other)?;
    let reply = world.pcpm(["--json", "reload"])?.json()?;
    assert_eq!(reply["changed"], json!(["class.shut.policy.allow"]));
    assert_eq!(
        (&reply["restart_needed"], &reply["updated"]),
        (&json!([]), &json!(1))
    );
    ensure!(!reaches(&first, &shut, url)?);
    ensure!(reaches(&first, &shut, "http://198.51.100.80/")?);
    ensure!(reaches(&first, &plain, url)?);
    first.signal(Signal::SIGKILL)?;
    first.wait(PATIENCE)?;

    let mut second = daemon(&world, &other, &["--on-exit", "keep"])?;
    ensure!(!reaches(&second, &shut, url)?);
    ensure!(reaches(&second, &shut, "http://198.51.100.80/")?);
    second.stop(PATIENCE)?;

    let third = daemon(&world, SHUT, &[])?;
    ensure!(reaches(&third, &shut, url)?);
    ensure!(!reaches(&third, &shut, "http://198.51.100.80/")?);
    assert_eq!(third.get("shut")?.attachment.allow, ["198.51.100.1"]);
    Ok(())
}

/// Slots of the class pods have all that a pod's containers share.
const PODS: &str = r#"
capacity = 2

[class.pods]
capacity = 3
share = ["ipc", "uts"]
"#;

/// What is in the namespaces of a slot, as `pcpm exec` joins them.
fn inside(world: &World, owner: &str, command: &str) -> Result<String> {
    let words = command.split_whitespace();
    let text = world
        .pcpm(["exec", owner, "--"].into_iter().chain(words))?
        .run()?;
    Ok(text.trim().to_owned())
}

/// Slots that have namespaces of this kind, by what is mounted and what are only files.
fn shared(world: &World, kind: &str) -> Result<(usize, usize)> {
    let mounts = world.tool("cat /proc/mounts").run()?;
    let below = format!(" /run/pcpm/{kind}/");
    let mounts = mounts.lines().filter(|line| line.contains(&below)).count();
    let files = fs::read_dir(world.path(format!("/run/pcpm/{kind}")))?.count();
    Ok((mounts, files))
}

fn identity(world: &World, path: &str) -> Result<String> {
    world.tool(&format!("stat -L -c %i {path}")).run()
}

#[test]
fn slots_of_a_class_that_shares_have_namespaces_that_nobody_else_is_in() -> Result<()> {
    let world = World::new()?;
    let daemon = daemon(&world, PODS, &[])?;
    daemon.wait_until_ready(5)?;
    for kind in ["ipc", "uts"] {
        assert_eq!(shared(&world, kind)?, (3, 3), "{kind}");
    }
    let [a, b] = ["a", "b"].map(|owner| attach(&daemon, owner, "pods"));
    let (a, b) = (a?.attachment, b?.attachment);
    let plain = attach(&daemon, "plain", "default")?.attachment;
    assert_eq!((plain.ipc, plain.uts), (None, None));
    let host = world.tool("hostname").run()?;
    for (kind, paths) in [("ipc", [&a.ipc, &b.ipc]), ("uts", [&a.uts, &b.uts])] {
        let mut seen = vec![identity(&world, &format!("/proc/self/ns/{kind}"))?];
        for (owner, path) in ["a", "b"].into_iter().zip(paths) {
            let path = path.as_deref().unwrap_or_default();
            let mounted = identity(&world, path)?;
            let joined = inside(
                &world,
                owner,
                &format!("stat -L -c %i /proc/self/ns/{kind}"),
            )?;
            assert_eq!(joined, mounted.trim(), "{kind} of {owner}");
            ensure!(
                !seen.contains(&mounted),
                "{kind} of {owner} is somebody else's"
            );
            seen.push(mounted);
        }
    }
    inside(&world, "a", "hostname pod-a")?;
    inside(&world, "a", "ipcmk -M 4096")?;
    assert_eq!(inside(&world, "a", "hostname")?, "pod-a");
    assert_eq!(inside(&world, "b", "hostname")?, host.trim());
    assert_eq!(world.tool("hostname").run()?, host);
    ensure!(inside(&world, "a", "ipcs -m")?.contains("4096"));
    for text in [
        inside(&world, "b", "ipcs -m")?,
        inside(&world, "plain", "ipcs -m")?,
    ] {
        ensure!(!text.contains("4096"), "{text}");
    }
    let text = world.pcpm(["show", "a"])?.run()?;
    ensure!(
        text.contains("/run/pcpm/ipc/") && text.contains("/run/pcpm/uts/"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_command_runs_in_the_namespaces_that_its_class_shares() -> Result<()> {
    let world = World::new()?;
    let daemon = daemon(&world, PODS, &[])?;
    daemon.wait_until_ready(5)?;
    let host = world.tool("hostname").run()?;
    let script = "hostname pod; hostname; ipcmk -M 4096 >/dev/null; ipcs -m | grep -c 4096";
    let run = ["run", "--class", "pods", "--", "sh", "-c", script];
    assert_eq!(world.pcpm(run)?.run()?, "pod\n1\n");
    assert_eq!(world.tool("hostname").run()?, host);
    ensure!(!world.tool("ipcs -m").run()?.contains("4096"));
    // The next one gets a slot that nobody was in.
    daemon.wait_until_ready(5)?;
    let script = "hostname; ipcs -m | grep -c 4096 || true";
    let run = ["run", "--class", "pods", "--", "sh", "-c", script];
    assert_eq!(world.pcpm(run)?.run()?, format!("{}\n0\n", host.trim()));
    Ok(())
}

#[test]
fn what_a_class_shares_goes_with_its_slots_and_lives_through_a_kill() -> Result<()> {
    let world = World::new()?;
    fs::write(world.path("/run/pcpmd.toml"), PODS)?;
    let before = HostState::of(world.host())?;
    let mut first = daemon(&world, PODS, &[])?;
    first.wait_until_ready(5)?;
    for round in 0..6 {
        let owner = format!("o{round}");
        attach(&first, &owner, "pods")?;
        inside(&world, &owner, "ipcmk -M 4096")?;
        first.detach(&owner)?;
    }
    first.wait_until_ready(5)?;
    for kind in ["ipc", "uts"] {
        assert_eq!(shared(&world, kind)?, (3, 3), "{kind}");
    }
    let held = attach(&first, "held", "pods")?.attachment;
    inside(&world, "held", "hostname survivor")?;
    let ipc = held.ipc.clone().unwrap_or_default();
    let was = identity(&world, &ipc)?;
    first.wait_until("the class is full again", |counts| counts.ready == 4)?;
    first.signal(Signal::SIGKILL)?;
    first.wait(PATIENCE)?;

    let mut second = daemon(&world, PODS, &[])?;
    second.wait_until_ready(4)?;
    assert_eq!(second.status()?.refill.created, 0, "{}", second.log());
    let kept = second.get("held")?.attachment;
    assert_eq!(
        (&kept.id, &kept.ipc, &kept.uts),
        (&held.id, &held.ipc, &held.uts)
    );
    assert_eq!(identity(&world, &ipc)?, was);
    assert_eq!(inside(&world, "held", "hostname")?, "survivor");
    second.signal(Signal::SIGKILL)?;
    second.wait(PATIENCE)?;

    // A class that shares nothing any more: what nobody holds is made anew.
    let without = PODS.replace("share = [\"ipc\", \"uts\"]", "share = []");
    let mut third = daemon(&world, &without, &[])?;
    third.wait_until_ready(4)?;
    for kind in ["ipc", "uts"] {
        assert_eq!(shared(&world, kind)?, (1, 1), "{kind}");
    }
    assert_eq!(inside(&world, "held", "hostname")?, "survivor");
    third.detach("held")?;
    third.wait_until_ready(5)?;
    assert_eq!(shared(&world, "ipc")?, (0, 0));
    third.stop(PATIENCE)?;
    // Whoever made the state directory removes it, and that one was killed.
    let left = HostState::of(world.host())?.difference(&before);
    assert_eq!(left, "find /run: + /run/pcpm");
    Ok(())
}

#[test]
fn all_that_a_killed_daemon_shared_can_be_removed() -> Result<()> {
    let world = World::new()?;
    fs::write(world.path("/run/pcpmd.toml"), PODS)?;
    let before = HostState::of(world.host())?;
    let mut daemon = daemon(&world, PODS, &[])?;
    daemon.wait_until_ready(5)?;
    attach(&daemon, "held", "pods")?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE)?;
    let file = ["--config", "/run/pcpmd.toml", "--cleanup"];
    world.host().command(binary("pcpmd")?, file).run()?;
    assert_eq!(HostState::of(world.host())?.difference(&before), "");
    Ok(())
}

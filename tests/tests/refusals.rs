//! What a daemon does when its host or its settings do not allow it to run, or only just.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use pcpm_tests::{World, binary};

/// Starts a daemon that must refuse; returns what it says.
fn refusal(world: &World, arguments: &[&str]) -> Result<String> {
    let (_, error) = world.host().command(binary("pcpmd")?, arguments).fails()?;
    Ok(error)
}

#[test]
fn a_second_daemon_is_refused_and_told_who_holds_the_directory() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let arguments = [
        "--pool-cidr",
        "10.99.0.0/24",
        "--capacity",
        "2",
        "--bpffs",
        "/sys/fs/bpf/other",
    ];
    let error = refusal(&world, &arguments)?;
    let holder = world.tool("pgrep -x pcpmd").run()?;
    assert!(
        error.contains("/run/pcpm") && error.contains(holder.trim()),
        "{error}, not {holder}"
    );
    assert_eq!(daemon.status()?.slots.ready, 2);
    Ok(())
}

#[test]
fn a_pool_that_overlaps_a_route_is_refused_by_its_name() -> Result<()> {
    let world = World::new()?;
    world
        .tool("ip route add 10.213.128.0/17 via 192.0.2.1")
        .run()?;
    let error = refusal(&world, &[])?;
    assert!(
        error.contains("10.213.0.0/16") && error.contains("10.213.128.0/17"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_pool_that_overlaps_an_address_is_refused_by_its_name() -> Result<()> {
    let world = World::new()?;
    let error = refusal(&world, &["--pool-cidr", "192.0.0.0/16"])?;
    assert!(
        error.contains("192.0.0.0/16") && error.contains("192.0.2."),
        "{error}"
    );
    assert!(error.contains("eth0"), "{error}");
    Ok(())
}

#[test]
fn a_second_daemon_of_one_network_is_refused_and_the_first_goes_on() -> Result<()> {
    let world = World::new()?;
    let first = world.pool_of(2)?;
    let own = [
        "--state-dir",
        "/run/second",
        "--bpffs",
        "/sys/fs/bpf/second",
        "--pool-cidr",
        "10.99.0.0/16",
    ];
    let error = refusal(&world, &own)?;
    assert!(
        error.contains("169.254.1.1") && error.contains("the other pcpmd"),
        "{error}"
    );
    let slot = first.place(&first.attach("web", "t")?);
    slot.tool("ping -c1 -W5 198.51.100.1").run()?;
    Ok(())
}

#[test]
fn unusable_settings_are_refused_with_the_reason() -> Result<()> {
    let world = World::new()?;
    for (arguments, words) in [
        (
            &["--pool-cidr", "10.213.0.0/29"][..],
            &["10.213.0.0/29", "64"][..],
        ),
        (
            &["--pool-cidr", "10.213.0.0/99"],
            &["pool", "10.213.0.0/99"],
        ),
        (&["--pool-cidr", "ten"], &["pool", "ten"]),
        (&["--capacity", "0"], &["capacity"]),
        (&["--capacity", "-4"], &["capacity"]),
        (
            &["--capacity", "10", "--ready", "20"],
            &["ready", "20", "10"],
        ),
        (&["--uplink", "nonesuch0"], &["nonesuch0"]),
    ] {
        let error = refusal(&world, arguments)?;
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
    Ok(())
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_key() -> Result<()> {
    let world = World::new()?;
    let file = "/run/pcpmd.toml";
    fs::write(world.path(file), "capacity = 4\n\n[nat]\nport = \"1-2\"\n")?;
    let error = refusal(&world, &["--config", file])?;
    assert!(
        error.contains("/run/pcpmd.toml:4") && error.contains("nat.port"),
        "{error}"
    );
    fs::write(world.path(file), "capacity = \"many\"\n")?;
    let error = refusal(&world, &["--config", file])?;
    assert!(
        error.contains("/run/pcpmd.toml:1") && error.contains("capacity"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_configuration_file_is_obeyed_and_options_win() -> Result<()> {
    let world = World::new()?;
    let file = "/run/pcpmd.toml";
    fs::write(
        world.path(file),
        "capacity = 7\npool_cidr = \"10.77.0.0/24\"\n",
    )?;
    let daemon = world.spawn_daemon(&["--config", file, "--capacity", "5"])?;
    daemon.wait_until_ready(5)?;
    let address = daemon.attach("web", "t")?.attachment.addresses[0].clone();
    assert!(address.starts_with("10.77.0."), "{address}");
    Ok(())
}

#[test]
fn check_and_doctor_tell_the_same() -> Result<()> {
    let world = World::new()?;
    let names = |value: &serde_json::Value| -> Vec<String> {
        let checks = value["checks"].as_array().or(value.as_array());
        let name = |check: &serde_json::Value| check["name"].as_str().map(str::to_owned);
        checks.into_iter().flatten().filter_map(name).collect()
    };
    let before = world
        .host()
        .command(binary("pcpmd")?, ["--check", "--json"])
        .json()?;
    let _daemon = world.pool_of(2)?;
    let during = world.pcpm(["--json", "doctor"])?.json()?;
    assert!(!names(&before).is_empty(), "{before}");
    // Only a daemon has a journal that it writes.
    let mut expected = names(&before);
    expected.push("journal".to_owned());
    assert_eq!(names(&during), expected);
    Ok(())
}

#[test]
fn without_root_the_daemon_says_what_it_lacks() -> Result<()> {
    let world = World::new()?;
    let pcpmd = binary("pcpmd")?;
    let pcpmd = pcpmd.to_str().context("no text")?;
    // By another process: what this one has open for writing may be open in a child of another test, and is not executed then.
    world.command("cp", [pcpmd, "/run/pcpmd"]).run()?;
    let line = "setpriv --reuid=65534 --regid=65534 --clear-groups /run/pcpmd --state-dir /tmp/nobody --check";
    let output = world.tool(line).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    Ok(())
}

#[test]
fn a_slot_that_cannot_be_made_is_failed_with_a_reason_and_retried() -> Result<()> {
    let world = World::new()?;
    // Somebody else's file stands where the slot's namespace is to be mounted.
    world
        .tool("mkdir -p /run/pcpm/netns/s0001/in-the-way")
        .run()?;
    let daemon = world.spawn_daemon(&["--capacity", "3"])?;
    daemon.wait_until("one slot failed and the others are ready", |counts| {
        counts.failed == 1 && counts.ready == 2
    })?;
    // Not while it is tried again.
    let failure = daemon.watch("the failed slot is told", |_| {
        let failure = daemon.status().ok()?.failures.into_iter().next()?;
        let shown = world.pcpm(["status"]).ok()?.run().ok()?;
        (failure.retry_in_ms > 0 && shown.contains("s0001")).then_some(failure)
    })?;
    assert_eq!(failure.slot, "s0001");
    assert!(failure.reason.contains("s0001"), "{failure:?}");
    world.tool("rm -r /run/pcpm/netns/s0001").run()?;
    daemon.wait_until_ready(3)?;
    Ok(())
}

#[test]
fn a_failing_slot_is_not_retried_in_a_hot_loop() -> Result<()> {
    let world = World::new()?;
    world
        .tool("mkdir -p /run/pcpm/netns/s0000/in-the-way")
        .run()?;
    let daemon = world.spawn_daemon(&["--capacity", "1"])?;
    daemon.wait_until("it is failed", |counts| counts.failed == 1)?;
    let failures = |daemon: &pcpm_tests::Daemon| daemon.status().map(|status| status.refill.failed);
    let (before, start) = (failures(&daemon)?, std::time::Instant::now());
    daemon.watch("it failed three times more", |_| {
        failures(&daemon).ok().filter(|now| *now >= before + 3)
    })?;
    assert!(start.elapsed().as_millis() > 300, "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn the_daemon_survives_a_client_that_vanishes_while_it_waits() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    daemon.attach("first", "t")?;
    let waiting = world
        .pcpm(["attach", "second", "--on-empty", "wait", "--timeout", "60s"])?
        .spawn()?;
    daemon.wait_until("a request waits", |counts| counts.waiting == 1)?;
    waiting.signal(Signal::SIGKILL)?;
    daemon.wait_until("nobody waits", |counts| counts.waiting == 0)?;
    daemon.detach("first")?;
    daemon.wait_until_ready(1)?;
    Ok(())
}

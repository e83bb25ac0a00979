//! What an earlier life of the daemon left: gone on with where it can be, replaced where it is not ours,
//! refused where it cannot be used, removed when asked to.

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use nix::sys::signal::Signal;
use pcpm_ebpf::abi::Config;
use pcpm_tests::{Daemon, HostState, PATIENCE, Process, World, binary, serve_iperf};
use serde_json::{Value, json};

const PINS: &str = "/sys/fs/bpf/pcpm";

fn kill(daemon: &mut Daemon) -> Result<()> {
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE).map(drop)
}

/// What must be the same thing before and after: links, the hub's namespace, and what runs where.
fn identity(world: &World) -> Result<Vec<String>> {
    let questions = [
        "ip -o link show pcpm0",
        "stat -c %i /run/pcpm/hubs/0",
        "bpftool net show dev pcpm0",
        "bpftool net show dev eth0",
        "find /sys/fs/bpf -printf %p\\n",
    ];
    let answers = questions.map(|question| world.tool(question).run());
    answers.into_iter().collect()
}

fn cleanup(world: &World) -> Result<String> {
    world.host().command(binary("pcpmd")?, ["--cleanup"]).run()
}

#[test]
fn hubs_programs_and_links_of_a_killed_daemon_are_gone_on_with() -> Result<()> {
    let world = World::new()?;
    let mut killed = world.pool_of(4)?;
    let before = identity(&world)?;
    kill(&mut killed)?;
    let next = world.pool_of(4)?;
    assert_eq!(identity(&world)?, before, "{}", next.log());
    assert!(next.log().contains("are ours"), "{}", next.log());
    let attached = next.attach("web", "t")?;
    let place = next.place(&attached);
    place.tool("ping -c1 -W5 198.51.100.1").run()?;
    place.tool("ping -c1 -W5 -6 2001:db8:2::1").run()?;
    Ok(())
}

#[test]
fn a_cleanup_leaves_the_host_as_it_was_before_the_killed_daemon() -> Result<()> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let mut killed = world.pool_of(10)?;
    killed.attach("web", "t")?;
    let (code, told) = world
        .host()
        .command(binary("pcpmd")?, ["--cleanup"])
        .fails()?;
    assert_eq!(code, 1);
    assert!(told.contains("is in use by pcpmd"), "{told}");
    kill(&mut killed)?;
    let told = cleanup(&world)?;
    assert!(
        told.contains("removed 1 links, 11 mounted namespaces"),
        "{told}"
    );
    assert_eq!(HostState::of(world.host())?.difference(&before), "");
    let told = cleanup(&world)?;
    assert!(
        told.contains("removed 0 links, 0 mounted namespaces, 0 pins"),
        "{told}"
    );
    Ok(())
}

#[test]
fn a_cleanup_works_when_half_of_it_is_gone() -> Result<()> {
    for loss in [
        "rm -rf /sys/fs/bpf/pcpm",
        "umount -l /run/pcpm/hubs/0",
        "rm -f /run/pcpm/pins",
    ] {
        let world = World::new()?;
        let before = HostState::of(world.host())?;
        let mut killed = world.pool_of(3)?;
        kill(&mut killed)?;
        world.tool(loss).run()?;
        cleanup(&world)?;
        let left = HostState::of(world.host())?.difference(&before);
        assert_eq!(left, "", "after {loss}");
    }
    Ok(())
}

#[test]
fn a_daemon_told_to_keep_leaves_all_of_it_to_the_next_one() -> Result<()> {
    let world = World::new()?;
    let keep = ["--capacity", "4", "--on-exit", "keep"];
    let mut first = world.spawn_daemon(&keep)?;
    first.wait_until_ready(4)?;
    let before = identity(&world)?;
    first.stop(PATIENCE)?;
    assert_eq!(identity(&world)?, before);
    let mut second = world.spawn_daemon(&["--capacity", "4"])?;
    second.wait_until_ready(4)?;
    assert_eq!(identity(&world)?, before);
    second.stop(PATIENCE)?;
    let links = world.tool("ip -o link").run()?;
    assert!(!links.contains("pcpm"), "{links}");
    Ok(())
}

#[test]
fn other_programs_take_the_place_of_those_that_run() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(2)?;
    let hub = world.tool("stat -c %i /run/pcpm/hubs/0").run()?;
    let old = world.tool("bpftool net show dev pcpm0").run()?;
    kill(&mut first)?;
    let object = other_object(&world)?;
    let next = world.spawn_daemon(&["--capacity", "2", "--steer-object", &object])?;
    next.wait_until_ready(2)?;
    assert_eq!(world.tool("stat -c %i /run/pcpm/hubs/0").run()?, hub);
    let new = world.tool("bpftool net show dev pcpm0").run()?;
    assert_ne!(new, old);
    assert_eq!(new.matches("from_hub").count(), 1, "{new}");
    let pins = world
        .command("find", [PINS, "-maxdepth", "1", "-name", "*programs-*"])
        .run()?;
    assert_eq!(pins.lines().count(), 1, "{pins}");
    let attached = next.attach("web", "t")?;
    next.place(&attached)
        .tool("ping -c1 -W5 198.51.100.1")
        .run()?;
    Ok(())
}

/// The programs of the build as another file: what stands behind the end of an object means nothing, but
/// it is another object.
fn other_object(world: &World) -> Result<String> {
    let mut object = pcpm_ebpf::STEER_OBJECT.to_vec();
    object.push(0);
    let path = "/run/other.o";
    std::fs::write(world.path(path), object).context("write another object")?;
    Ok(path.to_owned())
}

#[test]
fn maps_grow_with_the_settings_and_are_never_made_smaller() -> Result<()> {
    let world = World::new()?;
    let config = |flows: u32| {
        let path = world.path("/run/pcpmd.toml");
        std::fs::write(path, format!("capacity = 2\n[nat]\nflows = {flows}\n"))
    };
    let entries = || {
        world
            .tool("bpftool map show pinned /sys/fs/bpf/pcpm/FLOWS")
            .run()
    };
    for (flows, expected) in [(4096, 4096), (8192, 8192), (2048, 8192)] {
        config(flows)?;
        let mut daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml"])?;
        daemon.wait_until("both slots are there", |c| c.ready + c.attached == 2)?;
        let shown = entries()?;
        assert!(
            shown.contains(&format!("max_entries {expected}")),
            "{shown}"
        );
        let attached = daemon.attach("web", "t")?;
        daemon
            .place(&attached)
            .tool("ping -c1 -W5 198.51.100.1")
            .run()?;
        kill(&mut daemon)?;
    }
    Ok(())
}

/// A transfer out of a slot to the internet that lasts for `seconds`, and goes on as this returns.
fn transfer(world: &World, netns: &str, seconds: u32) -> Result<[Process; 2]> {
    let server = serve_iperf(&world.internet())?;
    let line = format!("iperf3 -c 198.51.100.1 -t {seconds} -J --logfile /run/transfer.json");
    let started = world.slot(netns).tool(&line).spawn()?;
    world
        .slot(netns)
        .tool("ping -q -c3 -i0.2 -W5 198.51.100.1")
        .run()?;
    Ok([started, server])
}

/// Waits for the end of a transfer. It must have moved data in each of its seconds, over one connection.
fn is_whole(world: &World, [mut client, _server]: [Process; 2]) -> Result<()> {
    let ended = client.wait(PATIENCE)?;
    let log = std::fs::read_to_string(world.path("/run/transfer.json"))?;
    let report: Value = serde_json::from_str(&log)?;
    // With -J, iperf3 tells most failures in its report alone and exits with 0.
    assert!(ended.success() && report["error"].is_null(), "{log}");
    let intervals = report["intervals"].as_array().context("no intervals")?;
    for interval in intervals {
        let bits = interval["sum"]["bits_per_second"].as_f64();
        assert!(
            bits.is_some_and(|bits| bits > 0.0),
            "a second without data: {interval}"
        );
    }
    Ok(())
}

#[test]
fn connections_run_on_through_a_kill_and_the_next_start() -> Result<()> {
    let world = World::new()?;
    let mut killed = world.pool_of(4)?;
    let web = killed.attach("web", "t")?;
    let neighbour = killed.attach("neighbour", "t")?;
    let port = json!({"owner": "door", "tenant": "u", "publish": ["8080:80"]});
    let door = killed.attach_with(&port)?;
    let _server = pcpm_tests::HttpServer::start(&killed.place(&door), "0.0.0.0:80")?;
    let inode = |path: &str| world.command("stat", ["-Lc", "%i", path]).run();
    let netns = web.attachment.netns.as_str();
    let (before, slot) = (identity(&world)?, inode(netns)?);
    let running = transfer(&world, netns, 6)?;
    kill(&mut killed)?;
    let curl = "curl -sS -m5 http://192.0.2.2:8080/";
    world.internet().tool(curl).run()?;
    let next = world.spawn_daemon(&["--capacity", "4"])?;
    assert_eq!(
        (identity(&world)?, inode(netns)?),
        (before, slot),
        "{}",
        next.log()
    );
    is_whole(&world, running)?;
    let again = next.get("web")?;
    assert_eq!(again.attachment.id, web.attachment.id);
    let address = &neighbour.attachment.addresses[0];
    next.place(&web)
        .tool(&format!("ping -c1 -W5 {address}"))
        .run()?;
    world.internet().tool(curl).run()?;
    next.wait_until("all slots are there", |c| c.attached == 3 && c.ready == 1)?;
    assert_eq!(next.status()?.slots.retiring, 0);
    next.detach("web")?;
    let answered = next.place(&web).tool("ping -c1 -W1 198.51.100.1").output();
    assert!(!answered.is_ok_and(|output| output.status.success()));
    Ok(())
}

#[test]
fn programs_are_replaced_under_a_running_transfer() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(2)?;
    let web = first.attach("web", "t")?;
    let mut running = transfer(&world, &web.attachment.netns, 20)?;
    let old = world.tool("bpftool net show dev pcpm0").run()?;
    kill(&mut first)?;
    let object = other_object(&world)?;
    let _next = world.spawn_daemon(&["--capacity", "2", "--steer-object", &object])?;
    assert_ne!(world.tool("bpftool net show dev pcpm0").run()?, old);
    assert!(
        running[0].ended()?.is_none(),
        "the transfer was over before the programs were replaced: {}",
        std::fs::read_to_string(world.path("/run/transfer.json"))?
    );
    is_whole(&world, running)
}

#[test]
fn a_larger_flow_table_takes_over_the_connections() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(2)?;
    let web = first.attach("web", "t")?;
    let running = transfer(&world, &web.attachment.netns, 12)?;
    kill(&mut first)?;
    std::fs::write(
        world.path("/run/pcpmd.toml"),
        "capacity = 2\n[nat]\nflows = 400000\n",
    )?;
    let next = world.spawn_daemon(&["--config", "/run/pcpmd.toml"])?;
    let shown = world
        .tool("bpftool map show pinned /sys/fs/bpf/pcpm/FLOWS")
        .run()?;
    assert!(shown.contains("max_entries 400000"), "{shown}");
    assert!(next.log().contains("map FLOWS"), "{}", next.log());
    is_whole(&world, running)
}

#[test]
fn a_start_that_would_cut_attachments_off_is_refused_and_changes_nothing() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(4)?;
    for owner in ["a", "b"] {
        first.attach(owner, "t")?;
    }
    let web = first.attach("web", "t")?;
    first.wait_until_shown(&web)?;
    kill(&mut first)?;
    let before = identity(&world)?;
    let cases: [(&[&str], &str); 3] = [
        (
            &["--pool-cidr", "10.99.0.0/16"],
            "pool_cidr: slots have addresses from 10.213.0.0 on",
        ),
        (
            &["--pool-cidr6", "off"],
            "pool_cidr6: slots have addresses from fd00",
        ),
        (
            &["--bpffs", "/sys/fs/bpf/other"],
            "bpffs: what is left in /run/pcpm belongs to the pins",
        ),
    ];
    for (options, reason) in cases {
        let (_, told) = world.host().command(binary("pcpmd")?, options).fails()?;
        assert!(told.contains(reason), "{options:?}: {told}");
        assert!(told.contains("--cleanup"), "{options:?}: {told}");
        assert_eq!(identity(&world)?, before, "after {options:?}");
        let place = world.slot(&web.attachment.netns);
        place.tool("ping -c1 -W5 198.51.100.1").run()?;
    }
    let next = world.spawn_daemon(&["--capacity", "4"])?;
    assert_eq!(next.get("web")?.attachment.id, web.attachment.id);
    Ok(())
}

#[test]
fn attachments_beyond_a_smaller_capacity_go_on_until_they_end() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(4)?;
    let owners = ["a", "b", "c", "d"];
    let attached = owners.map(|owner| first.attach(owner, "t"));
    let last = attached.into_iter().collect::<Result<Vec<_>>>()?;
    let last = last.into_iter().map(|reply| reply.attachment);
    let last = last.max_by_key(|attachment| attachment.slot.clone());
    let last = last.context("four attachments")?;
    kill(&mut first)?;
    let next = world.spawn_daemon(&["--capacity", "3"])?;
    assert_eq!(next.get(&last.owner)?.attachment.id, last.id);
    let place = world.slot(&last.netns);
    place.tool("ping -c1 -W5 198.51.100.1").run()?;
    next.wait_until("one slot is beyond the capacity", |counts| {
        (counts.attached, counts.beyond) == (4, 1)
    })?;
    next.detach(&last.owner)?;
    next.wait_until("it is destroyed and not replaced", |counts| {
        (counts.attached, counts.beyond, counts.ready) == (3, 0, 0)
    })
}

#[test]
fn other_addresses_and_a_smaller_capacity_are_taken_while_nobody_is_attached() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(6)?;
    kill(&mut first)?;
    let mut second = world.spawn_daemon(&["--capacity", "3"])?;
    second.wait_until_ready(3)?;
    second.wait_until("nothing is beyond the capacity", |counts| {
        counts.beyond == 0
    })?;
    let mounts = world.tool("ls /run/pcpm/netns").run()?;
    assert_eq!(mounts, "s0000\ns0001\ns0002\n");
    kill(&mut second)?;
    let third = world.spawn_daemon(&["--capacity", "3", "--pool-cidr", "10.99.0.0/16"])?;
    third.wait_until_ready(3)?;
    let web = third.attach("web", "t")?;
    assert!(
        web.attachment.addresses[0].starts_with("10.99.0."),
        "{web:?}"
    );
    third.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    Ok(())
}

/// Has the maps say that they are of another version.
fn raise_version(world: &World) -> Result<()> {
    world.host().within(|| {
        let map = Map::Array(MapData::from_pin(format!("{PINS}/CONFIG"))?);
        let mut config: Array<MapData, [u32; size_of::<Config>() / 4]> = map.try_into()?;
        let mut words = config.get(&0, 0)?;
        words[0] = 999;
        Ok(config.set(0, words, 0)?)
    })
}

/// Puts a map of another layout in the place of the published ports.
fn replace_ports(world: &World) -> Result<()> {
    world.tool("rm /sys/fs/bpf/pcpm/PORTS").run()?;
    let other = "type hash key 4 value 4 entries 8 name PORTS";
    let line = format!("bpftool map create {PINS}/PORTS {other}");
    world.tool(&line).run().map(drop)
}

#[test]
fn maps_of_another_version_or_layout_are_refused_with_what_to_do() -> Result<()> {
    type Damage = fn(&World) -> Result<()>;
    let cases: [(Damage, &str); 2] = [
        (raise_version, "have version 999, this pcpmd needs"),
        (
            replace_ports,
            "the map PORTS of an earlier life: it has 8 entries of 4 + 4 bytes",
        ),
    ];
    for (damage, reason) in cases {
        let world = World::new()?;
        let mut first = world.pool_of(2)?;
        let web = first.attach("web", "t")?;
        first.wait_until_shown(&web)?;
        kill(&mut first)?;
        damage(&world)?;
        let capacity = ["--capacity", "2"];
        let (_, told) = world.host().command(binary("pcpmd")?, capacity).fails()?;
        assert!(told.contains(reason), "{told}");
        assert!(told.contains("--cleanup"), "{told}");
        let place = world.slot(&web.attachment.netns);
        place.tool("ping -c1 -W5 198.51.100.1").run()?;
        cleanup(&world)?;
        world.pool_of(2)?;
    }
    Ok(())
}

#[test]
fn what_a_hub_lost_between_two_lives_is_given_back() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(2)?;
    let a = first.attach("a", "t")?;
    kill(&mut first)?;
    let hub = world.slot("/run/pcpm/hubs/0");
    hub.tool("tc filter del block 1").run()?;
    world.tool("ip route del 10.213.0.0/16").output()?;
    world.tool("ip addr del 169.254.1.1/32 dev pcpm0").run()?;
    let next = world.spawn_daemon(&["--capacity", "2"])?;
    next.place(&a).tool("ping -c1 -W5 198.51.100.1").run()?;
    world
        .tool(&format!("ping -c1 -W5 {}", a.attachment.addresses[0]))
        .run()?;
    let log = next.log();
    for told in ["add the filter from_slot", "add the gateway's address"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    Ok(())
}

/// What is done to slots in their hub while no daemon runs, and how it is told; `{}` stands for the slot.
const DAMAGE: [(&str, &str); 5] = [
    ("ip link del {}", "its link is gone"),
    ("ip link set {} down", "its link is down"),
    ("tc qdisc del dev {} ingress", "not joined"),
    (
        "ip link set {} address 02:00:00:00:00:09",
        "another hardware address",
    ),
    ("ip link set {} name mine", "another name"),
];

#[test]
fn a_slot_that_was_damaged_between_two_lives_is_repaired_for_whoever_holds_it() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(DAMAGE.len().try_into()?)?;
    let mut held = Vec::new();
    for (number, _) in DAMAGE.iter().enumerate() {
        let attached = first.attach(&format!("owner{number}"), "t")?;
        held.push(attached);
    }
    kill(&mut first)?;
    let hub = world.slot("/run/pcpm/hubs/0");
    for ((damage, _), attached) in DAMAGE.iter().zip(&held) {
        hub.tool(&damage.replace("{}", &attached.attachment.slot))
            .run()?;
    }
    let next = world.spawn_daemon(&["--capacity", &held.len().to_string()])?;
    for ((_, told), attached) in DAMAGE.iter().zip(&held) {
        let before = &attached.attachment;
        next.watch(&format!("it is repaired: {told}"), |_| {
            let now = next.get(&before.owner).ok()?.attachment;
            assert_eq!(now.id, before.id, "{told}");
            now.broken.is_none().then_some(())
        })?;
        assert!(next.log().contains(told), "{told}: {}", next.log());
        let place = next.place(attached);
        place
            .tool("ping -c1 -W5 198.51.100.1")
            .run()
            .context(*told)?;
    }
    Ok(())
}

#[test]
fn an_attachment_lives_on_when_one_of_its_mounts_is_taken_away() -> Result<()> {
    for loss in ["mounts/slots", "attached/SLOT"] {
        let world = World::new()?;
        let mut first = world.pool_of(2)?;
        let held = first.attach("a", "t")?;
        first.wait_until_shown(&held)?;
        let before = held.attachment;
        kill(&mut first)?;
        let loss = format!("umount -l /run/pcpm/{}", loss.replace("SLOT", &before.slot));
        world.tool(&loss).run()?;
        let next = world.spawn_daemon(&["--capacity", "2"])?;
        let after = next.get("a")?.attachment;
        assert_eq!((&after.id, &after.netns), (&before.id, &before.netns));
        next.watch("it is repaired", |_| {
            let now = next.get("a").ok()?.attachment;
            now.broken.is_none().then_some(())
        })?;
        next.wait_until_ready(1)?;
        let place = world.slot(&after.netns);
        place
            .tool("ping -c1 -W5 198.51.100.1")
            .run()
            .context(loss.clone())?;
        let mounts = world.tool("cat /proc/self/mounts").run()?;
        let shown = format!("attached/{}", before.slot);
        for mount in ["mounts/slots", &shown] {
            let mount = format!(" /run/pcpm/{mount} ");
            assert!(mounts.contains(&mount), "{loss}: {mounts}");
        }
    }
    Ok(())
}

#[test]
fn an_attachment_whose_namespace_nobody_can_open_any_more_is_lost_and_told() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(2)?;
    let mut containers = Vec::new();
    for owner in ["a", "b"] {
        let held = first.attach(owner, "t")?;
        first.wait_until_shown(&held)?;
        containers.push(first.place(&held).tool("sleep 1000").spawn()?);
        first.place(&held).tool("ping -c1 -W5 198.51.100.1").run()?;
    }
    kill(&mut first)?;
    world.tool("umount -l /run/pcpm/mounts/slots").run()?;
    for slot in ["s0000", "s0001"] {
        world
            .tool(&format!("umount -l /run/pcpm/attached/{slot}"))
            .run()?;
    }
    world
        .tool("rm /run/pcpm/attached/s0001 /run/pcpm/netns/s0001")
        .run()?;
    let next = world.spawn_daemon(&["--capacity", "2"])?;
    assert!(next.get("a").is_err() && next.get("b").is_err());
    let log = next.log();
    for told in [
        "lost: its namespace is not mounted",
        "lost: it has a link and no mount",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    next.wait_until_ready(2)
}

#[test]
fn a_hub_that_lost_its_link_gets_it_back_and_keeps_its_slots() -> Result<()> {
    let world = World::new()?;
    let mut first = world.pool_of(2)?;
    let web = first.attach("web", "t")?;
    kill(&mut first)?;
    world.tool("ip link del pcpm0").run()?;
    let next = world.spawn_daemon(&["--capacity", "2"])?;
    assert_eq!(next.get("web")?.attachment.id, web.attachment.id);
    next.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    let log = next.log();
    assert!(log.contains("make its link to the host"), "{log}");
    Ok(())
}

#[test]
fn a_check_beside_what_a_killed_daemon_left_finds_nothing_wrong() -> Result<()> {
    let world = World::new()?;
    let mut killed = world.pool_of(2)?;
    kill(&mut killed)?;
    let before = identity(&world)?;
    world.host().command(binary("pcpmd")?, ["--check"]).run()?;
    assert_eq!(identity(&world)?, before);
    Ok(())
}

#[test]
fn a_thousand_slots_are_taken_over_not_made_again() -> Result<()> {
    let world = World::new()?;
    let mut killed = world.pool_of(1000)?;
    kill(&mut killed)?;
    let started = std::time::Instant::now();
    let next = world.spawn_daemon(&["--capacity", "1000"])?;
    let took = started.elapsed();
    let status = next.status()?;
    assert_eq!(status.slots.ready, 1000, "{}", next.log());
    assert_eq!((status.refill.created, status.refill.retired), (0, 0));
    assert!(took < std::time::Duration::from_secs(5), "it took {took:?}");
    println!("serving after {took:?}");
    Ok(())
}

//! What somebody takes from a running pool: it is noticed, told, and repaired or replaced.

use anyhow::{Context, Result};
use pcpm_api::types::Event;
use pcpm_tests::{Daemon, HttpServer, Place, World};
use serde_json::json;

/// A pool that is looked after every second.
fn pool(world: &World, slots: u32) -> Result<Daemon> {
    let file = world.path("/run/pcpmd.toml");
    std::fs::write(file, "[reaper]\ninterval = \"1s\"\n")?;
    let slots_text = slots.to_string();
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", &slots_text])?;
    daemon.wait_until_ready(slots)?;
    Ok(daemon)
}

/// Does damage, and waits for the event of this kind that says so.
fn event_after(
    damage: impl FnOnce() -> Result<()>,
    daemon: &Daemon,
    kind: &str,
    says: &str,
) -> Result<Event> {
    let mut damage = Some(damage);
    daemon.watch(&format!("{kind}: {says}"), |frame| {
        // Only whoever watches already hears of it.
        if let Some(damage) = damage.take()
            && let Err(error) = damage()
        {
            return Some(Err(error));
        }
        let mut events = frame.events.iter();
        let event = events.find(|event| event.kind == kind && event.message.contains(says));
        event.cloned().map(Ok)
    })?
}

/// Damage that a command does in a place.
fn by<'p>(place: &'p Place, line: &str) -> impl FnOnce() -> Result<()> + use<'p> {
    let tool = place.command("sh", ["-c", line]);
    || tool.run().map(drop)
}

#[test]
fn what_somebody_takes_from_a_hub_is_given_back_while_the_daemon_runs() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let web = daemon.attach("web", "t")?;
    let ping = format!("ping -c1 -W5 {}", web.attachment.addresses[0]);
    let hub = world.slot("/run/pcpm/hubs/0");
    let cases: [(&Place, &str, &str); 8] = [
        (
            world.host(),
            "ip addr del 169.254.1.1/32 dev pcpm0",
            "add route 10.213.0.0/23 via pcpm0",
        ),
        (
            world.host(),
            "tc filter del dev pcpm0 ingress",
            "add the filter from_hub",
        ),
        (world.host(), "ip link set pcpm0 down", "set up pcpm0"),
        (&hub, "tc filter del block 1", "add the filter from_slot"),
        (
            world.host(),
            "ip link del pcpm0",
            "make its link to the host",
        ),
        (&hub, "ip link del up0", "make its link to the host"),
        (
            world.host(),
            "umount -l /run/pcpm/hubs/0",
            "mount its namespace",
        ),
        (
            world.host(),
            "umount -l /run/pcpm/mounts/slots",
            "slots: mount what they are mounted in",
        ),
    ];
    for (place, damage, repair) in cases {
        event_after(by(place, damage), &daemon, "repaired", repair)?;
        world.tool(&ping).run()?;
        daemon.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    }
    Ok(())
}

#[test]
fn an_attached_slot_is_repaired_whatever_was_taken_from_it_and_told_as_broken_until_then()
-> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let web = daemon.attach("web", "t")?;
    let slot = &web.attachment.slot;
    let hub = world.slot("/run/pcpm/hubs/0");
    let host = world.host();
    let cases: [(&Place, String, &str); 10] = [
        (&hub, format!("ip link del {slot}"), "its link is gone"),
        (&hub, format!("ip link set {slot} down"), "its link is down"),
        (
            &hub,
            format!("tc qdisc del dev {slot} ingress"),
            "its link is not joined to the steering filter",
        ),
        (
            &hub,
            format!("tc qdisc del dev {slot} ingress && tc qdisc add dev {slot} ingress"),
            "its link is not joined to the steering filter",
        ),
        (
            &hub,
            format!("ip link set {slot} address 02:00:00:00:00:09"),
            "its link has another hardware address",
        ),
        (
            &hub,
            format!("ip link set {slot} name mine"),
            "its link has another name",
        ),
        (
            host,
            format!("umount -l /run/pcpm/netns/{slot}"),
            "its namespace is not mounted in the host",
        ),
        (
            host,
            format!("rm /run/pcpm/netns/{slot}"),
            "its name leads elsewhere",
        ),
        (
            host,
            format!("rm /run/pcpm/live/{slot}"),
            "its namespace is not where it should be mounted",
        ),
        (
            host,
            format!(
                "umount -l /run/pcpm/netns/{slot} && cd /run/pcpm && rm netns/{slot} attached/{slot} live/{slot}"
            ),
            "it has a link and no mount",
        ),
    ];
    for (place, damage, doubt) in cases {
        place.command("sh", ["-c", &damage]).run()?;
        daemon.watch(&format!("it is repaired: {doubt}"), |frame| {
            let mut events = frame.events.iter();
            let repaired =
                events.find(|event| event.kind == "repaired" && event.message.contains(doubt))?;
            assert_eq!(repaired.owner.as_deref(), Some("web"));
            assert_eq!(repaired.slot.as_ref(), Some(slot));
            Some(())
        })?;
        assert_eq!(daemon.get("web")?.attachment.broken, None, "{doubt}");
        let place = daemon.place(&web);
        place
            .tool("ping -c1 -W5 198.51.100.1")
            .run()
            .context(doubt)?;
    }
    Ok(())
}

#[test]
fn nothing_of_an_attached_slot_is_there_and_all_of_it_comes_back() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 1)?;
    let web = daemon.attach("web", "t")?;
    let slot = &web.attachment.slot;
    daemon.wait_until_shown(&web)?;
    let all = format!(
        "cd /run/pcpm && nsenter --net=hubs/0 ip link del {slot} && \
         umount -l attached/{slot} && rm netns/{slot} attached/{slot} live/{slot}"
    );
    let damage = by(world.host(), &all);
    event_after(damage, &daemon, "repaired", "nothing of it is there")?;
    daemon.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    daemon.detach("web")?;
    daemon.wait_until_ready(1)
}

#[test]
fn a_slot_that_cannot_be_repaired_is_told_as_broken_until_it_is_right_again() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 1)?;
    let web = daemon.attach("web", "t")?;
    let slot = &web.attachment.slot;
    let hub = world.slot("/run/pcpm/hubs/0");
    // Its holder made a link of the name that the slot's is to have.
    let damage = || {
        hub.tool(&format!("ip link del {slot}")).run()?;
        let taken = "ip link add eth0 type bridge";
        daemon.place(&web).tool(taken).run().map(drop)
    };
    let broken = event_after(damage, &daemon, "broken", "cannot be repaired")?;
    assert_eq!(broken.owner.as_deref(), Some("web"));
    let shown = daemon.get("web")?.attachment.broken.unwrap_or_default();
    assert!(shown.contains("its link is gone"), "{shown}");
    for (verb, told) in [("status", "1 attached slots are broken"), ("ls", "broken")] {
        let text = world.pcpm([verb])?.run()?;
        assert!(text.contains(told), "{text}");
    }
    let place = daemon.place(&web);
    let cure = by(&place, "ip link del eth0");
    event_after(cure, &daemon, "repaired", "was broken: its link is gone")?;
    daemon.place(&web).tool("ping -c1 -W5 198.51.100.1").run()?;
    Ok(())
}

#[test]
fn a_ready_slot_that_is_damaged_is_replaced() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let hub = world.slot("/run/pcpm/hubs/0");
    let damage = by(&hub, "ip link del s0000");
    event_after(damage, &daemon, "failed", "its link is gone")?;
    let damage = by(world.host(), "rm /run/pcpm/live/s0001");
    event_after(damage, &daemon, "failed", "mounted")?;
    daemon.wait_until_ready(2)?;
    for owner in ["a", "b"] {
        let attached = daemon.attach(owner, "t")?;
        let place = daemon.place(&attached);
        place.tool("ping -c1 -W5 198.51.100.1").run()?;
    }
    Ok(())
}

#[test]
fn programs_that_somebody_takes_off_their_hooks_come_back() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 1)?;
    let web = daemon.attach_with(&json!({"owner": "web", "publish": ["8080:80"]}))?;
    let _server = HttpServer::start(&daemon.place(&web), "0.0.0.0:80")?;
    // A pin is all that holds a program at its hook.
    for (pin, repair) in [
        ("from_uplink_*", "attach from_uplink to eth0"),
        ("connect4", "attach connect4 to the root control group"),
    ] {
        let removal = by(world.host(), &format!("rm /sys/fs/bpf/pcpm/{pin}"));
        event_after(removal, &daemon, "repaired", repair)?;
        world.tool("curl -sS -m5 http://192.0.2.2:8080/").run()?;
        world
            .internet()
            .tool("curl -sS -m5 http://192.0.2.2:8080/")
            .run()?;
    }
    Ok(())
}

#[test]
fn a_shared_namespace_whose_mount_is_taken_away_is_told_and_replaced_where_nobody_holds_it()
-> Result<()> {
    let world = World::new()?;
    let file = world.path("/run/pcpmd.toml");
    std::fs::write(
        file,
        "share = [\"ipc\", \"uts\"]\n[reaper]\ninterval = \"1s\"\n",
    )?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "2"])?;
    daemon.wait_until_ready(2)?;
    let held = daemon.attach("held", "t")?.attachment;
    let idle = if held.slot == "s0000" {
        "s0001"
    } else {
        "s0000"
    };
    let damage = by(world.host(), &format!("umount /run/pcpm/ipc/{}", held.slot));
    let told = "its ipc namespace is not mounted, and cannot be repaired";
    event_after(damage, &daemon, "broken", told)?;
    let damage = by(world.host(), &format!("umount /run/pcpm/uts/{idle}"));
    let told = "its uts namespace is not mounted";
    event_after(damage, &daemon, "failed", told)?;
    daemon.wait_until_ready(1)?;
    let replaced = world.tool(&format!("stat -f -c %T /run/pcpm/uts/{idle}"));
    assert_eq!(replaced.run()?.trim(), "nsfs");
    // Its network is as it was, and it is not told again and again.
    let address = &held.addresses[0];
    world.tool(&format!("ping -c1 -W5 {address}")).run()?;
    let broken = daemon.get("held")?.attachment.broken;
    assert!(broken.is_some_and(|text| text.contains("ipc namespace")));
    Ok(())
}

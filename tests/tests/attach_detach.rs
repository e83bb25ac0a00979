//! Attach and detach as programs and shells use them: `pcpm` and its exit codes.

use std::collections::BTreeSet;

use anyhow::Result;
use pcpm_tests::World;
use serde_json::{Value, json};

#[test]
fn an_attachment_says_all_that_an_engine_needs() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(4)?;
    let attached = world
        .pcpm(["--json", "attach", "web", "--tenant", "shop"])?
        .json()?;
    for (field, expected) in [
        ("owner", json!("web")),
        ("tenant", json!("shop")),
        ("interface", json!("eth0")),
        ("gateways", json!(["169.254.1.1", "fe80::1"])),
        ("mtu", json!(1500)),
        ("publish", json!([])),
        ("source", json!("warm")),
    ] {
        assert_eq!(attached[field], expected, "{field} in {attached}");
    }
    for field in ["id", "slot", "netns", "mac"] {
        assert!(
            !attached[field].as_str().unwrap_or_default().is_empty(),
            "{field} in {attached}"
        );
    }
    assert!(
        attached["epoch"].is_u64() && attached["took_us"].is_u64(),
        "{attached}"
    );
    assert!(
        text(&attached["addresses"][0]).starts_with("10.213."),
        "{attached}"
    );
    Ok(())
}

#[test]
fn the_namespace_is_as_the_attachment_says() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(2)?;
    let attached = world.pcpm(["--json", "attach", "web"])?.json()?;
    let slot = world.slot(text(&attached["netns"]));
    let link = slot.tool("ip -o link show eth0").run()?;
    assert!(
        link.contains(text(&attached["mac"])) && link.contains("mtu 1500"),
        "{link}"
    );
    let addresses = slot.tool("ip -o -4 address show eth0").run()?;
    assert!(
        addresses.contains(&format!("{}/32", text(&attached["inner_addresses"][0]))),
        "{addresses}"
    );
    let routes = slot.tool("ip route").run()?;
    assert!(
        routes.contains("default via 169.254.1.1 dev eth0"),
        "{routes}"
    );
    slot.tool("ping -c1 -W5 127.0.0.1").run()?;
    Ok(())
}

#[test]
fn users_of_a_slot_may_ping_and_serve_low_ports() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs";
    slot.tool(&format!("{nobody} ping -c1 -W5 169.254.1.1"))
        .run()?;
    let listen = "import socket; socket.create_server(('0.0.0.0', 80))";
    let python = ["/usr/bin/env", "python3", "-c", listen];
    slot.command("setpriv", nobody.split(' ').skip(1).chain(python))
        .run()?;
    Ok(())
}

#[test]
fn attaching_again_returns_the_same_attachment() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(3)?;
    let first = daemon.attach("web", "shop")?.attachment;
    let again = daemon.attach("web", "shop")?.attachment;
    assert_eq!((first.id, first.netns), (again.id, again.netns));
    assert_eq!(daemon.status()?.slots.attached, 1);
    Ok(())
}

#[test]
fn attaching_again_with_other_parameters_names_the_difference() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(3)?;
    world.pcpm(["attach", "web", "--tenant", "shop"])?.run()?;
    let (code, error) = world.pcpm(["attach", "web", "--tenant", "bank"])?.fails()?;
    assert_eq!(code, 1);
    assert!(error.contains("web") && error.contains("tenant"), "{error}");
    Ok(())
}

#[test]
fn a_bad_name_is_refused_by_its_field() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(1)?;
    let long = "x".repeat(500);
    for (arguments, field) in [
        (vec!["attach", "-x y"], ""),
        (vec!["attach", "a b"], "owner"),
        (vec!["attach", &long], "owner"),
        (vec!["attach", "web", "--tenant", "a/\u{1b}[31m"], "tenant"),
        (vec!["attach", "web", "--label", "k=a\u{7}"], "labels.k"),
    ] {
        let (code, error) = world.pcpm(arguments.clone())?.fails()?;
        assert!(error.contains(field), "{arguments:?}: {error}");
        assert!(
            !error.contains('\u{1b}') && !error.contains('\u{7}'),
            "{error:?}"
        );
        assert_eq!(
            code,
            if field.is_empty() { 2 } else { 1 },
            "{arguments:?}: {error}"
        );
    }
    Ok(())
}

#[test]
fn exit_codes_tell_usage_daemon_and_exhaustion_apart() -> Result<()> {
    let world = World::new()?;
    assert_eq!(world.pcpm(["status"])?.fails()?.0, 3);
    let _daemon = world.pool_of(1)?;
    assert_eq!(world.pcpm(["explode", "web"])?.fails()?.0, 2);
    assert_eq!(world.pcpm(["detach", "nobody"])?.fails()?.0, 1);
    world.pcpm(["attach", "one"])?.run()?;
    let (code, error) = world
        .pcpm(["attach", "two", "--on-empty", "fail"])?
        .fails()?;
    assert_eq!(code, 4, "{error}");
    Ok(())
}

#[test]
fn an_exhausted_pool_says_how_deep_it_is() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    daemon.attach("one", "t")?;
    daemon.attach("two", "t")?;
    let request = json!({"owner": "three", "on_empty": "fail"});
    let refusal = daemon.connect()?.refused("Attach", &request)?;
    assert_eq!(refusal.name, "PoolExhausted");
    assert_eq!(refusal.parameters["depth"], 0);
    assert_eq!(refusal.parameters["capacity"], 2);
    Ok(())
}

#[test]
fn whoever_waits_gets_the_next_slot() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let first = daemon.attach("first", "t")?.attachment;
    let mut waiting = daemon.connect()?;
    let request = json!({"owner": "second", "on_empty": "wait", "timeout_ms": 30_000});
    waiting.send(&json!({"method": "io.pcpm.Pool.Attach", "parameters": request}))?;
    daemon.wait_until("a request waits", |counts| counts.waiting == 1)?;
    daemon.detach("first")?;
    let reply = waiting.receive()?.expect("the connection lives");
    assert_eq!(reply["parameters"]["owner"], "second", "{reply}");
    assert_ne!(reply["parameters"]["id"], json!(first.id));
    Ok(())
}

#[test]
fn waiting_in_vain_ends_in_time() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    daemon.attach("first", "t")?;
    let asked = std::time::Instant::now();
    let arguments = [
        "attach",
        "second",
        "--on-empty",
        "wait",
        "--timeout",
        "300ms",
    ];
    assert_eq!(world.pcpm(arguments)?.fails()?.0, 4);
    assert!(asked.elapsed() >= std::time::Duration::from_millis(300));
    Ok(())
}

#[test]
fn an_address_rests_as_long_as_possible() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(6)?;
    let mut used = BTreeSet::new();
    for round in 0..6 {
        let owner = format!("owner-{round}");
        let attachment = daemon.attach(&owner, "t")?.attachment;
        assert!(
            used.insert(attachment.addresses[0].clone()),
            "{used:?} then {attachment:?}"
        );
        daemon.detach(&owner)?;
        daemon.wait_until_ready(6)?;
    }
    Ok(())
}

#[test]
fn a_detached_slot_is_replaced_by_a_new_namespace() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let attached = daemon.attach("one", "t")?;
    daemon
        .place(&attached)
        .tool("ip link add left-behind type bridge")
        .run()?;
    daemon.detach("one")?;
    daemon.wait_until_ready(1)?;
    let next = daemon.attach("two", "t")?;
    let links = daemon.place(&next).tool("ip -o link").run()?;
    assert!(!links.contains("left-behind"), "{links}");
    assert_ne!(attached.attachment.id, next.attachment.id);
    Ok(())
}

#[test]
fn a_lease_of_a_connection_ends_with_it() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let mut wire = daemon.connect()?;
    let _: Value = wire.call("Attach", &json!({"owner": "web", "lease": "connection"}))?;
    assert_eq!(daemon.status()?.slots.attached, 1);
    drop(wire);
    daemon.wait_until("the slot is free again", |counts| counts.ready == 2)?;
    Ok(())
}

#[test]
fn attachments_are_listed_and_shown() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(3)?;
    world
        .pcpm(["attach", "web", "--tenant", "shop", "--label", "tier=front"])?
        .run()?;
    world.pcpm(["attach", "db"])?.run()?;
    let list = world.pcpm(["--json", "ls"])?.json()?;
    let owners: BTreeSet<_> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|a| text(&a["owner"]))
        .collect();
    assert_eq!(owners, BTreeSet::from(["db", "web"]));
    for field in ["owner", "tenant", "slot", "epoch", "addresses"] {
        assert!(!list[0][field].is_null(), "{field} in {list}");
    }
    let shown = world.pcpm(["--json", "show", "web"])?.json()?;
    assert_eq!(shown["labels"]["tier"], "front");
    assert!(shown["netns"].is_string(), "{shown}");
    world.pcpm(["detach", "web"])?.run()?;
    assert_eq!(world.pcpm(["show", "web"])?.fails()?.0, 1);
    Ok(())
}

#[test]
fn the_socket_is_closed_to_other_users() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(1)?;
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/pcpm/pcpm.sock')";
    let arguments = nobody
        .into_iter()
        .chain(["/usr/bin/env", "python3", "-c", connect]);
    let (_, error) = world.command("setpriv", arguments).fails()?;
    assert!(error.contains("PermissionError"), "{error}");
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

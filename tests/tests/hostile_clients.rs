//! Clients that break the protocol, stall or come by the thousand: each gets an error at most, and
//! nobody else notices.

use std::fs;

use anyhow::{Context, Result};
use pcpm_tests::{Daemon, Wire, World};
use serde_json::{Value, json};

/// Another client, which was there before, still gets its answers.
fn nobody_else_notices(daemon: &Daemon, bystander: &mut Wire) -> Result<()> {
    let _: Value = bystander.call("Attach", &json!({"owner": "bystander"}))?;
    let _: Value = bystander.call("Detach", &json!({"owner": "bystander"}))?;
    daemon.wait_until("the bystander's slot is back", |counts| {
        counts.ready == counts.capacity
    })
}

fn world_with_bystander() -> Result<(World, Daemon, Wire)> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let mut bystander = daemon.connect()?;
    let _: Value = bystander.call("Status", &json!({}))?;
    Ok((world, daemon, bystander))
}

#[test]
fn what_is_no_call_gets_an_error_or_an_end() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let deep = "[".repeat(30_000);
    for nonsense in [
        "nonsense",
        "",
        "{}",
        "[]",
        "null",
        "{\"method\":7}",
        "{\"method\":\"\"}",
        "\u{fffd}{",
        "{\"method\":\"x\"}",
        "{\"method\":\"io.pcpm.Pool.Attach\"}",
        "{\"method\":\"io.pcpm.Pool.Attach\",\"parameters\":[]}",
        "{\"method\":\"io.pcpm.Pool.Attach\",\"parameters\":{\"owner\":null}}",
        &deep,
    ] {
        let mut wire = daemon.connect()?;
        wire.send_bytes(format!("{nonsense}\0").as_bytes())?;
        if let Some(reply) = wire.receive()? {
            assert!(reply["error"].is_string(), "{nonsense}: {reply}");
        }
    }
    nobody_else_notices(&daemon, &mut bystander)
}

#[test]
fn bytes_that_are_no_text_get_an_error_or_an_end() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let mut wire = daemon.connect()?;
    wire.send_bytes(&[0xff, 0xfe, 0x80, 0])?;
    if let Some(reply) = wire.receive()? {
        assert!(reply["error"].is_string(), "{reply}");
    }
    nobody_else_notices(&daemon, &mut bystander)
}

#[test]
fn times_that_cannot_be_are_refused_by_name() -> Result<()> {
    let (_world, daemon, mut wire) = world_with_bystander()?;
    daemon.attach("web", "shop")?;
    let time = |phase: &str, took_us: Value| json!({"phase": phase, "took_us": took_us});
    let many = vec![time("create", 1.into()); 1000];
    for (phases, error, named) in [
        (json!([]), "InvalidArgument", "phases"),
        (json!(many), "InvalidArgument", "phases.create"),
        (
            json!([time("start", u64::MAX.into())]),
            "InvalidArgument",
            "phases.start",
        ),
        (
            json!([time("start", (-1).into())]),
            "InvalidParameter",
            "phases",
        ),
        (
            json!([time("sleep", 1.into())]),
            "InvalidParameter",
            "phases",
        ),
    ] {
        let told = json!({"owner": "web", "phases": phases});
        let refusal = wire.refused("ReportStart", &told)?;
        assert_eq!(refusal.name, error, "{refusal:?}");
        let said = refusal.parameters.to_string();
        assert!(said.contains(&format!("\"{named}\"")), "{refusal:?}");
    }
    let nobody = json!({"owner": "nobody", "phases": [time("start", 1.into())]});
    let refusal = wire.refused("ReportStart", &nobody)?;
    assert_eq!(refusal.name, "NoSuchAttachment");
    assert_eq!(daemon.status()?.starts.create.count, 0);
    Ok(())
}

#[test]
fn unknown_methods_and_parameters_are_named() -> Result<()> {
    let (_world, daemon, mut wire) = world_with_bystander()?;
    let refusal = wire.refused("Explode", &json!({}))?;
    assert_eq!(refusal.name, "MethodNotFound");
    assert!(
        refusal.parameters.to_string().contains("Explode"),
        "{refusal:?}"
    );
    let refusal = wire.refused("Attach", &json!({"owner": "web", "colour": "red"}))?;
    assert_eq!(refusal.name, "InvalidParameter");
    assert!(
        refusal.parameters.to_string().contains("colour"),
        "{refusal:?}"
    );
    wire.send(&json!({"method": "org.example.Else.Do"}))?;
    let reply = wire.receive()?.context("an answer")?;
    assert_eq!(reply["error"], "org.varlink.service.InterfaceNotFound");
    nobody_else_notices(&daemon, &mut wire)
}

#[test]
fn values_of_the_wrong_kind_are_refused() -> Result<()> {
    let (_world, daemon, mut wire) = world_with_bystander()?;
    for parameters in [
        json!({"owner": 7}),
        json!({"owner": "web", "timeout_ms": -1}),
        json!({"owner": "web", "timeout_ms": 1e40}),
        json!({"owner": "web", "on_empty": "explode"}),
        json!({"owner": "web", "labels": {"a": 1}}),
        json!({"owner": "web", "tenant": ["t"]}),
    ] {
        let refusal = wire.refused("Attach", &parameters)?;
        let expected = ["InvalidParameter", "InvalidArgument"];
        assert!(
            expected.contains(&refusal.name.as_str()),
            "{parameters}: {refusal:?}"
        );
    }
    assert_eq!(daemon.status()?.slots.attached, 0);
    nobody_else_notices(&daemon, &mut wire)
}

#[test]
fn a_message_of_more_than_64_kib_ends_the_connection() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let mut wire = daemon.connect()?;
    let long =
        json!({"method": "io.pcpm.Pool.Detach", "parameters": {"owner": "x".repeat(70_000)}});
    // The daemon may hang up before it has read everything.
    if wire.send(&long).is_ok()
        && let Some(reply) = wire.receive()?
    {
        assert!(reply["error"].is_string(), "{reply}");
        assert!(wire.receive()?.is_none(), "the connection goes on");
    }
    nobody_else_notices(&daemon, &mut bystander)
}

#[test]
fn an_endless_message_takes_no_endless_memory() -> Result<()> {
    let world = World::new()?;
    // Lock insight takes memory for a while when it starts.
    fs::write(
        world.path("/run/pcpmd.toml"),
        "capacity = 2\n[locks]\nenabled = false\n",
    )?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml"])?;
    daemon.wait_until_ready(2)?;
    let mut bystander = daemon.connect()?;
    let before = daemon.status()?.memory.daemon_rss_bytes;
    let mut wire = daemon.connect()?;
    let sent = (0..2_000)
        .take_while(|_| wire.send_bytes(&[b'x'; 16 * 1024]).is_ok())
        .count();
    assert!(sent < 2_000, "the daemon took 32 MB without an end");
    // The daemon remembers what it was for a second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let grown = daemon
        .status()?
        .memory
        .daemon_rss_bytes
        .saturating_sub(before);
    assert!(grown < 8_000_000, "{grown} bytes");
    nobody_else_notices(&daemon, &mut bystander)
}

#[test]
fn half_a_message_delays_nobody() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut wire = daemon.connect()?;
        wire.send_bytes(b"{\"method\":\"io.pcpm.Po")?;
        halves.push(wire);
    }
    nobody_else_notices(&daemon, &mut bystander)?;
    for wire in &mut halves {
        wire.send_bytes(b"ol.List\"}\0")?;
        let reply = wire.receive()?.context("an answer")?;
        assert!(reply["parameters"]["attachments"].is_array(), "{reply}");
    }
    Ok(())
}

#[test]
fn a_client_that_leaves_in_the_middle_is_forgotten() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    for message in [
        "{\"method\":\"io.pcpm.",
        "{\"method\":\"io.pcpm.Pool.List\"}\0",
        "",
    ] {
        let mut wire = daemon.connect()?;
        wire.send_bytes(message.as_bytes())?;
    }
    nobody_else_notices(&daemon, &mut bystander)
}

#[test]
fn a_thousand_idle_clients_delay_nobody() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let idle: Vec<_> = (0..1000).map(|_| daemon.connect()).collect::<Result<_>>()?;
    nobody_else_notices(&daemon, &mut bystander)?;
    assert!(daemon.status()?.clients >= 1000);
    drop(idle);
    Ok(())
}

/// Growing it takes an RCU grace period, for which whoever is served at that moment would wait, and all behind.
#[test]
fn a_thousand_clients_do_not_make_the_table_of_descriptors_grow() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(64)?;
    let before = size_of_descriptor_table(&daemon)?;
    let clients: Vec<_> = (0..1000).map(|_| daemon.connect()).collect::<Result<_>>()?;
    assert!(daemon.status()?.clients >= 1000);
    assert_eq!(size_of_descriptor_table(&daemon)?, before);
    drop(clients);
    Ok(())
}

/// `FDSize` of `proc_pid_status(5)`.
fn size_of_descriptor_table(daemon: &Daemon) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.main_thread()))?;
    let mut lines = status.lines();
    let size = lines.find_map(|line| line.strip_prefix("FDSize:"));
    Ok(size.context("no FDSize")?.trim().parse()?)
}

#[test]
fn calls_sent_at_once_are_answered_in_order() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let mut wire = daemon.connect()?;
    let mut calls = Vec::new();
    for number in 0..200 {
        let owner = format!("nobody-{number}");
        let call = json!({"method": "io.pcpm.Pool.Detach", "parameters": {"owner": owner}});
        calls.extend_from_slice(call.to_string().as_bytes());
        calls.push(0);
    }
    wire.send_bytes(&calls)?;
    for number in 0..200 {
        let reply = wire.receive()?.context("an answer")?;
        assert_eq!(
            reply["parameters"]["owner"],
            format!("nobody-{number}"),
            "{reply}"
        );
    }
    nobody_else_notices(&daemon, &mut bystander)
}

#[test]
fn calls_without_an_answer_are_obeyed_silently() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let mut wire = daemon.connect()?;
    let attach =
        json!({"method": "io.pcpm.Pool.Attach", "parameters": {"owner": "web"}, "oneway": true});
    wire.send(&attach)?;
    let list: Value = wire.call("List", &json!({}))?;
    assert_eq!(list["attachments"][0]["owner"], "web", "{list}");
    let _: Value = wire.call("Detach", &json!({"owner": "web"}))?;
    nobody_else_notices(&daemon, &mut bystander)
}

#[test]
fn a_client_that_never_reads_delays_nobody() -> Result<()> {
    let (_world, daemon, mut bystander) = world_with_bystander()?;
    let mut deaf = daemon.connect()?;
    let call = [
        json!({"method": "io.pcpm.Pool.Status"})
            .to_string()
            .as_bytes(),
        b"\0",
    ]
    .concat();
    deaf.never_block()?;
    // Until neither side takes any more.
    while deaf.send_bytes(&call).is_ok() {}
    nobody_else_notices(&daemon, &mut bystander)
}

//! Options of attachments, as programs and shells use them: what is refused and why, what is asked for
//! again, what is changed, and whose a published port of the host is.

use anyhow::Result;
use nix::sys::signal::Signal;
use pcpm_tests::{Daemon, HttpServer, PATIENCE, World};
use serde_json::{Value, json};

/// A line of Python that listens on a port, or says why it cannot.
fn listen(world: &World, kind: &str, address: &str, port: u16) -> Result<Option<String>> {
    let family = if address.contains(':') {
        "INET6"
    } else {
        "INET"
    };
    let script = format!(
        "import socket; s = socket.socket(socket.AF_{family}, socket.SOCK_{kind}); \
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('{address}', {port})); \
         '{kind}' == 'STREAM' and s.listen()"
    );
    let output = world.command("python3", ["-c", &script]).output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(error))
}

fn assert_taken(world: &World, kind: &str, address: &str, port: u16) -> Result<()> {
    let error = listen(world, kind, address, port)?;
    let error = error.unwrap_or_else(|| format!("{kind} {address}:{port} is free"));
    assert!(error.contains("Address already in use"), "{error}");
    Ok(())
}

fn assert_free(world: &World, kind: &str, address: &str, port: u16) -> Result<()> {
    assert_eq!(listen(world, kind, address, port)?, None);
    Ok(())
}

/// What `pcpm` says when it refuses.
fn refusal(world: &World, words: &str) -> Result<String> {
    let (code, error) = world.pcpm(words.split(' '))?.fails()?;
    assert_eq!(code, 1, "{error}");
    Ok(error)
}

fn ready(daemon: &Daemon) -> Result<(u32, u32)> {
    let status = daemon.status()?;
    Ok((status.slots.ready, status.published_ports))
}

#[test]
fn options_that_cannot_be_had_are_refused_by_name_and_cost_no_slot() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    for (words, reason) in [
        (
            "attach a --publish 80",
            "publish: \"80\": not HOSTPORT:PORT",
        ),
        (
            "attach a --publish 8000-8010:1-2",
            "publish: \"8000-8010:1-2\": 8000-8010 are 11 ports",
        ),
        (
            "attach a --publish 80:80 --publish 80:81",
            "publish: tcp:80:80 and tcp:80:81 take the same",
        ),
        (
            "attach a --publish 203.0.113.9:80:80",
            "publish: port tcp:203.0.113.9:80:80: this host does not have",
        ),
        (
            "attach a --allow 10.0.0.1/8",
            "allow: \"10.0.0.1/8\": 10.0.0.1/8 is an address in a network",
        ),
        (
            "attach a --deny example.com",
            "deny: example.com: names can be allowed, not denied",
        ),
        (
            "attach a --allow 192.0.2.1 --deny 192.0.2.1",
            "deny: 192.0.2.1 is allowed and denied",
        ),
        (
            "attach a --rate-up 1k",
            "rate_up: 1000 is not between 8000 and",
        ),
        (
            "update nobody --rate-up 1M",
            "owner 'nobody' has no attachment",
        ),
    ] {
        let error = refusal(&world, words)?;
        assert!(error.contains(reason), "{words}: {error}");
    }
    assert_eq!(ready(&daemon)?, (2, 0));
    let mut wire = daemon.connect()?;
    let hostile = json!({"owner": "a", "allow": ["x".repeat(50_000)]});
    let refused = wire.refused("Attach", &hostile)?;
    assert!(format!("{refused:?}").len() < 300, "{refused:?}");
    assert_eq!(ready(&daemon)?, (2, 0));
    Ok(())
}

#[test]
fn a_published_port_is_taken_on_the_host_until_the_detach() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(3)?;
    let publish = ["tcp:8080:80", "udp:5353:53", "192.0.2.2:8443:443"];
    daemon.attach_with(&json!({"owner": "a", "publish": publish}))?;
    let everywhere = ["0.0.0.0", "127.0.0.1", "192.0.2.2", "::", "::1"];
    for address in everywhere {
        assert_taken(&world, "STREAM", address, 8080)?;
        assert_taken(&world, "DGRAM", address, 5353)?;
    }
    for address in ["0.0.0.0", "192.0.2.2", "::"] {
        assert_taken(&world, "STREAM", address, 8443)?;
    }
    assert_free(&world, "STREAM", "127.0.0.1", 8443)?;
    assert_free(&world, "STREAM", "0.0.0.0", 5353)?;
    let error = refusal(&world, "attach b --publish 127.0.0.1:8080:80")?;
    assert!(
        error.contains("port tcp:127.0.0.1:8080:80 is published by owner 'a'"),
        "{error}"
    );
    daemon.detach("a")?;
    for address in everywhere {
        assert_free(&world, "STREAM", address, 8080)?;
        assert_free(&world, "DGRAM", address, 5353)?;
    }
    world.pcpm(["attach", "b", "--publish", "8080:80"])?.run()?;
    Ok(())
}

#[test]
fn a_port_that_a_program_has_is_refused_and_the_program_goes_on() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let _server = HttpServer::start(world.host(), "192.0.2.2:8080")?;
    for publish in ["8080:80", "192.0.2.2:8080:80"] {
        let error = refusal(&world, &format!("attach a --publish {publish}"))?;
        assert!(
            error.contains("taken on the host by another program"),
            "{error}"
        );
        assert!(error.contains("ss -anp sport = :8080"), "{error}");
    }
    world
        .tool("curl -sf -o /dev/null http://192.0.2.2:8080/")
        .run()?;
    world
        .pcpm(["attach", "a", "--publish", "127.0.0.1:8080:80"])?
        .run()?;
    assert_eq!(ready(&daemon)?, (1, 1));
    Ok(())
}

#[test]
fn the_same_options_are_the_same_attachment() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(2)?;
    let attach = |words: &str| world.pcpm(words.split(' '));
    let first = attach("--json attach a --publish 81:81 --publish 80:80 --rate-up 1M")?.json()?;
    let again = attach("--json attach a --publish 80-81:80-81 --rate-up 1000k")?.json()?;
    assert_eq!(first["id"], again["id"]);
    assert_eq!(first["publish"], again["publish"]);
    let error = refusal(&world, "attach a --publish 80:80 --rate-up 1M")?;
    assert!(error.contains("its publish differs"), "{error}");
    let error = refusal(&world, "attach a --publish 80-81:80-81 --rate-up 2M")?;
    assert!(error.contains("its rate_up differs"), "{error}");
    Ok(())
}

#[test]
fn an_update_changes_a_live_attachment_whole_or_not_at_all() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    daemon.attach("other", "t")?;
    let pcpm = |words: &str| world.pcpm(words.split(' '));
    let before = pcpm("--json attach a --publish 80:80 --publish 81:81 --rate-up 1M")?.json()?;
    let after =
        pcpm("--json update a --publish 81:8081 --publish 90:90 --rate-down-packets 1k")?.json()?;
    assert_eq!(
        (&after["id"], &after["rate_up"]),
        (&before["id"], &json!(1_000_000))
    );
    assert_eq!(after["rate_down_packets"], json!(1000));
    let ports: Vec<_> = ports_of(&after);
    assert_eq!(ports, [(81, 8081), (90, 90)]);
    assert_free(&world, "STREAM", "0.0.0.0", 80)?;
    assert_taken(&world, "STREAM", "0.0.0.0", 90)?;
    pcpm("update other --publish 99:99")?.run()?;
    let error = refusal(
        &world,
        "update a --publish 100:100 --publish 99:99 --rate-up none",
    )?;
    assert!(error.contains("published by owner 'other'"), "{error}");
    assert_free(&world, "STREAM", "0.0.0.0", 100)?;
    let shown = pcpm("--json show a")?.json()?;
    assert_eq!(ports_of(&shown), [(81, 8081), (90, 90)]);
    let cleared =
        pcpm("--json update a --no-publish --rate-up none --rate-down-packets none")?.json()?;
    assert_eq!(cleared["publish"], json!([]));
    assert_eq!(
        (cleared.get("rate_up"), cleared.get("rate_down_packets")),
        (None, None)
    );
    assert_free(&world, "STREAM", "0.0.0.0", 90)?;
    assert_eq!(ready(&daemon)?, (0, 1));
    Ok(())
}

#[test]
fn a_port_moves_between_addresses_without_ever_being_free() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(1)?;
    let pcpm = |words: &str| world.pcpm(words.split(' '));
    pcpm("attach a --publish 8080:80")?.run()?;
    pcpm("update a --publish 192.0.2.2:8080:80")?.run()?;
    assert_taken(&world, "STREAM", "192.0.2.2", 8080)?;
    assert_free(&world, "STREAM", "127.0.0.1", 8080)?;
    pcpm("update a --publish 8080:80")?.run()?;
    assert_taken(&world, "STREAM", "127.0.0.1", 8080)?;
    Ok(())
}

#[test]
fn what_the_command_line_says_is_what_packets_meet() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let pcpm = |words: &str| world.pcpm(words.split(' '));
    pcpm("attach web --publish 8080:80 --deny 198.51.100.1:81/tcp --rate-up 100M")?.run()?;
    let slot = daemon.place(&daemon.attach_with(&json!({
        "owner": "web", "publish": ["8080:80"], "deny": ["198.51.100.1:81/tcp"],
        "rate_up": 100_000_000,
    }))?);
    let _inside = HttpServer::start(&slot, "0.0.0.0:80")?;
    let internet = world.internet();
    let _outside =
        ["198.51.100.1:81", "198.51.100.1:82"].map(|address| HttpServer::start(&internet, address));
    internet
        .tool("curl -sf -m 10 http://192.0.2.2:8080/")
        .run()?;
    slot.tool("curl -sf -m 10 http://198.51.100.1:82/").run()?;
    slot.tool("curl -sf -m 2 http://198.51.100.1:81/").fails()?;
    pcpm("update web --publish 9090:80 --no-deny")?.run()?;
    internet
        .tool("curl -sf -m 10 http://192.0.2.2:9090/")
        .run()?;
    internet
        .tool("curl -sf -m 2 http://192.0.2.2:8080/")
        .fails()?;
    slot.tool("curl -sf -m 10 http://198.51.100.1:81/").run()?;
    Ok(())
}

#[test]
fn a_lease_that_ends_frees_its_ports_and_the_next_life_takes_those_of_a_killed_daemon() -> Result<()>
{
    let world = World::new()?;
    let mut daemon = world.pool_of(2)?;
    let mut leased = daemon.connect()?;
    let request = json!({"owner": "a", "publish": ["8080:80"], "lease": "connection"});
    leased.call::<Value>("Attach", &request)?;
    assert_taken(&world, "STREAM", "0.0.0.0", 8080)?;
    drop(leased);
    daemon.wait_until("the lease has ended", |counts| counts.attached == 0)?;
    assert_free(&world, "STREAM", "0.0.0.0", 8080)?;
    daemon.attach_with(&json!({"owner": "b", "publish": ["8080:80"]}))?;
    assert_taken(&world, "STREAM", "0.0.0.0", 8080)?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE)?;
    assert_free(&world, "STREAM", "0.0.0.0", 8080)?;
    let again = world.spawn_daemon(&["--capacity", "2"])?;
    assert_taken(&world, "STREAM", "0.0.0.0", 8080)?;
    again.detach("b")?;
    again.attach_with(&json!({"owner": "c", "publish": ["8080:80"]}))?;
    Ok(())
}

#[test]
fn a_host_without_ipv6_publishes_for_ipv4() -> Result<()> {
    let world = World::new()?;
    world
        .tool("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
        .run()?;
    let daemon = world.pool_of(1)?;
    daemon.attach_with(&json!({"owner": "a", "publish": ["8080:80"]}))?;
    assert_taken(&world, "STREAM", "0.0.0.0", 8080)?;
    Ok(())
}

fn ports_of(attachment: &Value) -> Vec<(u64, u64)> {
    let ports = attachment["publish"].as_array().into_iter().flatten();
    let number = |port: &Value, name: &str| port[name].as_u64().unwrap_or_default();
    ports
        .map(|port| (number(port, "host_port"), number(port, "port")))
        .collect()
}

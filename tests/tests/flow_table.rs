//! The flow table is shared: what one slot does to it others do not notice, and what is dead goes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use pcpm_api::types::{AttachReply, FlowTable};
use pcpm_tests::{Daemon, INTERNET_ADDRESS, PATIENCE, Place, World};

const ECHO: u16 = 7777;
/// Nobody listens there.
const CLOSED: u16 = 9;
/// Nobody is there.
const SILENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// What one slot may have is a quarter of it.
const SMALL: &str = "[nat]\nflows = 4096\n";
const PER_SLOT: u32 = 1024;

fn pool(world: &World) -> Result<Daemon> {
    std::fs::write(world.path("/run/pcpmd.toml"), SMALL)?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "4"])?;
    daemon.wait_until_ready(4)?;
    Ok(daemon)
}

fn attach(daemon: &Daemon, owner: &str) -> Result<Place> {
    let reply: AttachReply = daemon.attach(owner, owner)?;
    Ok(daemon.place(&reply))
}

fn table(daemon: &Daemon) -> Result<FlowTable> {
    Ok(daemon.status()?.flows)
}

fn used(daemon: &Daemon, owner: &str) -> Result<u32> {
    Ok(daemon.get(owner)?.flows.used)
}

/// Looks at the table until it is as wanted. The daemon collects once a second.
fn wait_for(daemon: &Daemon, what: &str, wanted: impl Fn(&FlowTable) -> bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let table = table(daemon)?;
        if wanted(&table) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("not {what}: {table:?}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A server in the internet that says everything again, until the test ends.
fn serve_echo(world: &World) -> Result<()> {
    let internet = world.internet();
    let listener = internet.within(|| Ok(TcpListener::bind(("0.0.0.0", ECHO))?))?;
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut &client, &mut &client));
        }
    });
    Ok(())
}

fn connect(from: &Place) -> Result<TcpStream> {
    let internet: SocketAddr = format!("{INTERNET_ADDRESS}:{ECHO}").parse()?;
    let stream = from.within(|| Ok(TcpStream::connect_timeout(&internet, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn talk(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"still there?")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).context("no answer")?;
    assert_eq!(&answer, b"still there?");
    Ok(())
}

/// Opens `number` flows by UDP, each from a port of its own.
fn sweep_udp(from: &Place, number: u16) -> Result<()> {
    from.within(|| {
        for port in 10_000..10_000 + number {
            let socket = UdpSocket::bind(("0.0.0.0", port))?;
            // What comes back is an error, which the next one would be told.
            let _refused = socket.send_to(b"x", (INTERNET_ADDRESS, CLOSED));
        }
        Ok(())
    })
}

/// Opens `number` flows by TCP that nobody answers.
fn sweep_tcp(from: &Place, number: u16) -> Result<()> {
    from.within(|| {
        for port in 1..=number {
            let silent = SocketAddr::from((SILENT, port));
            let _timed_out = TcpStream::connect_timeout(&silent, Duration::from_micros(1));
        }
        Ok(())
    })
}

#[test]
fn a_slot_that_opens_flows_without_end_is_refused_and_others_notice_nothing() -> Result<()> {
    let world = World::new()?;
    serve_echo(&world)?;
    let daemon = pool(&world)?;
    let (greedy, other) = (attach(&daemon, "greedy")?, attach(&daemon, "other")?);
    let (mut kept, mut of_the_greedy) = (connect(&other)?, connect(&greedy)?);
    talk(&mut kept)?;
    talk(&mut of_the_greedy)?;
    for round in 0..3 {
        sweep_udp(&greedy, 5000)?;
        sweep_tcp(&greedy, 200)?;
        talk(&mut kept).with_context(|| format!("round {round}"))?;
        talk(&mut of_the_greedy).with_context(|| format!("the greedy slot's, round {round}"))?;
        talk(&mut connect(&other)?).with_context(|| format!("a new one, round {round}"))?;
        let flows = daemon.get("greedy")?.flows;
        assert!(
            flows.used <= PER_SLOT && flows.limit <= PER_SLOT,
            "{flows:?}"
        );
        assert!(flows.used > PER_SLOT / 4, "{flows:?}");
    }
    assert!(daemon.get("greedy")?.flows.refused > 1000);
    assert_eq!(daemon.get("other")?.flows.refused, 0);
    assert!(daemon.dropped("flow-limit")? > 1000);
    let table = table(&daemon)?;
    assert_eq!(table.per_slot, PER_SLOT);
    assert!(
        table.refused_limit > 1000 && table.refused_full == 0,
        "{table:?}"
    );
    Ok(())
}

#[test]
fn a_slot_at_its_limit_gets_new_flows_when_the_old_ones_are_dead() -> Result<()> {
    let world = World::new()?;
    serve_echo(&world)?;
    let daemon = pool(&world)?;
    let greedy = attach(&daemon, "greedy")?;
    let mut kept = connect(&greedy)?;
    sweep_udp(&greedy, 2000)?;
    wait_for(&daemon, "half empty again", |table| {
        table.collected > 0 && table.used <= PER_SLOT / 2 + 2
    })?;
    talk(&mut connect(&greedy)?)?;
    talk(&mut kept).context("an established connection")
}

#[test]
fn a_detach_frees_the_flows_of_the_slot() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world)?;
    let greedy = attach(&daemon, "greedy")?;
    sweep_udp(&greedy, 400)?;
    assert_eq!(used(&daemon, "greedy")?, 800);
    daemon.detach("greedy")?;
    wait_for(&daemon, "empty", |table| {
        table.used == 0 && table.collected >= 800
    })?;
    Ok(())
}

#[test]
fn many_greedy_slots_leave_room_for_one_that_asks_for_little() -> Result<()> {
    let world = World::new()?;
    serve_echo(&world)?;
    std::fs::write(
        world.path("/run/pcpmd.toml"),
        "[nat]\nflows = 1024\nflows_per_slot = 1024\n",
    )?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "4"])?;
    daemon.wait_until_ready(4)?;
    let greedy = ["a", "b", "c"].map(|owner| attach(&daemon, owner));
    for place in greedy {
        sweep_udp(&place?, 1000)?;
    }
    let table = table(&daemon)?;
    assert!(
        table.refused_full > 0 && table.used < table.capacity,
        "{table:?}"
    );
    let modest = attach(&daemon, "modest")?;
    for _ in 0..5 {
        talk(&mut connect(&modest)?)?;
    }
    assert_eq!(daemon.get("modest")?.flows.refused, 0);
    Ok(())
}

#[test]
fn people_and_programs_are_told_how_full_the_table_is() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world)?;
    let place = attach(&daemon, "one")?;
    sweep_udp(&place, 100)?;
    let shown = world.pcpm(["show", "one"])?.run()?;
    assert!(shown.contains("flows"), "{shown}");
    assert!(shown.contains("200 of 1024 entries, 200 made"), "{shown}");
    let status = world.pcpm(["status"])?.run()?;
    assert!(status.contains("at most 1024 a slot"), "{status}");
    let json = world.pcpm(["--json", "status"])?.json()?;
    assert_eq!(json["flows"]["used"], 200);
    Ok(())
}

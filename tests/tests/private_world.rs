//! The world that all other tests stand on: what it shows, what it hides, and that it ends.

use anyhow::Result;
use pcpm_tests::{HOST_ADDRESS, HostState, HttpServer, INTERNET_ADDRESS, World};

#[test]
fn the_host_reaches_the_internet() -> Result<()> {
    let world = World::new()?;
    let _server = HttpServer::start(&world.internet(), "0.0.0.0:80")?;
    let page = world.tool("curl -sS -m 10 http://198.51.100.1/").run()?;
    assert!(page.starts_with(HOST_ADDRESS), "{page}");
    Ok(())
}

#[test]
fn the_internet_knows_no_way_to_the_pool() -> Result<()> {
    let world = World::new()?;
    let (_, error) = world.internet().tool("ip route get 10.213.0.5").fails()?;
    assert!(error.contains("unreachable"), "{error}");
    Ok(())
}

#[test]
fn worlds_do_not_see_each_other() -> Result<()> {
    let (one, other) = (World::new()?, World::new()?);
    one.tool("ip netns add only-here").run()?;
    one.tool("ip link add only-here type bridge").run()?;
    assert!(!other.tool("ip netns").run()?.contains("only-here"));
    assert!(!other.tool("ip link").run()?.contains("only-here"));
    assert!(!other.tool("ls /sys/class/net").run()?.contains("only-here"));
    assert!(!std::path::Path::new("/run/netns/only-here").exists());
    Ok(())
}

#[test]
fn a_world_without_an_uplink_is_alone() -> Result<()> {
    let world = World::without_uplink()?;
    let ping = ["-c1", "-W1", INTERNET_ADDRESS];
    assert!(world.command("ping", ping).fails().is_ok());
    Ok(())
}

#[test]
fn everything_dies_with_the_world() -> Result<()> {
    let world = World::new()?;
    let mut sleeper = world.tool("sleep 1000").spawn()?;
    assert!(sleeper.ended()?.is_none());
    let dropping = std::thread::spawn(move || drop(world));
    assert!(!sleeper.wait(pcpm_tests::PATIENCE)?.success());
    dropping.join().unwrap();
    Ok(())
}

#[test]
fn a_snapshot_shows_what_was_left_behind() -> Result<()> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let unchanged = HostState::of(world.host())?.difference(&before);
    assert_eq!(unchanged, "");
    world.tool("ip link add left-behind type bridge").run()?;
    world.tool("sysctl -qw net.ipv4.ip_forward=1").run()?;
    let difference = HostState::of(world.host())?.difference(&before);
    for trace in ["ip -o link: + 3: left-behind", "ip_forward: + 1"] {
        assert!(difference.contains(trace), "{trace} in\n{difference}");
    }
    Ok(())
}

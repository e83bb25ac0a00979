//! The host's way out may change while the daemon runs; slots follow it.

use anyhow::Result;
use pcpm_tests::{Daemon, HOST_ADDRESS, INTERNET_ADDRESS, Place, World};

/// Waits until the daemon uses this address to the world, or none.
fn wait_for_uplink(daemon: &Daemon, address: Option<&str>) -> Result<()> {
    daemon.watch(&format!("the uplink is {address:?}"), |_| {
        let uplink = daemon.status().ok()?.uplink;
        let now = uplink.as_ref().map(|uplink| uplink.address.as_str());
        (now == address).then_some(())
    })
}

fn reaches_the_world(slot: &Place) -> Result<()> {
    let ping = format!("ping -c1 -W5 {INTERNET_ADDRESS}");
    slot.tool(&ping).run().map(drop)
}

#[test]
fn another_address_of_the_uplink_is_used_at_once() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    reaches_the_world(&slot)?;
    world.tool("ip address del 192.0.2.2/24 dev eth0").run()?;
    wait_for_uplink(&daemon, None)?;
    world.tool("ip address add 192.0.2.7/24 dev eth0").run()?;
    world.tool("ip route add default via 192.0.2.1").run()?;
    wait_for_uplink(&daemon, Some("192.0.2.7"))?;
    reaches_the_world(&slot)
}

#[test]
fn an_uplink_that_is_replaced_by_another_is_followed() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    world.tool("ip link set eth0 down").run()?;
    wait_for_uplink(&daemon, None)?;
    world.tool("ip link set eth0 name wan0").run()?;
    world.tool("ip link set wan0 up").run()?;
    world.tool("ip route add default via 192.0.2.1").run()?;
    wait_for_uplink(&daemon, Some(HOST_ADDRESS))?;
    reaches_the_world(&slot)
}

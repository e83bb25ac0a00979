//! Pools whose slots all have the same inner address, and what is attached of them.

use std::net::UdpSocket;

use anyhow::{Context, Result};
use pcpm_api::types::Attachment;
use pcpm_tests::{Daemon, PATIENCE, Place, World};
use serde_json::json;

pub(crate) const INNER: &str = "10.9.9.2";
pub(crate) const INNER6: &str = "fd00:c10e::2";
/// Of the world's host.
pub(crate) const CONFIG: &str = "/run/pcpmd.toml";

/// An attached slot.
pub(crate) struct Slot {
    pub(crate) place: Place,
    pub(crate) attachment: Attachment,
    /// What others know it by.
    pub(crate) address: String,
    pub(crate) address6: String,
}

/// A pool with the inner addresses of this file, and `more` settings.
pub(crate) fn pool_with(world: &World, slots: u32, more: &str) -> Result<Daemon> {
    let settings = format!(
        "address_mode = \"clone\"\ncapacity = {slots}\n\
         [clone]\ninner = \"{INNER}\"\ninner6 = \"{INNER6}\"\n{more}"
    );
    std::fs::write(world.path(CONFIG), settings)?;
    let daemon = world.spawn_daemon(&["--config", CONFIG])?;
    daemon.wait_until_ready(slots)?;
    Ok(daemon)
}

pub(crate) fn pool(world: &World, slots: u32) -> Result<Daemon> {
    pool_with(world, slots, "")
}

/// Attaches `owner` for `tenant`, with the published ports `publish`.
pub(crate) fn attach(daemon: &Daemon, owner: &str, tenant: &str, publish: &[&str]) -> Result<Slot> {
    let reply =
        daemon.attach_with(&json!({"owner": owner, "tenant": tenant, "publish": publish}))?;
    let addresses = &reply.attachment.addresses;
    let [address, address6] = addresses.as_slice() else {
        anyhow::bail!("not two addresses: {addresses:?}");
    };
    Ok(Slot {
        place: daemon.place(&reply),
        address: address.clone(),
        address6: address6.clone(),
        attachment: reply.attachment,
    })
}

pub(crate) fn ping(from: &Place, to: &str, bytes: usize) -> Result<()> {
    let ping = format!("ping -n -c2 -i0.2 -W5 -s{bytes} {to}");
    from.tool(&ping).run().map(drop)
}

/// Whether an error comes back to a socket of `from` that sends to a port where nobody listens.
pub(crate) fn is_refused(from: &Place, address: &str, port: u16) -> Result<bool> {
    let any = if address.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = from.within(|| Ok(UdpSocket::bind(any)?))?;
    socket.connect((address, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"anybody there?")?;
    let received = socket.recv(&mut [0; 16]);
    let error = received.err().context("an answer")?;
    Ok(error.kind() == std::io::ErrorKind::ConnectionRefused)
}

//! Slots with published ports, and whoever asks there.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pcpm_api::types::AttachReply;
use pcpm_tests::{Daemon, Place};
use serde_json::json;

/// An attached slot.
pub(crate) struct Slot {
    pub(crate) place: Place,
    pub(crate) address: String,
}

/// Attaches `owner` for `tenant`, with the published ports `publish`.
pub(crate) fn attach(daemon: &Daemon, owner: &str, tenant: &str, publish: &[&str]) -> Result<Slot> {
    let reply: AttachReply =
        daemon.attach_with(&json!({"owner": owner, "tenant": tenant, "publish": publish}))?;
    Ok(Slot {
        place: daemon.place(&reply),
        address: reply.attachment.addresses[0].clone(),
    })
}

/// Replaces the published ports of `owner`.
pub(crate) fn publish(daemon: &Daemon, owner: &str, publish: &[&str]) -> Result<()> {
    let parameters = json!({"owner": owner, "publish": publish});
    daemon
        .connect()?
        .call::<serde_json::Value>("Update", &parameters)
        .map(drop)
}

/// What a web server at `url` says; ours answers with the address that it was asked from.
pub(crate) fn curl(from: &Place, url: &str) -> Result<String> {
    from.command("curl", ["-sS", "-m3", url])
        .run()
        .with_context(|| format!("ask {url}"))
}

/// Nobody answers at `url`.
pub(crate) fn no_curl(from: &Place, url: &str) -> Result<()> {
    let failed = from.command("curl", ["-sS", "-m1", url]).fails();
    failed.with_context(|| format!("ask {url}")).map(drop)
}

/// Nobody listens at `url`, and whoever asks is told so.
pub(crate) fn refused(from: &Place, url: &str) -> Result<()> {
    const CANNOT_CONNECT: i32 = 7;
    let failed = from.command("curl", ["-sS", "-m10", url]).fails();
    let (code, error) = failed.with_context(|| format!("ask {url}"))?;
    ensure!(code == CANNOT_CONNECT, "{code}: {error}");
    Ok(())
}

/// A UDP socket in `place` that does not wait for ever.
pub(crate) fn udp(place: &Place, address: &str) -> Result<UdpSocket> {
    let socket = place.within(|| Ok(UdpSocket::bind(address)?))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(socket)
}

/// Receives a datagram, sends it back, and says where it came from.
pub(crate) fn echo(server: &UdpSocket) -> Result<String> {
    let mut place = vec![0; 65_536];
    let (length, from) = server.recv_from(&mut place).context("no question")?;
    server.send_to(&place[..length], from)?;
    Ok(from.to_string())
}

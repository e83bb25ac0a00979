//! Real traffic through all programs, as sockets make it: what the kernel does with segmentation,
//! checksums left to devices, and tags, single packets do not show.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_tests::{INTERNET_ADDRESS, PATIENCE, Place, UPLINK};

use crate::network::{FAR, NEAR, NEXT, Network, STRANGER, UNHELD};
use crate::packet::Packet;

const GATEWAY: &str = "169.254.1.1";

fn address(slot: u32) -> String {
    Packet::address_of(slot).to_string()
}

fn pings(from: &Place, to: &str) -> bool {
    let ping = ["-n", "-c1", "-W1", to];
    from.command("ping", ping).run().is_ok()
}

/// Sends 20 MB over TCP from `client` to `server`, or back, and sees all of them arrive.
pub(crate) fn transfer(client: &Place, server: &Place, address: &str, back: bool) -> Result<()> {
    let listener = server.within(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    let peer = SocketAddr::new(address.parse()?, listener.local_addr()?.port());
    let near = client.within(|| Ok(TcpStream::connect_timeout(&peer, PATIENCE)?))?;
    let far = listener.accept()?.0;
    let (mut sender, mut receiver) = if back { (far, near) } else { (near, far) };
    sender.set_write_timeout(Some(PATIENCE))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let sent: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let mut bytes = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| {
            sender.write_all(&sent)?;
            sender.shutdown(Shutdown::Write)
        });
        receiver.read_to_end(&mut bytes)?;
        Ok(sending.join().expect("the sender does not panic")?)
    })
    .with_context(|| format!("{} bytes at {address}", bytes.len()))?;
    ensure!(bytes == sent, "{address}: other bytes than were sent");
    Ok(())
}

#[test]
fn slots_reach_what_they_may_and_nothing_else() -> Result<()> {
    let network = Network::new()?;
    let (near, far) = (network.slot(NEAR), network.slot(FAR));
    for (from, to, passes) in [
        (&near, address(NEXT), true),
        (&near, address(FAR), true),
        (&far, address(NEAR), true),
        (&near, GATEWAY.to_owned(), true),
        (&far, GATEWAY.to_owned(), true),
        (&near, INTERNET_ADDRESS.to_owned(), true),
        (&far, INTERNET_ADDRESS.to_owned(), true),
        (network.world.host(), address(NEAR), true),
        (network.world.host(), address(FAR), true),
        (&near, address(STRANGER), false),
        (&network.slot(UNHELD), GATEWAY.to_owned(), false),
        (network.world.host(), address(UNHELD), false),
        (&near, pcpm_tests::HOST_ADDRESS.to_owned(), false),
    ] {
        assert_eq!(pings(from, &to), passes, "{to}");
    }
    Ok(())
}

#[test]
fn large_transfers_pass_on_every_way() -> Result<()> {
    let network = Network::new()?;
    let [near, next, far] = [NEAR, NEXT, FAR].map(|slot| network.slot(slot));
    let (host, internet) = (network.world.host(), network.world.internet());
    for back in [false, true] {
        transfer(&near, &next, &address(NEXT), back)?;
        transfer(&near, &far, &address(FAR), back)?;
        transfer(host, &far, &address(FAR), back)?;
        transfer(&far, &internet, INTERNET_ADDRESS, back)?;
    }
    let sent = network.programs.counters(NEAR)?;
    assert!(
        sent.sent_packets > sent.sent_bytes / 1600,
        "segments are counted one by one"
    );
    Ok(())
}

/// Between devices that leave checksums to each other nobody looks at them: here both ends of the
/// uplink compute and verify.
#[test]
fn translated_packets_have_right_checksums_without_offload() -> Result<()> {
    let network = Network::new()?;
    let internet = network.world.internet();
    for place in [network.world.host(), &internet] {
        place
            .tool(&format!("ethtool -K {UPLINK} tx off rx off"))
            .run()?;
    }
    let near = network.slot(NEAR);
    for back in [false, true] {
        transfer(&near, &internet, INTERNET_ADDRESS, back)?;
    }
    echo_over_udp(&near, &internet)
}

/// A datagram there and back, through `nc`, which says nothing when it gets none.
fn echo_over_udp(client: &Place, server: &Place) -> Result<()> {
    let server = server.within(|| Ok(std::net::UdpSocket::bind((INTERNET_ADDRESS, 7))?))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let asking = client
        .tool(&format!("nc -u -w 5 {INTERNET_ADDRESS} 7"))
        .input("ping");
    let asking = std::thread::spawn(move || asking.run());
    let mut question = [0; 16];
    let (length, from) = server.recv_from(&mut question)?;
    assert_eq!(&question[..length], b"ping");
    assert_eq!(from.ip().to_string(), pcpm_tests::HOST_ADDRESS);
    server.send_to(b"pong", from)?;
    let answer = asking
        .join()
        .map_err(|_| anyhow::anyhow!("nc panicked"))??;
    assert_eq!(answer, "pong");
    Ok(())
}

/// The kernel takes the tag out of the frame before the program sees it, and would put it back in
/// when the packet leaves the host.
#[test]
fn a_slot_cannot_send_into_a_vlan() -> Result<()> {
    const TAGGED: &str = "\
import socket, struct
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(('eth0', 0))
frame = bytes.fromhex('025043ffffff' '025043000000' '8100' '0005' '0800')
link.send(frame + bytes.fromhex('4500001c00000000401100000ad50000c6336401') + bytes(8))
";
    let network = Network::new()?;
    let place = network.slot(NEAR);
    place.command("python3", ["-c", TAGGED]).run()?;
    let vlan = usize::try_from(DropReason::Vlan as u32)?;
    assert_eq!(network.programs.drops()?[vlan], 1);
    Ok(())
}

//! What slots reach and what reaches them, where the headers are changed twice or in quotes.

use std::net::UdpSocket;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pcpm_tests::{
    HOST_ADDRESS, HOST_ADDRESS6, INTERNET_ADDRESS, INTERNET_ADDRESS6, PATIENCE, Place, World,
};

use crate::pool::{INNER, Slot, attach, is_refused, ping, pool};

/// Behind the internet's narrow link.
const SERVER: &str = "203.0.113.2";
const SERVER6: &str = "2001:db8:3::2";
const NARROW: usize = 1300;

/// The internet becomes a router: behind it, on a link with a small MTU, a server.
fn with_router(world: &World) -> Result<Place> {
    let internet = world.internet();
    world.tool("ip netns add server").run()?;
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        internet.tool(&format!("sysctl -qw {setting}")).run()?;
    }
    without_rate_limits(&internet)?;
    let links = format!(
        "link add narrow mtu {NARROW} type veth peer name eth0 mtu {NARROW} netns server\n\
         addr add 203.0.113.1/24 dev narrow\naddr add 2001:db8:3::1/64 dev narrow nodad\n\
         link set narrow up\n"
    );
    internet.tool("ip -batch -").input(links).run()?;
    let server = world.slot("/run/netns/server");
    let settings = format!(
        "link set lo up\nlink set eth0 up\n\
         addr add {SERVER}/24 dev eth0\naddr add {SERVER6}/64 dev eth0 nodad\n\
         route add default via 203.0.113.1\nroute add default via 2001:db8:3::1\n"
    );
    server.tool("ip -batch -").input(settings).run()?;
    without_rate_limits(&server)?;
    // Until the kernel has said that the link carries, there are no neighbours.
    for address in [SERVER, SERVER6] {
        let ping = format!("ping -n -q -c 1 -i 0.2 -w 20 {address}");
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = internet.tool(&ping).run() {
            ensure!(Instant::now() < deadline, "{error:#}");
        }
    }
    Ok(server)
}

/// One error a second and destination is the default, with a small reserve.
fn without_rate_limits(place: &Place) -> Result<()> {
    for setting in ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"] {
        place.tool(&format!("sysctl -qw {setting}")).run()?;
    }
    Ok(())
}

#[test]
fn traceroute_shows_every_hop_and_tracepath_the_mtu() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let slot = attach(&daemon, "web", "t", &[])?;
    let _server = with_router(&world)?;
    for (server, expected) in [
        (SERVER, ["169.254.1.1", "192.0.2.1", SERVER]),
        (SERVER6, ["fe80::1%eth0", "2001:db8:1::1", SERVER6]),
    ] {
        for method in ["-U", "-I", "-T"] {
            let trace = format!("traceroute -n -q1 -w10 -m5 {method} {server}");
            assert_eq!(slot.place.tool(&trace).hops()?, expected, "{method}");
        }
        let report = slot
            .place
            .tool(&format!("tracepath -n -m5 {server}"))
            .run()?;
        assert!(report.contains(&format!("pmtu {NARROW}")), "{report}");
    }
    Ok(())
}

#[test]
fn large_pings_pass_on_every_way() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let one = attach(&daemon, "one", "t", &[])?;
    let other = attach(&daemon, "other", "t", &[])?;
    for to in [
        &other.address,
        &other.address6,
        INTERNET_ADDRESS,
        INTERNET_ADDRESS6,
        "169.254.1.1",
        "fe80::1%eth0",
    ] {
        ping(&one.place, to, 3000)?;
    }
    for to in [&one.address, &one.address6] {
        ping(world.host(), to, 3000)?;
    }
    Ok(())
}

/// The errors quote what was sent, as whoever sent it knows it: else it would not be told.
#[test]
fn a_port_that_nobody_serves_refuses_on_every_way() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 520)?;
    let near = attach(&daemon, "near", "t", &["udp:9000:9"])?;
    let others = (1..520).map(|i| attach(&daemon, &format!("o{i}"), "t", &[]));
    let others = others.collect::<Result<Vec<_>>>()?;
    let is_near = |slot: &Slot| slot.address.starts_with("10.213.0.");
    let next = others.iter().find(|slot| is_near(slot));
    let far = others
        .iter()
        .find(|slot| slot.address.starts_with("10.213.2."));
    let (next, far) = next.zip(far).context("slots of two hubs")?;
    assert!(is_near(&near), "{}", near.address);
    let there = far;
    for [next, far, outside, host] in [
        [&next.address, &far.address, INTERNET_ADDRESS, HOST_ADDRESS],
        [
            &next.address6,
            &far.address6,
            INTERNET_ADDRESS6,
            HOST_ADDRESS6,
        ],
    ] {
        assert!(is_refused(&near.place, next, 9)?, "in the same hub");
        assert!(is_refused(&near.place, far, 9)?, "in another hub");
        assert!(is_refused(&near.place, outside, 9)?, "in the world");
        assert!(is_refused(world.host(), far, 9)?, "seen from the host");
        let client = world.internet();
        assert!(is_refused(&client, host, 9000)?, "through a published port");
        assert!(is_refused(&there.place, host, 9000)?, "through the door");
    }
    Ok(())
}

#[test]
fn datagrams_without_a_checksum_arrive_without_one() -> Result<()> {
    const ASK: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 11, 1) # SO_NO_CHECK
s.settimeout(10)
s.sendto(b'question', (sys.argv[1], 53))
print(s.recvfrom(64))
";
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let one = attach(&daemon, "one", "t", &[])?;
    let other = attach(&daemon, "other", "t", &[])?;
    for (place, bound, address, seen_as) in [
        (
            &other.place,
            INNER,
            other.address.as_str(),
            one.address.as_str(),
        ),
        (
            &world.internet(),
            INTERNET_ADDRESS,
            INTERNET_ADDRESS,
            HOST_ADDRESS,
        ),
    ] {
        let server = place.within(|| Ok(UdpSocket::bind((bound, 53))?))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let asking = one.place.command("python3", ["-c", ASK, address]);
        let asking = std::thread::spawn(move || asking.run());
        let mut question = [0; 16];
        let (length, from) = server.recv_from(&mut question)?;
        assert_eq!(&question[..length], b"question");
        assert_eq!(from.ip().to_string(), seen_as);
        server.send_to(b"answer", from)?;
        let answer = asking.join().ok().context("python3 panicked")??;
        assert!(
            answer.contains("answer") && answer.contains(address),
            "{answer}"
        );
    }
    Ok(())
}

//! Whom slots may reach, by their rules and by names, and what a change of rules does to connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use pcpm_ebpf::quota::ADDRESSES_PER_AGE;
use pcpm_tests::{
    Daemon, DnsServer, HOST_ADDRESS, HttpServer, INTERNET_ADDRESS, PATIENCE, Place, World,
};
use serde_json::{Value, json};

const GATEWAY: &str = "169.254.1.1";
const METADATA: &str = "169.254.169.254";
/// Where the internet's name server and its web server are, besides [`INTERNET_ADDRESS`].
const NAME_SERVER: &str = "198.51.100.53";
const WEB_SERVER: &str = "198.51.100.80";
const CLOSED: &str = "[policy]\ndefault = \"closed\"\n";

/// An attached slot.
struct Slot {
    place: Place,
    address: String,
}

fn attach(daemon: &Daemon, owner: &str, options: &Value) -> Result<Slot> {
    let mut parameters = json!({"owner": owner});
    for (name, value) in options.as_object().into_iter().flatten() {
        parameters[name] = value.clone();
    }
    let reply = daemon.attach_with(&parameters)?;
    Ok(Slot {
        place: daemon.place(&reply),
        address: reply.attachment.addresses[0].clone(),
    })
}

fn update(daemon: &Daemon, owner: &str, allow: &[&str], deny: &[&str]) -> Result<()> {
    let parameters = json!({"owner": owner, "allow": allow, "deny": deny});
    daemon
        .connect()?
        .call::<Value>("Update", &parameters)
        .map(drop)
}

/// A pool whose slots reach nothing of the world by default.
fn closed_pool(world: &World) -> Result<Daemon> {
    std::fs::write(world.path("/run/pcpmd.toml"), CLOSED)?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "4"])?;
    daemon.wait_until_ready(4)?;
    Ok(daemon)
}

/// Web servers at `ports` of every address of `place`.
fn serve(place: &Place, ports: &[u16]) -> Result<Vec<HttpServer>> {
    let start = |port| HttpServer::start(place, &format!("0.0.0.0:{port}"));
    ports.iter().map(start).collect()
}

fn curl(from: &Place, address: &str) -> Result<String> {
    let url = format!("http://{address}/");
    from.command("curl", ["-sS", "-m10", &url]).run()
}

fn no_curl(from: &Place, address: &str) -> Result<()> {
    let url = format!("http://{address}/");
    from.command("curl", ["-sS", "-m1", &url]).fails().map(drop)
}

#[test]
fn the_most_specific_rule_decides_about_the_world() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let _servers =
        [80, 81, 82].map(|port| HttpServer::start(&world.internet(), &format!("0.0.0.0:{port}")));
    let rules = json!({
        "allow": ["198.51.100.0/24:80-81/tcp"],
        "deny": ["198.51.100.1:81", "0.0.0.0/0"],
    });
    let slot = attach(&daemon, "ruled", &rules)?;
    curl(&slot.place, INTERNET_ADDRESS)?;
    let before = daemon.dropped("policy-denied")?;
    for port in [81, 82] {
        no_curl(&slot.place, &format!("{INTERNET_ADDRESS}:{port}"))?;
    }
    slot.place
        .command("ping", ["-n", "-c1", "-W1", INTERNET_ADDRESS])
        .fails()?;
    assert!(daemon.dropped("policy-denied")? >= before + 3);
    slot.place
        .command("ping", ["-n", "-c1", "-W5", GATEWAY])
        .run()?;
    let free = attach(&daemon, "free", &json!({}))?;
    curl(&free.place, &format!("{INTERNET_ADDRESS}:82"))?;
    Ok(())
}

#[test]
fn a_closed_world_is_opened_by_rules_alone() -> Result<()> {
    let world = World::new()?;
    let daemon = closed_pool(&world)?;
    let _server = HttpServer::start(&world.internet(), "0.0.0.0:80")?;
    let plain = attach(&daemon, "plain", &json!({}))?;
    no_curl(&plain.place, INTERNET_ADDRESS)?;
    assert!(daemon.dropped("world-closed")? >= 1);
    let let_out = attach(&daemon, "let-out", &json!({"allow": [INTERNET_ADDRESS]}))?;
    curl(&let_out.place, INTERNET_ADDRESS)?;
    // What is not the world is open as ever.
    let_out
        .place
        .command("ping", ["-n", "-c1", "-W5", &plain.address])
        .run()?;
    plain
        .place
        .command("ping", ["-n", "-c1", "-W5", GATEWAY])
        .run()?;
    world
        .command("ping", ["-n", "-c1", "-W5", &plain.address])
        .run()?;
    Ok(())
}

#[test]
fn only_a_rule_about_them_opens_metadata_and_services_of_the_host() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let metadata = format!("ip addr add {METADATA}/32 dev lo");
    world.internet().tool(&metadata).run()?;
    let _metadata = HttpServer::start(&world.internet(), "0.0.0.0:80")?;
    let _services = serve(world.host(), &[8000, 8001])?;
    let all = attach(&daemon, "all", &json!({"allow": ["0.0.0.0/0"]}))?;
    let rules = json!({"allow": [format!("{METADATA}:80/tcp"), "host:8000/tcp"]});
    let some = attach(&daemon, "some", &rules)?;
    curl(&some.place, METADATA)?;
    no_curl(&all.place, METADATA)?;
    for host in [GATEWAY, HOST_ADDRESS] {
        curl(&some.place, &format!("{host}:8000"))?;
        no_curl(&some.place, &format!("{host}:8001"))?;
        no_curl(&all.place, &format!("{host}:8000"))?;
    }
    for reason in ["metadata", "host-closed"] {
        assert!(daemon.dropped(reason)? >= 1, "{reason}");
    }
    Ok(())
}

#[test]
fn tenants_reach_each_other_only_as_far_as_both_allow() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let one = attach(&daemon, "one", &json!({"tenant": "a"}))?;
    let other = attach(
        &daemon,
        "other",
        &json!({"tenant": "b", "allow": [one.address]}),
    )?;
    let _servers = [serve(&one.place, &[80])?, serve(&other.place, &[80])?];
    no_curl(&one.place, &other.address)?;
    no_curl(&other.place, &one.address)?;
    let service = format!("{}:80/tcp", other.address);
    update(&daemon, "one", &[&service], &[])?;
    curl(&one.place, &other.address)?;
    // What one may ask for is no consent to be asked.
    no_curl(&other.place, &one.address)?;
    update(&daemon, "other", &[], &[])?;
    no_curl(&one.place, &other.address)?;
    assert!(daemon.dropped("other-tenant")? >= 4);
    Ok(())
}

#[test]
fn a_slot_denies_itself_others_of_its_tenant() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (one, other) = (
        attach(&daemon, "one", &json!({}))?,
        attach(&daemon, "other", &json!({}))?,
    );
    let _server = HttpServer::start(&other.place, "0.0.0.0:80")?;
    curl(&one.place, &other.address)?;
    update(&daemon, "one", &[], &[&format!("{}:80/tcp", other.address)])?;
    no_curl(&one.place, &other.address)?;
    one.place
        .command("ping", ["-n", "-c1", "-W5", &other.address])
        .run()?;
    Ok(())
}

/// A connection from a slot to the internet; what is said comes back.
struct Echo {
    stream: TcpStream,
}

impl Echo {
    fn connect(world: &World, slot: &Slot) -> Result<Self> {
        let listener = world
            .internet()
            .within(|| Ok(TcpListener::bind("0.0.0.0:7")?))?;
        let stream = slot
            .place
            .within(|| Ok(TcpStream::connect((INTERNET_ADDRESS, 7))?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (peer, _) = listener.accept()?;
        std::thread::spawn(move || std::io::copy(&mut &peer, &mut &peer));
        Ok(Self { stream })
    }

    fn say(&mut self, what: u8) -> Result<()> {
        self.stream.write_all(&[what])?;
        let mut heard = [0];
        self.stream.read_exact(&mut heard)?;
        anyhow::ensure!(heard == [what], "{heard:?}");
        Ok(())
    }
}

#[test]
fn a_change_of_rules_cuts_what_is_denied_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let slot = attach(&daemon, "web", &json!({}))?;
    let mut echo = Echo::connect(&world, &slot)?;
    echo.say(1)?;
    update(
        &daemon,
        "web",
        &[&format!("{INTERNET_ADDRESS}:7/tcp")],
        &["0.0.0.0/0"],
    )?;
    echo.say(2)?;
    update(&daemon, "web", &[], &[INTERNET_ADDRESS])?;
    let second = Some(Duration::from_secs(1));
    echo.stream.set_read_timeout(second)?;
    echo.say(3).expect_err("an answer of a peer that is denied");
    assert!(daemon.dropped("policy-denied")? >= 1);
    // What was said meanwhile is said again by TCP, and answered.
    update(&daemon, "web", &[], &[])?;
    echo.stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = [0];
    echo.stream.read_exact(&mut heard)?;
    assert_eq!(heard, [3]);
    echo.say(4)
}

/// The internet's name server and web server.
fn servers(world: &World) -> Result<(DnsServer, HttpServer)> {
    let web = web_server(world)?;
    let names = DnsServer::start(&world.internet(), &format!("{NAME_SERVER}:53"), WEB_SERVER)?;
    Ok((names, web))
}

/// The internet's web server. The name server has its address, and nobody serves there.
fn web_server(world: &World) -> Result<HttpServer> {
    for address in [NAME_SERVER, WEB_SERVER] {
        world
            .internet()
            .tool(&format!("ip addr add {address}/32 dev lo"))
            .run()?;
    }
    HttpServer::start(&world.internet(), "0.0.0.0:80")
}

/// curl with a resolver of its own.
fn curl_by_name(world: &World, from: &Place, server: &str, name: &str) -> Result<()> {
    curl_by_name_for(20, world, from, server, name)
}

/// Nothing comes, although the name is known.
fn no_curl_by_name(world: &World, from: &Place, server: &str, name: &str) {
    curl_by_name_for(3, world, from, server, name).expect_err(name);
}

fn curl_by_name_for(
    seconds: u32,
    world: &World,
    from: &Place,
    server: &str,
    name: &str,
) -> Result<()> {
    let file = world.path("/run/resolv.conf");
    std::fs::write(
        file,
        format!("nameserver {server}\noptions timeout:5 attempts:2\n"),
    )?;
    let line = format!(
        "mount --bind /run/resolv.conf /etc/resolv.conf && exec curl -sS -m{seconds} http://{name}/"
    );
    from.command("unshare", ["-m", "sh", "-c", &line])
        .run()
        .map(drop)
}

#[test]
fn a_name_is_reached_at_the_address_that_was_just_learned_for_it() -> Result<()> {
    let world = World::new()?;
    let daemon = closed_pool(&world)?;
    let (_names, _web) = servers(&world)?;
    let resolver = format!("{NAME_SERVER}:53/udp");
    let rules = json!({"allow": [resolver, "*.example.com:80/tcp", "exact.test"]});
    let slot = attach(&daemon, "named", &rules)?;
    no_curl(&slot.place, WEB_SERVER)?;
    no_curl_by_name(&world, &slot.place, NAME_SERVER, "other.test");
    no_curl_by_name(&world, &slot.place, NAME_SERVER, "example.com");
    curl_by_name(&world, &slot.place, NAME_SERVER, "Deep.WWW.example.com")?;
    // The address is open now, for the port that the name was allowed with.
    curl(&slot.place, WEB_SERVER)?;
    no_curl(&slot.place, &format!("{WEB_SERVER}:81"))?;
    curl_by_name(&world, &slot.place, NAME_SERVER, "exact.test")?;
    // Another attachment has learned nothing.
    let other = attach(
        &daemon,
        "other",
        &json!({"allow": ["*.example.com:80/tcp"]}),
    )?;
    no_curl(&other.place, WEB_SERVER)?;
    Ok(())
}

#[test]
fn what_dig_is_told_is_reached() -> Result<()> {
    let world = World::new()?;
    let daemon = closed_pool(&world)?;
    let (_names, _web) = servers(&world)?;
    let resolver = format!("{NAME_SERVER}:53/udp");
    let rules = json!({"allow": [resolver, "www.example.com:80/tcp"]});
    let slot = attach(&daemon, "named", &rules)?;
    no_curl(&slot.place, WEB_SERVER)?;
    let dig = format!("dig +short +tries=1 @{NAME_SERVER} www.example.com");
    assert_eq!(slot.place.tool(&dig).run()?.trim(), WEB_SERVER);
    curl(&slot.place, WEB_SERVER)?;
    Ok(())
}

#[test]
fn a_name_makes_an_exception_of_what_closes_the_world_and_of_nothing_else() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (_names, _web) = servers(&world)?;
    let resolver = format!("{NAME_SERVER}:53/udp");
    let allow = [&resolver, "www.example.com"];
    let closed = attach(
        &daemon,
        "closed",
        &json!({"allow": allow, "deny": ["0.0.0.0/0"]}),
    )?;
    curl_by_name(&world, &closed.place, NAME_SERVER, "www.example.com")?;
    let deny = ["0.0.0.0/0", "198.51.100.64/26"];
    let denied = attach(&daemon, "denied", &json!({"allow": allow, "deny": deny}))?;
    // An address that is denied, whatever its name.
    no_curl_by_name(&world, &denied.place, NAME_SERVER, "www.example.com");
    // Rules that keep the name keep what was learned for it.
    update(&daemon, "closed", &["www.example.com:80"], &["0.0.0.0/0"])?;
    curl(&closed.place, WEB_SERVER)?;
    update(&daemon, "closed", &["ftp.example.com"], &["0.0.0.0/0"])?;
    no_curl(&closed.place, WEB_SERVER)
}

#[test]
fn a_name_server_on_the_host_teaches_as_well() -> Result<()> {
    let world = World::new()?;
    let daemon = closed_pool(&world)?;
    let (_names, _web) = servers(&world)?;
    let _own = DnsServer::start(world.host(), &format!("{GATEWAY}:53"), WEB_SERVER)?;
    let slot = attach(
        &daemon,
        "named",
        &json!({"allow": ["host:53/udp", "www.example.com"]}),
    )?;
    curl_by_name(&world, &slot.place, GATEWAY, "www.example.com")
        .context("by the name server on the host")
}

#[test]
fn other_slots_teach_nothing() -> Result<()> {
    let world = World::new()?;
    let daemon = closed_pool(&world)?;
    let (_names, _web) = servers(&world)?;
    let liar = attach(&daemon, "liar", &json!({"publish": ["udp:53:53"]}))?;
    let _liar = DnsServer::start(&liar.place, "0.0.0.0:53", WEB_SERVER)?;
    let resolver = format!("{HOST_ADDRESS}:53/udp");
    let slot = attach(
        &daemon,
        "named",
        &json!({"allow": [resolver, "www.example.com"]}),
    )?;
    for server in [&liar.address, HOST_ADDRESS] {
        let before = daemon.dropped("world-closed")?;
        // An address that another slot told.
        no_curl_by_name(&world, &slot.place, server, "www.example.com");
        // The name was resolved, or curl would not have tried the address.
        assert!(daemon.dropped("world-closed")? > before, "{server}");
    }
    Ok(())
}

#[test]
fn a_client_of_a_published_port_teaches_nothing() -> Result<()> {
    let world = World::new()?;
    let daemon = closed_pool(&world)?;
    let _web = web_server(&world)?;
    let rules = json!({"publish": ["udp:9000:9000"], "allow": ["www.example.com"]});
    let slot = attach(&daemon, "named", &rules)?;
    let inside = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:9000")?))?;
    inside.set_read_timeout(Some(Duration::from_secs(10)))?;
    let client = world
        .internet()
        .within(|| Ok(UdpSocket::bind((NAME_SERVER, 53))?))?;
    client.send_to(
        &dns_answer("www.example.com", WEB_SERVER)?,
        (HOST_ADDRESS, 9000),
    )?;
    let mut received = [0; 512];
    let (_, from) = inside.recv_from(&mut received)?;
    assert_eq!(from.port(), 53);
    no_curl(&slot.place, WEB_SERVER)?;
    // It may be answered, although the world is closed.
    inside.send_to(b"yes", from)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    client.recv_from(&mut received)?;
    Ok(())
}

#[test]
fn one_slot_learns_so_many_addresses_that_others_keep_theirs() -> Result<()> {
    const NAME: &str = "www.example.com";
    let world = World::new()?;
    let daemon = closed_pool(&world)?;
    let _web = web_server(&world)?;
    let names = world
        .internet()
        .within(|| Ok(UdpSocket::bind((NAME_SERVER, 53))?))?;
    let rules = json!({"allow": [format!("{NAME_SERVER}:53/udp"), NAME]});
    let closed = |slot: &Slot, address: Ipv4Addr| -> Result<bool> {
        let before = daemon.dropped("world-closed")?;
        let probe = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        probe.send_to(b"?", (address, 9))?;
        Ok(daemon.dropped("world-closed")? > before)
    };
    let resolver = |slot: &Slot| -> Result<UdpSocket> {
        let socket = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(socket)
    };
    let learn = |resolver: &UdpSocket, address: Ipv4Addr| -> Result<()> {
        resolver.send_to(b"?", (NAME_SERVER, 53))?;
        let mut bytes = [0; 512];
        let (_, from) = names.recv_from(&mut bytes)?;
        names.send_to(&dns_answer(NAME, &address.to_string())?, from)?;
        resolver.recv(&mut bytes)?;
        Ok(())
    };
    let greedy = attach(&daemon, "greedy", &rules)?;
    let addresses = |index: u32| Ipv4Addr::from_bits(0xcb00_0000 + index);
    // All that one age allows, twice, should time go on meanwhile.
    let too_many = 2 * ADDRESSES_PER_AGE + 1;
    let greedy_resolver = resolver(&greedy)?;
    for index in 0..too_many {
        learn(&greedy_resolver, addresses(index))?;
    }
    assert!(!closed(&greedy, addresses(0))?);
    let refused = (0..too_many).map(|index| closed(&greedy, addresses(index)));
    assert!(refused.collect::<Result<Vec<_>>>()?.contains(&true));
    let other = attach(&daemon, "other", &rules)?;
    learn(&resolver(&other)?, addresses(too_many))?;
    assert!(!closed(&other, addresses(too_many))?);
    Ok(())
}

/// The answer that `name` has the address `told`.
fn dns_answer(name: &str, told: &str) -> Result<Vec<u8>> {
    let mut answer = vec![0, 1, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    for label in name.split('.') {
        answer.push(label.len().try_into()?);
        answer.extend(label.bytes());
    }
    answer.extend([0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(told.parse::<Ipv4Addr>()?.octets());
    Ok(answer)
}

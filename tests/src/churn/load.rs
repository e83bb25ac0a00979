//! The jobs: who sends what to whom, and who receives.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::endpoint::Endpoint;
use super::stamp::{LENGTH, Stamp, WORLD};
use super::{Field, HOLDERS, PATIENCE_FOR_TCP, PORT, TENANTS, Way, published_port};
use crate::world::{HOST_ADDRESS, INTERNET_ADDRESS};

/// How often a job lets others have the CPU.
const BURST: u64 = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// Answers that the world keeps back, to send them late.
const KEPT: usize = 512;

/// Numbers that need not be good, only different (a step of `SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from(mixed >> 33).unwrap_or_default() % sides
    }
}

/// Attachments, and such as were ones, send to attachments and to the world.
pub(super) fn send_datagrams(field: &Field) -> Result<()> {
    let mut dice = Dice(1);
    let world: SocketAddr = format!("{INTERNET_ADDRESS}:{PORT}").parse()?;
    for turn in 0_u64.. {
        if field.is_over() {
            break;
        }
        if turn % BURST == 0 {
            thread::sleep(PAUSE);
        }
        let Some(sender) = sender(field, &mut dice) else {
            continue;
        };
        if dice.roll(3) == 0 {
            // The world compares nothing but its own number.
            let _ = sender.udp.send_to(&sender.stamp(WORLD).bytes(), world);
        } else {
            send_to_slot(field, &sender, dice.roll(HOLDERS));
        }
    }
    Ok(())
}

/// Now and then one that has been detached.
fn sender(field: &Field, dice: &mut Dice) -> Option<Arc<Endpoint>> {
    if dice.roll(8) == 0 {
        let ghosts = field.ghosts.lock().ok()?;
        return ghosts.get(dice.roll(ghosts.len().max(1))).cloned();
    }
    present(field, dice.roll(HOLDERS))
}

fn present(field: &Field, place: usize) -> Option<Arc<Endpoint>> {
    Some(Arc::clone(&*field.places[place].read().ok()?))
}

/// To its own tenant's and to others'.
fn send_to_slot(field: &Field, sender: &Endpoint, place: usize) {
    if let Ok(receiver) = field.places[place].read() {
        let stamp = sender.stamp(receiver.serial).bytes();
        let _ = sender.udp.send_to(&stamp, (receiver.address, PORT));
    }
}

/// Every attachment looks at what reached it.
pub(super) fn receive(field: &Field) {
    while !field.is_over() {
        for place in 0..HOLDERS {
            if let Some(receiver) = present(field, place) {
                receive_datagrams(field, &receiver);
                answer_connections(field, &receiver);
            }
        }
        let ghosts = field.ghosts.lock().map(|ghosts| ghosts.clone());
        for ghost in ghosts.unwrap_or_default() {
            receive_datagrams(field, &ghost);
        }
        thread::sleep(PAUSE);
    }
}

fn receive_datagrams(field: &Field, receiver: &Endpoint) {
    let mut buffer = [0; 2 * LENGTH];
    while let Ok((length, source)) = receiver.udp.recv_from(&mut buffer) {
        let stamp = Stamp::parse(&buffer[..length]);
        let way = way_of(source, stamp);
        let tally = &field.tally;
        tally.judge(stamp, receiver, &tally.datagrams, way);
    }
}

/// An answer of the world carries the number of the world, and so does what it sends by itself,
/// from another port.
fn way_of(source: SocketAddr, stamp: Option<Stamp>) -> Way {
    match stamp {
        Some(stamp) if stamp.from != WORLD => Way::Slot,
        _ if source.port() == PORT => Way::World,
        _ => Way::PublishedPort,
    }
}

fn answer_connections(field: &Field, server: &Endpoint) {
    while let Ok((stream, _)) = server.listener.accept() {
        // Who connects sends at once.
        let _ = answer_connection(field, server, stream);
    }
}

fn answer_connection(field: &Field, server: &Endpoint, mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE_FOR_TCP))?;
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes)?;
    let stamp = Stamp::parse(&bytes).context("no stamp")?;
    let way = if stamp.from == WORLD {
        Way::PublishedPort
    } else {
        Way::Slot
    };
    let tally = &field.tally;
    tally.judge(Some(stamp), server, &tally.connections, way);
    stream.write_all(&stamp.answer(server.serial).bytes())?;
    Ok(())
}

/// The world answers datagrams, some at once and some late, when the asker may be gone.
pub(super) fn answer_from_world(field: &Field) -> Result<()> {
    let socket = field.world.internet().within(|| {
        let socket = UdpSocket::bind((INTERNET_ADDRESS, PORT))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })?;
    let mut kept: Vec<(SocketAddr, Stamp)> = Vec::new();
    // A port that somebody else has got by now is his, as behind any translation.
    let mut latest: HashMap<SocketAddr, u64> = HashMap::new();
    let mut dice = Dice(2);
    while !field.is_over() {
        let mut buffer = [0; 2 * LENGTH];
        while let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let Some(stamp) = Stamp::parse(&buffer[..length]) else {
                continue;
            };
            if stamp.too_late != 0 {
                field.tally.tell(format!("{stamp:?} reached the world"));
            }
            latest.insert(source, stamp.from);
            socket.send_to(&stamp.answer(WORLD).bytes(), source)?;
            if kept.len() == KEPT {
                kept.swap_remove(dice.roll(KEPT));
            }
            kept.push((source, stamp));
        }
        if !kept.is_empty() {
            let (source, stamp) = kept[dice.roll(kept.len())];
            if latest.get(&source) == Some(&stamp.from) {
                socket.send_to(&stamp.answer(WORLD).bytes(), source)?;
            }
        }
        thread::sleep(PAUSE / 4);
    }
    Ok(())
}

/// The world sends to published ports.
pub(super) fn send_from_world(field: &Field) -> Result<()> {
    let socket = field
        .world
        .internet()
        .within(|| Ok(UdpSocket::bind((INTERNET_ADDRESS, PORT + 1))?))?;
    let mut dice = Dice(3);
    let host: Ipv4Addr = HOST_ADDRESS.parse()?;
    while !field.is_over() {
        for _ in 0..16 {
            let place = dice.roll(HOLDERS);
            if let Ok(receiver) = field.places[place].read() {
                let stamp = from_world(&receiver);
                socket.send_to(&stamp.bytes(), (host, published_port(place)))?;
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn from_world(receiver: &Endpoint) -> Stamp {
    Stamp {
        from: WORLD,
        to: receiver.serial,
        tenant: receiver.tenant,
        too_late: 0,
    }
}

/// Attachments connect to each other and to the world.
pub(super) fn connect_from_slots(field: &Field) -> Result<()> {
    let listener = field
        .world
        .internet()
        .within(|| Ok(TcpListener::bind((INTERNET_ADDRESS, PORT))?))?;
    listener.set_nonblocking(true)?;
    let world: SocketAddr = format!("{INTERNET_ADDRESS}:{PORT}").parse()?;
    let mut dice = Dice(4);
    thread::scope(|scope| {
        scope.spawn(|| echo_in_world(field, &listener));
        while !field.is_over() {
            let Some(client) = present(field, dice.roll(HOLDERS)) else {
                continue;
            };
            if dice.roll(2) == 0 {
                let stamp = client.stamp(WORLD);
                let asked = client.connect(world).and_then(|stream| ask(stream, stamp));
                hear(field, asked, stamp, Some(Way::World));
            } else {
                ask_colleague(field, &client, &mut dice);
            }
        }
    });
    Ok(())
}

/// Asks another attachment of the same tenant, which stays while it is asked.
fn ask_colleague(field: &Field, client: &Endpoint, dice: &mut Dice) {
    for _ in 0..4 * TENANTS {
        let Ok(server) = field.places[dice.roll(HOLDERS)].read() else {
            return;
        };
        if server.tenant == client.tenant && server.serial != client.serial {
            let stamp = client.stamp(server.serial);
            let address = SocketAddr::from((server.address, PORT));
            let asked = client
                .connect(address)
                .and_then(|stream| ask(stream, stamp));
            drop(server);
            return hear(field, asked, stamp, None);
        }
    }
}

fn ask(mut stream: TcpStream, stamp: Stamp) -> Option<TcpStream> {
    stream.write_all(&stamp.bytes()).ok()?;
    Some(stream)
}

/// Looks at whom the answer is for. Connections may break at any time: somebody is detached.
fn hear(field: &Field, asked: Option<TcpStream>, stamp: Stamp, count: Option<Way>) {
    let mut bytes = [0; LENGTH];
    let Some(Ok(())) = asked.map(|mut stream| stream.read_exact(&mut bytes)) else {
        return;
    };
    let answer = Stamp::parse(&bytes);
    if answer != Some(stamp.answer(stamp.to)) {
        field
            .tally
            .tell(format!("{stamp:?} was answered {answer:?}"));
    } else if let Some(way) = count {
        field.tally.connections[way as usize].fetch_add(1, Ordering::Relaxed);
    }
}

fn echo_in_world(field: &Field, listener: &TcpListener) {
    while !field.is_over() {
        match listener.accept() {
            Ok((stream, _)) => drop(answer_in_world(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => {}
        }
    }
}

fn answer_in_world(mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE_FOR_TCP))?;
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes)?;
    let stamp = Stamp::parse(&bytes).context("no stamp")?;
    Ok(stream.write_all(&stamp.answer(WORLD).bytes())?)
}

/// The world connects to published ports, whoever is behind them then.
pub(super) fn connect_from_world(field: &Field) -> Result<()> {
    let host: Ipv4Addr = HOST_ADDRESS.parse()?;
    let mut dice = Dice(5);
    field.world.internet().within(|| {
        while !field.is_over() {
            let place = dice.roll(HOLDERS);
            let Some(server) = present(field, place) else {
                continue;
            };
            let address = SocketAddr::from((host, published_port(place)));
            let stream = TcpStream::connect_timeout(&address, PATIENCE_FOR_TCP).ok();
            let replaced = |server: &Endpoint| {
                present(field, place).is_none_or(|present| present.serial != server.serial)
            };
            // Who was replaced before the connection stood is not the one that it reached.
            if let Some(stream) = stream
                && !replaced(&server)
            {
                stream.set_read_timeout(Some(PATIENCE_FOR_TCP))?;
                let stamp = from_world(&server);
                hear(field, ask(stream, stamp), stamp, None);
            }
        }
        Ok(())
    })
}

//! Connections through slots that go on whatever becomes of the daemon: to the world, to another slot,
//! and from the world through a published port. Each waits for the echo of what it sends, again and again.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use pcpm_api::types::AttachReply;
use serde_json::json;

use super::Chaos;
use crate::daemon::Daemon;
use crate::world::World;

/// Slots of the connections.
pub(super) const SLOTS: u32 = PAIRS * 2;
const PAIRS: u32 = 4;
const PORT: u16 = 7000;
const FIRST_PUBLISHED: u16 = 15_000;
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Between two packets of a connection.
const PAUSE: Duration = Duration::from_millis(10);
/// TCP sends again after 200 ms, 600 ms, 1.4 s: longer than this is broken.
const PATIENCE_FOR_ECHO: Duration = Duration::from_secs(5);

/// The connections, each in a thread of its own.
pub(super) struct Connections {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Duration>>>,
    host: Ipv4Addr,
}

impl Connections {
    pub(super) fn open(world: &World, daemon: &Daemon) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let host = crate::world::HOST_ADDRESS
            .parse()
            .context("the host's address")?;
        let mut threads = Vec::new();
        serve(&over, world.internet().within(listen)?);
        for number in 0..PAIRS {
            let client = attach(daemon, number * 2)?;
            let server = attach(daemon, number * 2 + 1)?;
            serve(&over, daemon.place(&server).within(listen)?);
            let address = server.attachment.addresses[0].parse::<Ipv4Addr>()?;
            let inside = daemon.place(&client);
            let to_world = inside.within(|| connect(WORLD, PORT))?;
            let to_slot = inside.within(|| connect(address, PORT))?;
            let published = published_port(number * 2 + 1);
            let from_world = world.internet().within(|| connect(host, published))?;
            for stream in [to_world, to_slot, from_world] {
                let over = over.clone();
                threads.push(thread::spawn(move || echo_until(&over, stream)));
            }
        }
        Ok(Self {
            over,
            threads,
            host,
        })
    }

    /// The published ports lead to the slots, for new connections too.
    pub(super) fn check_published(&self, world: &World) -> Result<()> {
        for number in 0..PAIRS {
            let port = published_port(number * 2 + 1);
            let connected = world.internet().within(|| connect(self.host, port));
            let mut stream = connected.with_context(|| format!("connect to port {port}"))?;
            echo(&mut stream).with_context(|| format!("echo through port {port}"))?;
        }
        Ok(())
    }

    /// How many were broken, and the longest time that one waited.
    pub(super) fn close(self, run: &mut Chaos) -> Result<(u64, Duration)> {
        self.over.store(true, Ordering::Relaxed);
        let (mut broken, mut longest) = (0, Duration::ZERO);
        run.connections = self.threads.len() as u64;
        for thread in self.threads {
            match thread
                .join()
                .map_err(|_| anyhow!("a connection panicked"))?
            {
                Ok(silence) => longest = longest.max(silence),
                Err(error) => {
                    broken += 1;
                    run.tell(format!("a connection broke: {error:#}"));
                }
            }
        }
        Ok((broken, longest))
    }
}

fn attach(daemon: &Daemon, number: u32) -> Result<AttachReply> {
    let port = published_port(number);
    daemon.attach_with(&json!({
        "owner": format!("steady-{number}"),
        "tenant": "steady",
        "publish": [format!("{port}:{PORT}")],
        "allow": ["198.51.100.0/24"],
        "deny": ["203.0.113.0/24"],
    }))
}

fn published_port(number: u32) -> u16 {
    FIRST_PUBLISHED + u16::try_from(number).unwrap_or_default()
}

fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?)
}

fn connect(to: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(IpAddr::V4(to), port);
    let stream = TcpStream::connect_timeout(&to, PATIENCE_FOR_ECHO)?;
    stream.set_read_timeout(Some(PATIENCE_FOR_ECHO))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Echoes whatever comes, until the process ends.
fn serve(over: &Arc<AtomicBool>, listener: TcpListener) {
    let over = over.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if over.load(Ordering::Relaxed) {
                return;
            }
            thread::spawn(move || {
                let _closed = std::io::copy(&mut &stream, &mut &stream);
            });
        }
    });
}

/// The longest time that an echo took.
fn echo_until(over: &AtomicBool, mut stream: TcpStream) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        longest = longest.max(echo(&mut stream)?);
        thread::sleep(PAUSE);
    }
    Ok(longest)
}

fn echo(stream: &mut TcpStream) -> Result<Duration> {
    let sent = Instant::now();
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(sent.elapsed())
}

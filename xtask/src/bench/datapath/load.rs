//! Load between two places: the same few lines of code for every path, so that figures compare.
//! Sockets belong to the namespace they are opened in; the threads that use them may be elsewhere.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use pcpm_tests::{PATIENCE, Place};
use serde::Serialize;

use crate::report::{Spread, median};

/// The server's ports. Connections take turns between them, so that translated ports last.
pub(super) const PORTS: [u16; 16] = {
    let mut ports = [FIRST_PORT; 16];
    let mut index = 0;
    while index < 16 {
        ports[index as usize] += index;
        index += 1;
    }
    ports
};
pub(super) const FIRST_PORT: u16 = 7000;

/// Bytes of a small packet's payload.
const SMALL: usize = 64;
/// Silence after which a receiver of datagrams takes the sender for finished.
const SILENCE: Duration = Duration::from_millis(200);
const RECEIVE_BUFFER: usize = 8 << 20;
const CHUNK: usize = 128 << 10;

/// Every kernel has it, and it sends what the path takes; one that paces (BBR) measures itself.
const CONGESTION_CONTROL: &str = "reno";

/// Where the two sides run: apart when both have work at the same time, together when they wait for
/// each other, which leaves the wake-up of another CPU out of the figure.
const CLIENT_CPU: usize = 0;
const SERVER_CPU: usize = 1;
const SHARED_CPU: usize = 1;

/// Somebody who asks and somebody who answers.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) client: Place,
    pub(super) server: Place,
    /// Where the client finds the server.
    pub(super) address: Ipv4Addr,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// One TCP connection that sends as much as it can.
    Throughput,
    /// One byte there and one back.
    RoundTrips,
    /// Connect, one byte, close.
    Connections,
    /// Datagrams of 64 bytes, as many as the sender can.
    Packets,
}

impl Load {
    pub(super) const ALL: [Self; 4] = [
        Self::Throughput,
        Self::RoundTrips,
        Self::Connections,
        Self::Packets,
    ];
}

/// What one round through a pair measured of the loads that were asked for.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sample {
    pub(super) throughput_bit_s: Option<f64>,
    pub(super) round_trip: Option<Spread>,
    pub(super) connections_s: Option<f64>,
    pub(super) small_packets_s: Option<f64>,
}

impl Pair {
    /// Each of `loads` for `span`.
    ///
    /// # Errors
    /// When anything that must arrive does not.
    pub(super) fn measure(&self, loads: &[Load], span: Duration) -> Result<Sample> {
        let mut sample = Sample::default();
        for load in loads {
            let measured = self.measure_one(*load, span, &mut sample);
            measured.with_context(|| format!("{load:?}"))?;
        }
        Ok(sample)
    }

    fn measure_one(&self, load: Load, span: Duration, sample: &mut Sample) -> Result<()> {
        match load {
            Load::Throughput => sample.throughput_bit_s = Some(self.throughput(span)?),
            Load::RoundTrips => sample.round_trip = Some(self.round_trips(span)?),
            Load::Connections => sample.connections_s = Some(self.connections(span)?),
            Load::Packets => sample.small_packets_s = Some(self.small_packets(span)?),
        }
        Ok(())
    }

    /// What the server receives of one TCP connection, in bits per second of the median moment.
    fn throughput(&self, span: Duration) -> Result<f64> {
        let [listener] = self.listen([FIRST_PORT])?;
        let receive = || receive_all(&listener);
        let send = || {
            let mut stream = self.connect(FIRST_PORT)?;
            let chunk = vec![0x5a; CHUNK];
            let deadline = Instant::now() + span;
            while Instant::now() < deadline {
                stream.write_all(&chunk)?;
            }
            Ok(())
        };
        let ((), bytes_s) = self.run((CLIENT_CPU, send), (SERVER_CPU, receive))?;
        Ok(bytes_s * 8.0)
    }

    /// One byte there and one back.
    fn round_trips(&self, span: Duration) -> Result<Spread> {
        let [listener] = self.listen([FIRST_PORT])?;
        let answer = || echo(&listener);
        let ask = || {
            let stream = self.connect(FIRST_PORT)?;
            stream.set_nodelay(true)?;
            ping_pong(&stream, span)
        };
        let (times, ()) = self.run((SHARED_CPU, ask), (SHARED_CPU, answer))?;
        Spread::of_nanos(times)
    }

    /// Connect, one byte, close; as many a second as the median one allows.
    fn connections(&self, span: Duration) -> Result<f64> {
        let listeners = self.listen(PORTS)?;
        let accept = || accept_until_told(&listeners);
        let connect = || {
            let begin = Instant::now();
            let mut times = Vec::new();
            for port in PORTS.into_iter().cycle() {
                let asked = Instant::now();
                let last = asked - begin >= span;
                let mut stream = self.connect(port)?;
                stream.write_all(&[u8::from(last)])?;
                ensure!(stream.read(&mut [0])? == 0, "the server speaks");
                drop(stream);
                times.push(u64::try_from(asked.elapsed().as_nanos())?);
                if last {
                    break;
                }
            }
            Spread::of_nanos(times)
        };
        let (times, ()) = self.run((SHARED_CPU, connect), (SHARED_CPU, accept))?;
        Ok(1e6 / times.p50_us)
    }

    /// Datagrams that the server receives in the median moment of a client that sends as many as it
    /// can.
    fn small_packets(&self, span: Duration) -> Result<f64> {
        let server = self.server.within(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, FIRST_PORT))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok(socket)
        })?;
        let receive = || receive_datagrams(&server);
        let send = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect((self.address, FIRST_PORT))?;
            let begin = Instant::now();
            while begin.elapsed() < span {
                for _ in 0..32 {
                    socket.send(&[0x5a; SMALL])?;
                }
            }
            Ok(())
        };
        let ((), rate) = self.run((CLIENT_CPU, send), (SERVER_CPU, receive))?;
        Ok(rate)
    }

    fn listen<const N: usize>(&self, ports: [u16; N]) -> Result<[TcpListener; N]> {
        let listen = |port| -> Result<TcpListener> {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                .with_context(|| format!("listen on port {port}"))?;
            bound_the_wait(&listener)?;
            Ok(listener)
        };
        let listeners = self
            .server
            .within(|| ports.into_iter().map(listen).collect::<Result<Vec<_>>>())?;
        listeners
            .try_into()
            .map_err(|_| anyhow!("a listener is missing"))
    }

    /// Called where the client is.
    fn connect(&self, port: u16) -> Result<TcpStream> {
        let server = SocketAddr::from((self.address, port));
        let stream = TcpStream::connect_timeout(&server, PATIENCE)
            .with_context(|| format!("connect to {server}"))?;
        bound_the_wait(&stream)?;
        setsockopt(&stream, sockopt::TcpCongestion, &CONGESTION_CONTROL.into())?;
        Ok(stream)
    }

    /// Runs both sides at the same time, each on its CPU, the client in its place.
    fn run<C: Send, S: Send>(
        &self,
        (client_cpu, client): (usize, impl FnOnce() -> Result<C> + Send),
        (server_cpu, server): (usize, impl FnOnce() -> Result<S> + Send),
    ) -> Result<(C, S)> {
        thread::scope(|scope| {
            let serving = scope.spawn(move || {
                stay_on(server_cpu)?;
                server()
            });
            let asked = self.client.within(move || {
                stay_on(client_cpu)?;
                client()
            });
            let answered = serving.join().map_err(|_| anyhow!("the server panicked"))?;
            Ok((
                asked.context("the client")?,
                answered.context("the server")?,
            ))
        })
    }
}

fn receive_all(listener: &TcpListener) -> Result<f64> {
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; CHUNK];
    let mut meter = Meter::start();
    loop {
        match stream.read(&mut buffer)? {
            0 => return meter.median_s(),
            length => meter.count(length as u64),
        }
    }
}

fn echo(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn ping_pong(mut stream: &TcpStream, span: Duration) -> Result<Vec<u64>> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < span {
        let asked = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        times.push(u64::try_from(asked.elapsed().as_nanos())?);
    }
    Ok(times)
}

/// The client takes the listeners in turn, and so does this.
fn accept_until_told(listeners: &[TcpListener]) -> Result<()> {
    for listener in listeners.iter().cycle() {
        let (mut stream, _) = listener.accept()?;
        let mut last = [0];
        stream.read_exact(&mut last)?;
        if last == [1] {
            break;
        }
    }
    Ok(())
}

fn receive_datagrams(socket: &UdpSocket) -> Result<f64> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; SMALL];
    socket.recv(&mut buffer).context("no datagram came")?;
    socket.set_read_timeout(Some(SILENCE))?;
    let mut meter = Meter::start();
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => meter.count(1),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return meter.median_s(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Counts by the moment, so that the few moments in which something else had the CPU do not count.
struct Meter {
    begin: Instant,
    counted: u64,
    rates: Vec<f64>,
}

impl Meter {
    const MOMENT: Duration = Duration::from_millis(5);

    fn start() -> Self {
        Self {
            begin: Instant::now(),
            counted: 0,
            rates: Vec::new(),
        }
    }

    fn count(&mut self, more: u64) {
        self.counted += more;
        let now = Instant::now();
        let took = now - self.begin;
        if took >= Self::MOMENT {
            self.rates.push(per_second(self.counted, took));
            (self.begin, self.counted) = (now, 0);
        }
    }

    /// Per second, in the median moment.
    fn median_s(self) -> Result<f64> {
        ensure!(!self.rates.is_empty(), "too little was received");
        Ok(median(self.rates))
    }
}

/// Neither side waits for ever for one that failed.
fn bound_the_wait(socket: &impl AsFd) -> Result<()> {
    let patience = TimeVal::new(i64::try_from(PATIENCE.as_secs())?, 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &patience)?;
    Ok(setsockopt(socket, sockopt::SendTimeout, &patience)?)
}

fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    let available = thread::available_parallelism()?.get();
    cpus.set(cpu.min(available - 1))?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("stay on CPU {cpu}"))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

//! `bench attach`: from request to answer, for clients that ask at once.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use pcpm_tests::{Daemon, Process, World};
use serde::Serialize;
use serde_json::json;

use super::crowd::Crowd;
use super::{AttachArguments, detach_everybody};
use crate::report::{Spread, median, ratio, table, write_json};
use crate::{plain, progress};

const CLIENTS: [usize; 4] = [1, 10, 100, 1000];
/// How often the pool is emptied for each number of clients, the echo being asked in between.
const ROUNDS: usize = 3;
const IDLE_CLIENTS: usize = 1000;
/// Rounds with and without idle clients, alternating.
const IDLE_ROUNDS: usize = 6;

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    request_bytes: usize,
    reply_bytes: usize,
    clients: Vec<AtOnce>,
    one_client_over_echo: f64,
    hundred_clients_on_demand_over_attach: f64,
    idle: IdleEffect,
}

/// Times at one number of clients.
#[derive(Debug, Serialize)]
struct AtOnce {
    clients: usize,
    attach: Spread,
    echo: Spread,
    on_demand: Spread,
}

#[derive(Debug, Serialize)]
struct IdleEffect {
    idle_clients: usize,
    p50_us_alone: f64,
    p50_us_beside_idle: f64,
    change_percent: f64,
}

pub(super) fn run(arguments: &AttachArguments) -> Result<()> {
    let on_demand = CLIENTS.map(measure_on_demand);
    let bench = Bench::start(arguments.slots)?;
    let mut clients = Vec::new();
    for (count, on_demand) in CLIENTS.into_iter().zip(on_demand) {
        eprintln!("{count} at once");
        let (attach, echo) = bench.measure(count)?;
        clients.push(AtOnce {
            clients: count,
            attach,
            echo,
            on_demand: on_demand?,
        });
    }
    eprintln!("one client beside {IDLE_CLIENTS} idle ones");
    let idle = bench.measure_idle()?;
    let figures = Figures::new(&bench, clients, idle)?;
    figures.show();
    write_json(arguments.json.as_deref(), &figures)
}

/// A fresh world each, so that no network is made beside the remains of others.
fn measure_on_demand(count: usize) -> Result<Spread> {
    eprintln!("{count} on demand");
    let mut times: Vec<u64> = Vec::new();
    for _ in 0..rounds_on_demand(count) {
        plain::settle()?;
        let world = World::new()?;
        let count = count.to_string();
        let tool = world.host().command(
            std::env::current_exe()?,
            ["inside", "on-demand", "--count", &count],
        );
        times.extend(serde_json::from_value::<Vec<u64>>(tool.json()?)?);
    }
    plain::settle()?;
    Spread::of_micros(&times)
}

/// Enough samples of few, few runs of many.
fn rounds_on_demand(count: usize) -> usize {
    (100 / count).clamp(1, 20)
}

/// The product in a world of its own, and the echo.
struct Bench {
    slots: u32,
    request_bytes: usize,
    reply_bytes: usize,
    daemon: Daemon,
    echo: Echo,
    // Dropped last: the others live in it.
    _world: World,
}

impl Bench {
    fn start(slots: u32) -> Result<Self> {
        let world = World::new()?;
        let daemon = world.spawn_daemon(&["--capacity", &slots.to_string()])?;
        progress::fill(&daemon, slots)?;
        let reply = daemon.attach("size-of-a-reply", TENANT)?;
        // Every reply carries the braces of its message and the closing zero.
        let reply_bytes = serde_json::to_vec(&json!({"parameters": reply}))?.len() + 1;
        detach_everybody(&daemon)?;
        daemon.wait_until_ready(slots)?;
        let echo = Echo::start(&world, reply_bytes)?;
        let request_bytes = attach_request(&owner(0)).len();
        for pid in [
            Pid::from_raw(0),
            daemon.main_thread(),
            echo.process.main_thread(),
        ] {
            share_one_cpu(pid)?;
        }
        Ok(Self {
            slots,
            daemon,
            _world: world,
            echo,
            request_bytes,
            reply_bytes,
        })
    }

    /// Attach and echo by `count` clients at once, taking turns.
    fn measure(&self, count: usize) -> Result<(Spread, Spread)> {
        let mut attach = Crowd::connect(self.daemon.socket(), count)?;
        let mut echo = Crowd::connect(&self.echo.socket, count)?;
        let (mut attach_times, mut echo_times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            echo_times.extend(self.use_up(&mut echo, Clients::Echo)?);
            attach_times.extend(self.use_up(&mut attach, Clients::Daemon)?);
            self.refill()?;
        }
        Ok((
            Spread::of_nanos(attach_times)?,
            Spread::of_nanos(echo_times)?,
        ))
    }

    /// The median of one client, alone and beside clients that do nothing.
    fn measure_idle(&self) -> Result<IdleEffect> {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for round in 0..IDLE_ROUNDS {
            let idle = if round % 2 == 0 { 0 } else { IDLE_CLIENTS };
            let _idle = Crowd::connect(self.daemon.socket(), idle)?;
            let mut one = Crowd::connect(self.daemon.socket(), 1)?;
            let p50 = Spread::of_nanos(self.use_up(&mut one, Clients::Daemon)?)?.p50_us;
            if idle == 0 {
                alone.push(p50);
            } else {
                beside.push(p50);
            }
            self.refill()?;
        }
        let (alone, beside) = (median(alone), median(beside));
        Ok(IdleEffect {
            idle_clients: IDLE_CLIENTS,
            p50_us_alone: alone,
            p50_us_beside_idle: beside,
            change_percent: (beside / alone - 1.0) * 100.0,
        })
    }

    /// All clients ask at once, again and again, as long as the pool has a slot for each.
    fn use_up(&self, crowd: &mut Crowd, whose: Clients) -> Result<Vec<u64>> {
        let mut owners = (0..).map(owner);
        let mut times = Vec::new();
        for _ in 0..self.slots as usize / crowd.len() {
            let requests = owners
                .by_ref()
                .take(crowd.len())
                .map(|owner| attach_request(&owner));
            let requests: Vec<_> = requests.collect();
            times.extend(crowd.ask(&requests, whose.refusal())?);
        }
        Ok(times)
    }

    fn refill(&self) -> Result<()> {
        detach_everybody(&self.daemon)?;
        self.daemon.wait_until_ready(self.slots)?;
        plain::settle()
    }
}

const TENANT: &str = "bench";

#[derive(Clone, Copy)]
enum Clients {
    Daemon,
    Echo,
}

impl Clients {
    /// Tells the answers that are refusals.
    fn refusal(self) -> fn(&[u8]) -> bool {
        match self {
            Self::Daemon => refuses,
            Self::Echo => |_| false,
        }
    }
}

/// Whether an answer of the daemon is a refusal.
pub(super) fn refuses(answer: &[u8]) -> bool {
    answer.starts_with(b"{\"error\"")
}

fn owner(number: usize) -> String {
    format!("client-{number:05}")
}

/// The call that attaches a slot to `owner`.
pub(super) fn attach_request(owner: &str) -> Vec<u8> {
    let call = json!({
        "method": "io.pcpm.Pool.Attach",
        "parameters": {"owner": owner, "tenant": TENANT, "on_empty": "fail"},
    });
    [call.to_string().as_bytes(), b"\0"].concat()
}

/// Asker and answerer share a CPU: waking an idle one, above all in a virtual machine, takes several
/// times as long as an answer, and whether that happens is the scheduler's whim.
fn share_one_cpu(thread: Pid) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(thread, &cpus).context("choose a CPU")
}

/// The echo server, a process in the same world.
struct Echo {
    process: Process,
    socket: PathBuf,
}

impl Echo {
    fn start(world: &World, reply_bytes: usize) -> Result<Self> {
        let inside = Path::new("/run/echo.sock");
        let reply_bytes = reply_bytes.to_string();
        let mut process = world
            .host()
            .command(
                std::env::current_exe()?,
                ["inside", "echo", "--reply-bytes", &reply_bytes, "--socket"],
            )
            .with(|command| {
                command.arg(inside).stdout(Stdio::piped());
            })
            .spawn()?;
        let output = process
            .child()
            .stdout
            .take()
            .context("the echo has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "the echo did not start");
        Ok(Self {
            process,
            socket: world.path(inside),
        })
    }
}

impl Figures {
    fn new(bench: &Bench, clients: Vec<AtOnce>, idle: IdleEffect) -> Result<Self> {
        let at = |count| {
            clients
                .iter()
                .find(|row| row.clients == count)
                .context("a row is missing")
        };
        let (one, hundred) = (at(1)?, at(100)?);
        Ok(Self {
            slots: bench.slots,
            request_bytes: bench.request_bytes,
            reply_bytes: bench.reply_bytes,
            one_client_over_echo: one.attach.p50_us / one.echo.p50_us,
            hundred_clients_on_demand_over_attach: hundred.on_demand.p50_us / hundred.attach.p50_us,
            clients,
            idle,
        })
    }

    fn show(&self) {
        println!(
            "From request to answer, all clients at once, on the CPU of the server; requests of {} bytes, \
             answers of {}:\n",
            self.request_bytes, self.reply_bytes
        );
        let heading = "clients|attach p50|p99|max|echo p50|p99|max|on demand p50|p99|max";
        let mut rows = vec![heading.split('|').map(str::to_owned).collect()];
        rows.extend(self.clients.iter().map(AtOnce::row));
        table(&rows);
        let over_echo = ratio(self.one_client_over_echo);
        println!("\none client: the median attach takes {over_echo} an echo");
        let faster = ratio(self.hundred_clients_on_demand_over_attach);
        println!("100 clients: the median attach is {faster} faster than a network made on demand");
        println!("{}", self.idle.line());
    }
}

impl AtOnce {
    fn row(&self) -> Vec<String> {
        let spreads = [&self.attach, &self.echo, &self.on_demand];
        let cells = spreads.into_iter().flat_map(Spread::cells);
        [self.clients.to_string()]
            .into_iter()
            .chain(cells)
            .collect()
    }
}

impl IdleEffect {
    fn line(&self) -> String {
        format!(
            "{} idle clients: the median of one active client goes from {:.1} us to {:.1} us ({:+.0} %)",
            self.idle_clients, self.p50_us_alone, self.p50_us_beside_idle, self.change_percent
        )
    }
}

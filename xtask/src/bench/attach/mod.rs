//! `bench attach`: from request to answer, for clients that ask at once.

mod figures;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use pcpm_tests::{Daemon, Process, World};
use serde_json::json;

use self::figures::{AtOnce, Figures, IdleEffect, InTurn, OfSize};
use super::crowd::Crowd;
use super::findings::Findings;
use super::{Part, detach_everybody};
use crate::report::Spread;
use crate::{plain, progress};

const CLIENTS: [usize; 4] = [1, 10, 100, 1000];
const CLIENTS_QUICK: [usize; 2] = [1, 100];
const IDLE_CLIENTS: usize = 1000;
/// Networks that the queue inside a process keeps ready: as many as E2B's orchestrator does.
const QUEUE: &str = "32";
/// Clients that a queue is measured with: as many threads as there are, and on few processors more of them measure the scheduler.
const MOST_THREADS: usize = 100;
/// Sizes of pools that one client attaches out of.
const SIZES: [u32; 5] = [64, 512, 1000, 4000, 10_000];
const SIZES_QUICK: [u32; 2] = [64, 512];
/// What all clients together ask for in a round, if they are not more and the pool is not smaller.
const ATTACHES: u32 = 200;
/// How often all ask at once in a round, if the pool has so many slots: the first time finds cold caches.
const TURNS: usize = 8;

#[derive(Debug, Args)]
pub(super) struct AttachArguments {
    /// Slots of the pool; every client holds at least one [default: 1000].
    #[arg(long, value_parser = clap::value_parser!(u32).range(64..=10_000))]
    slots: Option<u32>,
    /// Numbers of clients that ask at once [default: 1,10,100,1000; quick: 1,100].
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: Vec<u16>,
    /// Sizes of pools that one client attaches out of [default: 64,512,1000,4000,10000; quick: 64,512].
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(64..=10_000))]
    sizes: Vec<u32>,
    /// How often each is measured, one after the other [default: 5; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
}

impl Part for AttachArguments {
    fn name(&self) -> &'static str {
        "attach"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { 5 });
        let slots = self.slots.unwrap_or(1000);
        let most = self.clients(quick).into_iter().max().unwrap_or_default();
        ensure!(
            most <= slots as usize,
            "slots: {slots} are too few for {most} clients"
        );
        let bench = Bench::start(slots)?;
        let mut clients = Vec::new();
        for count in self.clients(quick) {
            eprintln!("{count} at once");
            clients.push(bench.measure(count, rounds)?);
        }
        eprintln!("one client beside {IDLE_CLIENTS} idle ones");
        let idle = bench.measure_idle(rounds)?;
        let (slots, request_bytes, reply_bytes) =
            (bench.slots, bench.request_bytes, bench.reply_bytes);
        drop(bench);
        let sizes = self.sizes(quick).into_iter();
        let sizes = sizes.map(|slots| OfSize::measure(slots, rounds));
        let figures = Figures {
            slots,
            request_bytes,
            reply_bytes,
            clients,
            idle,
            sizes: sizes.collect::<Result<_>>()?,
        };
        figures.findings()
    }
}

impl AttachArguments {
    fn clients(&self, quick: bool) -> Vec<usize> {
        match (self.clients.as_slice(), quick) {
            ([], true) => CLIENTS_QUICK.to_vec(),
            ([], false) => CLIENTS.to_vec(),
            (clients, _) => clients.iter().copied().map(usize::from).collect(),
        }
    }

    fn sizes(&self, quick: bool) -> Vec<u32> {
        match (self.sizes.as_slice(), quick) {
            ([], true) => SIZES_QUICK.to_vec(),
            ([], false) => SIZES.to_vec(),
            (sizes, _) => sizes.to_vec(),
        }
    }
}

/// A fresh world each, so that no network is made beside the remains of others.
fn measure_on_demand(count: usize) -> Result<Spread> {
    let mut times: Vec<u64> = Vec::new();
    for _ in 0..worlds_on_demand(count) {
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

/// The same out of a queue.
fn measure_queue(count: usize) -> Result<Spread> {
    plain::settle()?;
    let world = World::new()?;
    let count = count.to_string();
    let words = ["inside", "channel-pool", "--size", QUEUE, "--count", &count];
    let tool = world.host().command(std::env::current_exe()?, words);
    let times: Vec<u64> = serde_json::from_value(tool.json()?)?;
    Spread::of_nanos(times)
}

impl OfSize {
    fn measure(slots: u32, rounds: u32) -> Result<Self> {
        eprintln!("one client, {slots} slots");
        let bench = Bench::start(slots)?;
        let mut attach = Crowd::connect(bench.daemon.socket(), 1)?;
        let mut echo = Crowd::connect(&bench.echo.socket, 1)?;
        let mut times = InTurn::default();
        for _ in 0..rounds {
            bench.measure_one(&mut echo, &mut attach, &mut times)?;
        }
        Ok(Self { slots, times })
    }
}

/// Enough samples of few.
fn worlds_on_demand(count: usize) -> usize {
    (10 / count).clamp(1, 3)
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
        for pid in [daemon.main_thread(), echo.process.main_thread()] {
            sched_setaffinity(pid, &one_cpu()?).context("choose a CPU")?;
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

    /// Attach, echo and networks on demand by `count` clients at once, taking turns.
    fn measure(&self, count: usize, rounds: u32) -> Result<AtOnce> {
        let mut attach = Crowd::connect(self.daemon.socket(), count)?;
        let mut echo = Crowd::connect(&self.echo.socket, count)?;
        let mut times = AtOnce {
            clients: count,
            attach: Vec::new(),
            all_attached_us: Vec::new(),
            echo: Vec::new(),
            on_demand: Vec::new(),
            queue: Vec::new(),
        };
        for _ in 0..rounds {
            let [answered, attached] = self.ask_in_turn(&mut echo, &mut attach)?;
            times.echo.push(Spread::of_nanos(answered.concat())?);
            let last = attached
                .iter()
                .filter_map(|turn| turn.iter().max().copied());
            times.all_attached_us.push(Spread::of_nanos(last)?.p50_us);
            times.attach.push(Spread::of_nanos(attached.concat())?);
            self.refill()?;
            times.on_demand.push(measure_on_demand(count)?);
            if count <= MOST_THREADS {
                times.queue.push(measure_queue(count)?);
            }
        }
        Ok(times)
    }

    fn measure_idle(&self, rounds: u32) -> Result<IdleEffect> {
        let mut effect = IdleEffect {
            idle_clients: IDLE_CLIENTS,
            alone: InTurn::default(),
            beside_idle: InTurn::default(),
        };
        let mut echo = Crowd::connect(&self.echo.socket, 1)?;
        for _ in 0..rounds {
            for (idle, times) in [
                (0, &mut effect.alone),
                (IDLE_CLIENTS, &mut effect.beside_idle),
            ] {
                let _idle = Crowd::connect(self.daemon.socket(), idle)?;
                let mut one = Crowd::connect(self.daemon.socket(), 1)?;
                self.measure_one(&mut echo, &mut one, times)?;
            }
        }
        Ok(effect)
    }

    /// Another round of one client of each.
    fn measure_one(&self, echo: &mut Crowd, attach: &mut Crowd, times: &mut InTurn) -> Result<()> {
        let [answered, attached] = self.ask_in_turn(echo, attach)?;
        times.echo.push(Spread::of_nanos(answered.concat())?);
        times.attach.push(Spread::of_nanos(attached.concat())?);
        self.refill()
    }

    /// All clients of the daemon ask at once, again and again, and before each time as many ask the echo: a processor that is
    /// shared with other machines is now slow and now fast, for milliseconds, and a ratio is to be of the same ones. Returns how
    /// long each waited, each time.
    fn ask_in_turn(&self, echo: &mut Crowd, daemon: &mut Crowd) -> Result<[Vec<Vec<u64>>; 2]> {
        let (mut owners, mut same_owners) = ((0..).map(owner), (0..).map(owner));
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..self.turns(daemon.len()) {
            times[0].push(ask_once(echo, &mut same_owners, |_| false)?);
            times[1].push(ask_once(daemon, &mut owners, refuses)?);
        }
        Ok(times)
    }

    /// How often so many can ask at once.
    fn turns(&self, clients: usize) -> usize {
        let most = self.slots as usize / clients;
        (ATTACHES as usize / clients).max(TURNS).min(most)
    }

    fn refill(&self) -> Result<()> {
        detach_everybody(&self.daemon)?;
        self.daemon.wait_until_ready(self.slots)?;
        plain::settle()
    }
}

const TENANT: &str = "bench";

/// Every client asks for one of `owners`. An answer that `bad` says is one is an error.
fn ask_once(
    clients: &mut Crowd,
    owners: impl Iterator<Item = String>,
    bad: fn(&[u8]) -> bool,
) -> Result<Vec<u64>> {
    let requests = owners.take(clients.len());
    let requests: Vec<_> = requests.map(|owner| attach_request(&owner)).collect();
    beside_the_servers(|| clients.ask(&requests, bad))
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
fn one_cpu() -> Result<CpuSet> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(cpus)
}

/// Calls `work` where the servers are. Whatever else the thread does, it does everywhere.
fn beside_the_servers<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = Pid::from_raw(0);
    let before = sched_getaffinity(own)?;
    sched_setaffinity(own, &one_cpu()?).context("choose a CPU")?;
    let done = work();
    sched_setaffinity(own, &before).context("return to all CPUs")?;
    done
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

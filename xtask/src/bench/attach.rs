//! `bench attach`: from request to answer, for clients that ask at once.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use pcpm_tests::{Daemon, Process, World};
use serde::Serialize;
use serde_json::json;

use super::chart::{Line, Lines, Point};
use super::crowd::Crowd;
use super::findings::{Findings, Ratio, Rows};
use super::spread::Spread as Quartiles;
use super::{Part, detach_everybody};
use crate::report::{Spread, time};
use crate::{plain, progress};

const CLIENTS: [usize; 4] = [1, 10, 100, 1000];
/// Of them, as many as are measured in a quick run.
const QUICK: usize = 3;
const IDLE_CLIENTS: usize = 1000;
/// Networks that the queue inside a process keeps ready: as many as E2B's orchestrator does.
const QUEUE: &str = "32";
/// Clients that a queue is measured with: as many threads as there are, and on few processors more of them measure the scheduler.
const MOST_THREADS: usize = 100;
/// Sizes of pools that one client attaches out of.
const SIZES: [u32; 5] = [64, 512, 1000, 4000, 10_000];
const SIZES_QUICK: usize = 2;
/// Attaches of one client out of one pool, between two of which an echo is asked for.
const ATTACHES: u32 = 64;

#[derive(Debug, Args)]
pub(super) struct AttachArguments {
    /// Slots of the pool; every client holds at least one [default: 1000].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..=10_000))]
    slots: Option<u32>,
    /// How often each is measured, one after the other [default: 7; quick: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    request_bytes: usize,
    reply_bytes: usize,
    clients: Vec<AtOnce>,
    idle: IdleEffect,
    sizes: Vec<OfSize>,
}

/// Times of one client and a pool of one size, in each round.
#[derive(Debug, Serialize)]
struct OfSize {
    slots: u32,
    attach: Vec<Spread>,
    echo: Vec<Spread>,
}

/// Times at one number of clients, in each round.
#[derive(Debug, Serialize)]
struct AtOnce {
    clients: usize,
    attach: Vec<Spread>,
    echo: Vec<Spread>,
    on_demand: Vec<Spread>,
    /// Out of a queue inside the asking process; none where it was not measured.
    queue: Vec<Spread>,
}

/// The median of one client in each round, alone and beside clients that do nothing.
#[derive(Debug, Default, Serialize)]
struct IdleEffect {
    idle_clients: usize,
    p50_us_alone: Vec<f64>,
    p50_us_beside_idle: Vec<f64>,
}

impl Part for AttachArguments {
    fn name(&self) -> &'static str {
        "attach"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let rounds = self.rounds.unwrap_or(if quick { 3 } else { 7 });
        let bench = Bench::start(self.slots.unwrap_or(1000))?;
        let mut clients = Vec::new();
        for count in CLIENTS
            .into_iter()
            .take(if quick { QUICK } else { CLIENTS.len() })
        {
            eprintln!("{count} at once");
            clients.push(bench.measure(count, rounds)?);
        }
        eprintln!("one client beside {IDLE_CLIENTS} idle ones");
        let idle = bench.measure_idle(rounds)?;
        let sizes = SIZES
            .into_iter()
            .take(if quick { SIZES_QUICK } else { SIZES.len() });
        let figures = Figures {
            slots: bench.slots,
            request_bytes: bench.request_bytes,
            reply_bytes: bench.reply_bytes,
            clients,
            idle,
            sizes: {
                drop(bench);
                sizes
                    .map(|slots| OfSize::measure(slots, rounds))
                    .collect::<Result<_>>()?
            },
        };
        figures.findings()
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
        let mut times = Self {
            slots,
            attach: Vec::new(),
            echo: Vec::new(),
        };
        for _ in 0..rounds {
            let answered = ask(ATTACHES, &mut echo, Clients::Echo)?;
            times.echo.push(Spread::of_nanos(answered)?);
            let attached = ask(ATTACHES, &mut attach, Clients::Daemon)?;
            times.attach.push(Spread::of_nanos(attached)?);
            bench.refill()?;
        }
        Ok(times)
    }
}

/// Enough samples of few.
fn worlds_on_demand(count: usize) -> usize {
    (10 / count).clamp(1, 5)
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
            echo: Vec::new(),
            on_demand: Vec::new(),
            queue: Vec::new(),
        };
        for _ in 0..rounds {
            let answered = self.use_up(&mut echo, Clients::Echo)?;
            times.echo.push(Spread::of_nanos(answered)?);
            let attached = self.use_up(&mut attach, Clients::Daemon)?;
            times.attach.push(Spread::of_nanos(attached)?);
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
            ..IdleEffect::default()
        };
        for _ in 0..rounds {
            for (idle, medians) in [
                (0, &mut effect.p50_us_alone),
                (IDLE_CLIENTS, &mut effect.p50_us_beside_idle),
            ] {
                let _idle = Crowd::connect(self.daemon.socket(), idle)?;
                let mut one = Crowd::connect(self.daemon.socket(), 1)?;
                let times = self.use_up(&mut one, Clients::Daemon)?;
                medians.push(Spread::of_nanos(times)?.p50_us);
                self.refill()?;
            }
        }
        Ok(effect)
    }

    /// All clients ask at once, again and again, as long as the pool has a slot for each.
    fn use_up(&self, crowd: &mut Crowd, whose: Clients) -> Result<Vec<u64>> {
        ask(self.slots, crowd, whose)
    }

    fn refill(&self) -> Result<()> {
        detach_everybody(&self.daemon)?;
        self.daemon.wait_until_ready(self.slots)?;
        plain::settle()
    }
}

/// All clients ask at once, again and again, until `slots` slots were asked for.
fn ask(slots: u32, crowd: &mut Crowd, whose: Clients) -> Result<Vec<u64>> {
    let mut owners = (0..).map(owner);
    let mut times = Vec::new();
    for _ in 0..slots as usize / crowd.len() {
        let requests = owners
            .by_ref()
            .take(crowd.len())
            .map(|owner| attach_request(&owner));
        let requests: Vec<_> = requests.collect();
        times.extend(beside_the_servers(|| {
            crowd.ask(&requests, whose.refusal())
        })?);
    }
    Ok(times)
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

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let idle = self.idle.ratio()?;
        let (one, hundred) = (self.at(1)?, self.at(100)?);
        let findings = Findings::new("Attach: from request to answer", self)?
            .text(format!(
                "Clients that ask in the same moment, on the CPU of the server: for an attach, of an echo on the same kind of socket \
                 with requests of {} bytes and answers of {} (the floor), and for networks made on demand by plain netlink, \
                 the fastest there is without a pool. {} slots. And threads of one process that take networks out of a queue in it, as \
                 E2B's orchestrator does: {QUEUE} of them with five iptables rules each are kept ready by one thread, so that no socket is \
                 in between, and the queue runs dry.",
                self.request_bytes, self.reply_bytes, self.slots
            ))
            .table(self.rows()?)
            .chart("attach-clients", self.chart()?)
            .text("One client, and pools of several sizes:")
            .table(self.size_rows()?)
            .chart("attach-sizes", self.size_chart()?)
            .text(self.idle.line()?)
            .ratio(Ratio::lower(
                "one-over-echo",
                "one client: attach / echo",
                over(&one.attach, &one.echo),
            )?)
            .ratio(Ratio::lower(
                "hundred-over-echo",
                "100 clients: attach / echo",
                over(&hundred.attach, &hundred.echo),
            )?)
            .ratio(Ratio::higher(
                "hundred-on-demand-over-attach",
                "100 at once: network on demand / attach",
                over(&hundred.on_demand, &hundred.attach),
            )?)
            .ratio(
                Ratio::lower(
                    "hundred-over-turns",
                    "100 clients: median attach / the 50 that are served before, as one alone is",
                    over(&hundred.attach, &one.attach).map(|times| times / 50.5),
                )?
                .aim(1.2),
            )
            .ratio(Ratio::higher(
                "hundred-queue-over-attach",
                &format!("100 at once: p99 out of a queue of {QUEUE} / p99 of an attach"),
                hundred
                    .queue
                    .iter()
                    .zip(&hundred.attach)
                    .map(|(queue, attach)| queue.p99_us / attach.p99_us),
            )?)
            .ratios(self.size_ratio()?)
            .ratio(idle);
        Ok(findings)
    }

    /// The largest pool beside the smallest.
    fn size_ratio(&self) -> Result<Option<Ratio>> {
        let (Some(small), Some(large)) = (self.sizes.first(), self.sizes.last()) else {
            return Ok(None);
        };
        let pairs = over(&large.attach, &large.echo).zip(over(&small.attach, &small.echo));
        let what = format!(
            "attach / echo: pool of {} / pool of {}",
            large.slots, small.slots
        );
        let ratio = Ratio::lower("large-pool-over-small", &what, pairs.map(|(l, s)| l / s))?;
        Ok(Some(ratio.aim(1.2)))
    }

    fn size_rows(&self) -> Result<Rows> {
        let heading = "slots|attach p50|quartiles|p99|echo p50|quartiles|p99";
        let mut rows = vec![heading.split('|').map(str::to_owned).collect()];
        for size in &self.sizes {
            let mut row = vec![size.slots.to_string()];
            for rounds in [&size.attach, &size.echo] {
                row.extend(cells(rounds)?);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn size_chart(&self) -> Result<Lines> {
        let line = |name: &str, of: fn(&OfSize) -> &[Spread]| {
            let points = self.sizes.iter().map(|size| {
                Ok(Point {
                    x: f64::from(size.slots),
                    y: p50(of(size))?,
                })
            });
            Ok::<_, anyhow::Error>(Line {
                name: name.to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        };
        Ok(Lines {
            title: "One client, and the size of the pool".to_owned(),
            x_title: "slots".to_owned(),
            y_title: "us, median".to_owned(),
            x_logarithmic: true,
            series: vec![
                line("attach", |size| &size.attach)?,
                line("echo (floor)", |size| &size.echo)?,
            ],
            ..Lines::default()
        })
    }

    fn at(&self, count: usize) -> Result<&AtOnce> {
        let mut rows = self.clients.iter();
        let row = rows.find(|row| row.clients == count);
        row.context("a row is missing")
    }

    fn rows(&self) -> Result<Rows> {
        let heading = "clients|attach p50|quartiles|p99|echo p50|quartiles|p99|on demand p50|quartiles|p99|\
                       queue p50|quartiles|p99";
        let mut rows = vec![heading.split('|').map(str::to_owned).collect()];
        for at_once in &self.clients {
            let mut row = vec![at_once.clients.to_string()];
            for (_, of) in SERIES {
                match of(at_once) {
                    [] => row.extend(["-"; 3].map(str::to_owned)),
                    rounds => row.extend(cells(rounds)?),
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Lines> {
        let series = SERIES.map(|(name, of)| {
            let measured = self
                .clients
                .iter()
                .filter(|at_once| !of(at_once).is_empty());
            let points = measured.map(|at_once| at_once.point(of));
            Ok(Line {
                name: name.to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        });
        Ok(Lines {
            title: "From request to answer, all clients at once".to_owned(),
            x_title: "clients at once".to_owned(),
            y_title: "us, median".to_owned(),
            x_logarithmic: true,
            y_logarithmic: true,
            series: series.into_iter().collect::<Result<_>>()?,
            ..Lines::default()
        })
    }
}

/// What is asked for, by name.
type Series = (&'static str, fn(&AtOnce) -> &[Spread]);

const SERIES: [Series; 4] = [
    ("attach", |at_once| &at_once.attach),
    ("echo (floor)", |at_once| &at_once.echo),
    ("network on demand", |at_once| &at_once.on_demand),
    ("queue in the process", |at_once| &at_once.queue),
];

impl AtOnce {
    #[expect(clippy::cast_precision_loss, reason = "a thousand clients")]
    fn point(&self, of: fn(&Self) -> &[Spread]) -> Result<Point> {
        Ok(Point {
            x: self.clients as f64,
            y: p50(of(self))?,
        })
    }
}

/// The median with the quartiles of the rounds, and p99, as cells of a table.
fn cells(rounds: &[Spread]) -> Result<[String; 3]> {
    let [median, quartiles] = p50(rounds)?.time_cells();
    let p99 = Quartiles::of(rounds.iter().map(|round| round.p99_us))?.median;
    Ok([median, quartiles, time(p99)])
}

/// The medians of all rounds.
fn p50(rounds: &[Spread]) -> Result<Quartiles> {
    Quartiles::of(rounds.iter().map(|round| round.p50_us))
}

/// The medians of one in those of another, round by round.
fn over<'a>(one: &'a [Spread], other: &'a [Spread]) -> impl Iterator<Item = f64> + 'a {
    let pairs = one.iter().zip(other);
    pairs.map(|(one, other)| one.p50_us / other.p50_us)
}

impl IdleEffect {
    fn ratio(&self) -> Result<Ratio> {
        let pairs = self.p50_us_beside_idle.iter().zip(&self.p50_us_alone);
        Ratio::lower(
            "beside-idle-over-alone",
            "one client: beside 1,000 idle ones / alone",
            pairs.map(|(beside, alone)| beside / alone),
        )
    }

    fn line(&self) -> Result<String> {
        let median =
            |rounds: &[f64]| Ok::<_, anyhow::Error>(Quartiles::of(rounds.iter().copied())?.median);
        Ok(format!(
            "Beside {} idle clients the median of an active one goes from {:.1} us to {:.1} us.",
            self.idle_clients,
            median(&self.p50_us_alone)?,
            median(&self.p50_us_beside_idle)?
        ))
    }
}

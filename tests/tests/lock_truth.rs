//! That what is told of locks is true: an independent observer (bpftrace on the same tracepoints) and those who wait
//! themselves say the same.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pcpm_api::types::LocksReply;
use pcpm_tests::{Daemon, PATIENCE, Process, RtnlLoad, World};
use serde_json::{Value, json};

/// How long the load runs.
const LOAD: Duration = Duration::from_secs(4);
/// The flood is seen by the other test's daemon, too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// Between two calls of one asker, so that they wait for the holder rather than for each other: what looking at a
/// wait takes, twice, should not matter.
const PAUSE: Duration = Duration::from_millis(1);
/// What the load goes by, since everybody on the machine is seen.
const ASKERS: &str = "truth-asks";
const LINKS: &str = "truth-links";
const HOLDER: &str = "truth-holds";

/// Waits as the kernel tells of them, paired by lock and thread.
const OBSERVER: &str = r#"
tracepoint:lock:contention_begin /(args->flags & 33) != 1 && @begun[tid, args->lock_addr] == 0/ {
    @begun[tid, args->lock_addr] = nsecs;
}
tracepoint:lock:contention_end /@begun[tid, args->lock_addr] != 0/ {
    $waited = nsecs - @begun[tid, args->lock_addr];
    delete(@begun[tid, args->lock_addr]);
    @waits[comm, args->lock_addr] = count();
    @total[comm, args->lock_addr] = sum($waited);
    @callers[comm, args->lock_addr, kstack(10)] = count();
}
BEGIN { printf("observing\n"); }
END { clear(@begun); }
"#;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Waits {
    count: u64,
    total_us: u64,
}

/// What one of both saw of the load and the rtnl lock: by thread, and how often by thread and caller.
#[derive(Debug, Default)]
struct Seen {
    threads: BTreeMap<String, Waits>,
    callers: BTreeMap<(String, String), u64>,
}

fn is_load(thread: &str) -> bool {
    [ASKERS, LINKS, HOLDER].contains(&thread)
}

struct Observer(Process);

impl Observer {
    fn start(world: &World) -> Result<Self> {
        world
            .tool("mount -t tracefs tracefs /sys/kernel/tracing")
            .run()?;
        let program = world
            .host()
            .command("bpftrace", ["-f", "json", "-e", OBSERVER]);
        let program = program
            .env("BPFTRACE_MAP_KEYS_MAX", "65536")
            .with(|command| {
                command.stdout(Stdio::piped());
            });
        let mut process = program.spawn()?;
        let output = process.child().stdout.as_mut().context("its output")?;
        // Byte by byte: what is read too early is missing later.
        let mut said = Vec::new();
        while !said.ends_with(b"observing\\n\"}") {
            let mut byte = [0];
            output.read_exact(&mut byte).context("bpftrace ended")?;
            said.extend(byte);
        }
        Ok(Self(process))
    }

    fn stop(mut self) -> Result<Seen> {
        self.0.signal(Signal::SIGINT)?;
        let output = self.0.child().stdout.take().context("its output")?;
        let mut maps = BTreeMap::<String, Value>::new();
        for line in BufReader::new(output).lines() {
            let Ok(told) = serde_json::from_str::<Value>(&line?) else {
                continue;
            };
            for (name, map) in told["data"].as_object().into_iter().flatten() {
                maps.insert(name.clone(), map.clone());
            }
        }
        self.0.wait(PATIENCE)?;
        seen_by_observer(&maps)
    }
}

fn seen_by_observer(maps: &BTreeMap<String, Value>) -> Result<Seen> {
    let entries = |name: &str| -> Result<Vec<(Vec<String>, u64)>> {
        let map = maps
            .get(name)
            .with_context(|| format!("no {name} in {maps:?}"))?;
        let entries = map.as_object().into_iter().flatten();
        let split = |key: &String| key.splitn(3, ',').map(str::to_owned).collect();
        Ok(entries
            .map(|(key, value)| (split(key), value.as_u64().unwrap_or(0)))
            .filter(|(key, _): &(Vec<String>, u64)| is_load(&key[0]))
            .collect())
    };
    let rtnl = rtnl_of(&entries("@waits")?)?;
    let mut seen = Seen::default();
    for (key, count) in entries("@waits")? {
        if key[1] == rtnl {
            seen.threads.entry(key[0].clone()).or_default().count = count;
        }
    }
    for (key, ns) in entries("@total")? {
        if key[1] == rtnl {
            seen.threads.entry(key[0].clone()).or_default().total_us = ns / 1000;
        }
    }
    for (key, count) in entries("@callers")? {
        if key[1] == rtnl {
            let caller = caller_in(&key[2]).to_owned();
            *seen.callers.entry((key[0].clone(), caller)).or_default() += count;
        }
    }
    Ok(seen)
}

/// The askers ask for one lock only.
fn rtnl_of(waits: &[(Vec<String>, u64)]) -> Result<String> {
    let of_askers = waits.iter().filter(|(key, _)| key[0] == ASKERS);
    let most = of_askers.max_by_key(|(_, count)| count);
    Ok(most.context("the load never waited")?.0[1].clone())
}

/// The first function of a stack behind those of the lock.
fn caller_in(stack: &str) -> &str {
    let frames = stack
        .lines()
        .map(str::trim)
        .filter(|frame| !frame.is_empty());
    let functions = frames.filter_map(|frame| frame.split(['+', '.']).next());
    let is_lock = |name: &str| {
        name.starts_with("__mutex_lock")
            || name.starts_with("mutex_lock")
            || name.starts_with("rtnl_lock")
            || name.starts_with("rtnl_net_lock")
    };
    let from_lock = functions.skip_while(|name| !is_lock(name));
    let mut others = from_lock.skip_while(|name| is_lock(name));
    others.next().unwrap_or("?")
}

fn seen_by_daemon(reply: &LocksReply) -> Seen {
    let mut seen = Seen::default();
    let of_load = reply
        .waiters
        .iter()
        .filter(|w| w.lock == "rtnl_mutex" && is_load(&w.thread));
    for waiter in of_load {
        let waits = seen.threads.entry(waiter.thread.clone()).or_default();
        waits.count += waiter.waits;
        waits.total_us += waiter.total_us;
        let key = (waiter.thread.clone(), waiter.caller.clone());
        *seen.callers.entry(key).or_default() += waiter.waits;
    }
    seen
}

fn agree(what: &str, one: u64, other: u64) -> Result<()> {
    // Times are taken in two programs, one after the other; a microsecond a wait may be cut off.
    let allowed = one.max(other) / 100 + 3;
    ensure!(one.abs_diff(other) <= allowed, "{what}: {one} and {other}");
    Ok(())
}

fn locks(daemon: &Daemon) -> Result<LocksReply> {
    daemon
        .connect()?
        .call("Locks", &json!({"last_ms": 600_000, "top": 1000}))
}

/// Waits until all that happened so far was collected.
fn collected(daemon: &Daemon) -> Result<()> {
    let mut wire = daemon.connect()?;
    wire.stream("Locks", &json!({}))?;
    for _ in 0..2 {
        let _second: LocksReply = wire.next_reply()?;
    }
    Ok(())
}

/// Runs a script in a network of its own, with `IP` going by that name.
fn storm(world: &World, name: &str, script: &str) -> Result<Process> {
    let copied = format!("test -e /run/{name} || cp \"$(command -v ip)\" /run/{name}");
    world.host().command("sh", ["-c", &copied]).run()?;
    let script = script.replace("IP", &format!("/run/{name}"));
    let words = ["-n", "--pid", "--kill-child", "--fork", "sh", "-c", &script];
    world.host().command("unshare", words).spawn()
}

#[test]
fn counts_times_and_callers_are_those_of_an_independent_observer_and_of_who_waited() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    // It traces when its slots are ready, or a little later.
    collected(&daemon)?;
    let observer = Observer::start(&world)?;
    let links = "while :; do IP link add name l0 type veth peer name l1; IP link show > /run/shown; IP link del l0; done";
    // Many links removed at once, again and again: the lock is held for long.
    let bulk = "for i in $(seq 60); do echo link add name l$i group 9 type veth peer name m$i; done > /run/bulk; \
                while :; do IP -batch /run/bulk; IP link del group 9; done";
    let storms = [
        storm(&world, LINKS, links)?,
        storm(&world, LINKS, links)?,
        storm(&world, HOLDER, bulk)?,
    ];
    let askers = RtnlLoad::start(ASKERS, 8, |_| thread::sleep(PAUSE))?;
    thread::sleep(LOAD);
    let asked = askers.stop()?;
    drop(storms);
    collected(&daemon)?;
    let reply = locks(&daemon)?;
    let (told, seen) = (seen_by_daemon(&reply), observer.stop()?);

    println!("{told:?}\nby bpftrace: {seen:?}\nmissed {}", reply.missed);
    for name in [ASKERS, LINKS, HOLDER] {
        let waits = |by: &Seen| by.threads.get(name).map_or(0, |waits| waits.count);
        agree(&format!("waits of {name}"), waits(&told), waits(&seen))?;
    }
    let all = |by: &Seen| by.threads.values().map(|w| w.total_us).sum::<u64>();
    agree("microseconds", all(&told), all(&seen))?;
    ensure!(
        told.threads[ASKERS].count > 100 && told.threads[LINKS].count > 10,
        "hardly a load: {told:?}"
    );
    let all: std::collections::BTreeSet<_> =
        told.callers.keys().chain(seen.callers.keys()).collect();
    for key in all {
        let pick = |by: &Seen| by.callers.get(key).copied().unwrap_or(0);
        agree(
            &format!("waits of {} in {}", key.0, key.1),
            pick(&told),
            pick(&seen),
        )?;
    }
    // They also wait while their namespaces are made, which is none of the calls.
    let in_calls = reply
        .waiters
        .iter()
        .filter(|w| w.lock == "rtnl_mutex" && w.thread == ASKERS && w.caller == "dev_ioctl");
    let (waited, took) = (
        in_calls.map(|w| w.total_us).sum::<u64>(),
        asked.took.as_micros(),
    );
    println!("waits of {waited} us by the daemon, calls of {took} us by those who made them");
    ensure!(
        u128::from(waited) <= took && u128::from(waited) >= took * 9 / 10,
        "they waited {waited} us in calls of {took} us"
    );
    let blockers = reply.blockers.iter().filter(|b| b.lock == "rtnl_mutex");
    let top = blockers
        .max_by_key(|b| b.total_us)
        .context("nobody held the lock")?;
    ensure!(top.thread == HOLDER, "held by {top:?}");
    Ok(())
}

/// Waits until a program is no more: the kernel frees it when nobody can run it any longer.
fn wait_until_gone(world: &World, id: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let show = world.host().command("bpftool", ["prog", "show", "id", id]);
        if !show.output()?.status.success() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "program {id} is left");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A name that no call before had.
fn another_name(calls: u64) {
    let name = CString::new(format!("flood-{calls}")).unwrap_or_default();
    let _cosmetic = nix::sys::prctl::set_name(&name);
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse()?)
}

#[test]
fn a_flood_of_waits_is_bounded_counted_and_leaves_nothing_behind() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new()?;
    fs::write(world.path("/run/pcpmd.toml"), "[locks]\nlong_wait_ms = 1\n")?;
    let mut daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "1"])?;
    collected(&daemon)?;
    let pid = daemon.main_thread().as_raw().cast_unsigned();
    let programs = daemon.tracing_programs()?;
    ensure!(programs.len() == 2, "{programs:?}");
    let before = resident_kib(pid)?;
    let flood = RtnlLoad::start("flood", 8, another_name)?;
    thread::sleep(LOAD);
    let asked = flood.stop()?;
    collected(&daemon)?;
    let reply = locks(&daemon)?;
    let grown = resident_kib(pid)?.saturating_sub(before);
    let waits: u64 = reply.locks.iter().map(|lock| lock.waits).sum();
    println!(
        "{} calls, {waits} waits, {} not told, {grown} KiB more",
        asked.calls, reply.missed
    );
    ensure!(waits > 1000, "hardly a flood: {waits} waits");
    ensure!(grown < 32 * 1024, "{grown} KiB more");
    daemon.stop(PATIENCE)?;
    programs
        .iter()
        .try_for_each(|id| wait_until_gone(&world, id))
}

//! The lock tracer in the kernel: its programs, its maps, and what is read of them.
#![expect(unsafe_code, reason = "says which ABI types are plain memory")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::{
    Ebpf, EbpfLoader, Pod, RawTracePointRunOptions, TestRun as _,
    maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf},
    programs::RawTracePoint,
};
use pcpm_ebpf::{
    LOCKS_OBJECT,
    locks::{self, Blocked, BlockerKey, LongWait, Missed, Tracing, WaiterKey, Waiters, names},
};

use super::{
    BpfError, per_cpu_table::PerCpuTable, possible_cpus, steering::missing,
    verified::load_verified, words::SharedWords,
};

/// A type of the ABI as aya reads and writes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: `repr(C)`, `Copy`, all padding is fields, and every bit pattern is valid.
unsafe impl Pod for Plain<Tracing> {}
// SAFETY: as above.
unsafe impl Pod for Plain<WaiterKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Waiters> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Missed> {}

/// The attached programs. Dropping it detaches them.
pub(crate) struct LockTracer {
    tracing: Array<MapData, Plain<Tracing>>,
    settings: Tracing,
    waiters: PerCpuTable<WaiterKey, Waiters>,
    blockers: PerCpuTable<BlockerKey, Blocked>,
    missed: PerCpuArray<MapData, Plain<Missed>>,
    long_waits: RingBuf<MapData>,
    /// The waits that had found no room by the last time.
    nameless: Waiters,
    /// Attached as long as somebody has them.
    programs: Arc<Ebpf>,
}

/// What was counted in one generation.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) waiters: Vec<(WaiterKey, Waiters)>,
    pub(crate) blockers: Vec<(BlockerKey, Blocked)>,
    pub(crate) long_waits: Vec<LongWait>,
}

/// A place where a worker says what it is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerPlace {
    number: u32,
    pub(crate) operation: &'static AtomicU64,
}

/// Where the daemon's workers say what they are doing, in memory shared with the programs.
pub(crate) struct WorkerMarks {
    operations: &'static [AtomicU64],
    next: AtomicU32,
    pressure: PerCpuArray<MapData, Plain<Waiters>>,
    programs: Arc<Ebpf>,
}

impl Counted {
    /// Adds what was counted in another generation.
    pub(crate) fn extend(&mut self, other: Self) {
        self.waiters.extend(other.waiters);
        self.blockers.extend(other.blockers);
        self.long_waits.extend(other.long_waits);
    }
}

impl LockTracer {
    /// Loads the programs and attaches them. They count nothing before the first
    /// [`next_generation`](Self::next_generation).
    pub(crate) fn attach(settings: Tracing) -> Result<(Self, WorkerMarks), BpfError> {
        let groups = groups(possible_cpus());
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries(names::WAITERS, groups)
            .map_max_entries(names::BLOCKERS, groups)
            .load(LOCKS_OBJECT)
            .map_err(|e| BpfError::new("load the lock tracer", &e))?;
        for name in [names::CONTENTION_BEGIN, names::CONTENTION_END] {
            let program = load(&mut ebpf, name)?;
            let attached = program.attach(name);
            attached.map_err(|e| BpfError::new(format!("attach to {name}"), &e))?;
        }
        load(&mut ebpf, names::WORKER_JOINS)?;
        load(&mut ebpf, names::WORKER_LEAVES)?;
        let me = load(&mut ebpf, names::WHO_AM_I)?.test_run(RawTracePointRunOptions::new());
        let me = me.map_err(|e| BpfError::new(format!("run {}", names::WHO_AM_I), &e))?;
        let settings = Tracing {
            daemon: me.return_value,
            ..settings
        };
        let operations = take_map_data(&mut ebpf, names::OPERATIONS)?;
        let operations = SharedWords::map(operations.fd(), locks::WORKERS as usize)
            .map_err(|e| BpfError::new(format!("map {} into memory", names::OPERATIONS), &e))?;
        let pressure = take_map(&mut ebpf, names::PRESSURE)?;
        make_room(&mut ebpf)?;
        let tracer = Self {
            tracing: take_map(&mut ebpf, names::TRACING)?,
            settings,
            waiters: PerCpuTable::take(&mut ebpf, names::WAITERS, Waiters::ZERO)?,
            blockers: PerCpuTable::take(&mut ebpf, names::BLOCKERS, Blocked::default())?,
            missed: take_map(&mut ebpf, names::MISSED)?,
            long_waits: take_map(&mut ebpf, names::LONG_WAITS)?,
            nameless: Waiters::ZERO,
            programs: Arc::new(ebpf),
        };
        let marks = WorkerMarks {
            operations: Box::leak(Box::new(operations)).words(),
            next: AtomicU32::new(0),
            pressure,
            programs: tracer.programs.clone(),
        };
        Ok((tracer, marks))
    }

    /// Which lock is the rtnl lock; the programs know with the next generation.
    pub(crate) fn set_rtnl(&mut self, lock: u64) {
        self.settings.rtnl = lock;
    }

    /// From now on events are counted in the other generation; returns the one that is over, 0 before
    /// the first. Programs that run at this moment may still count in it.
    pub(crate) fn next_generation(&mut self) -> Result<u32, BpfError> {
        let over = self.settings.generation;
        let next = if over == 1 { 2 } else { 1 };
        self.settings.generation = next;
        self.tracing
            .set(0, Plain(self.settings), 0)
            .map_err(|e| failed("write", names::TRACING, &e))?;
        Ok(over)
    }

    /// Takes what was counted in a generation that is over, and the long waits so far.
    pub(crate) fn take(&mut self, generation: u32) -> Result<Counted, BpfError> {
        let mut counted = Counted {
            long_waits: self.take_long_waits(),
            ..Counted::default()
        };
        let mut nameless = self.nameless;
        self.waiters.sweep(|key, cpus| {
            let mut sum = Waiters::ZERO;
            for cpu in cpus {
                add(&mut sum, cpu);
            }
            if *key == WaiterKey::default() {
                nameless = sum;
                return false;
            }
            let is_over = key.generation == generation;
            if is_over {
                counted.waiters.push((*key, sum));
            }
            is_over
        })?;
        let new = nameless.since(&self.nameless);
        self.nameless = nameless;
        counted.waiters.push((WaiterKey::default(), new));
        self.blockers.sweep(|key, cpus| {
            if key.generation != generation {
                return false;
            }
            let sum = cpus.iter().fold(Blocked::default(), |sum, cpu| Blocked {
                count: sum.count + cpu.count,
                total_ns: sum.total_ns + cpu.total_ns,
            });
            counted.blockers.push((*key, sum));
            true
        })?;
        Ok(counted)
    }

    /// What could not be told since the tracer was attached.
    pub(crate) fn missed(&self) -> Result<Missed, BpfError> {
        let found = self.missed.get(&0, 0);
        let values = found.map_err(|e| failed("read", names::MISSED, &e))?;
        Ok(values.iter().fold(Missed::default(), |sum, cpu| Missed {
            begins: sum.begins + cpu.0.begins,
            waiters: sum.waiters + cpu.0.waiters,
            blockers: sum.blockers + cpu.0.blockers,
            long_waits: sum.long_waits + cpu.0.long_waits,
        }))
    }

    fn take_long_waits(&mut self) -> Vec<LongWait> {
        let mut records = Vec::new();
        while let Some(item) = self.long_waits.next() {
            records.extend(long_wait(&item));
        }
        records
    }
}

impl WorkerMarks {
    /// A new place where the calling thread says what it is doing; `None` if there are too many.
    pub(crate) fn join(&self) -> Option<WorkerPlace> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let operation = self.operations.get(number as usize)?;
        let place = WorkerPlace { number, operation };
        self.join_at(place).then_some(place)
    }

    /// Whether from now on what is said at `place` goes for the calling thread, too.
    pub(crate) fn join_at(&self, place: WorkerPlace) -> bool {
        self.run(names::WORKER_JOINS, place.number.into()).is_some()
    }

    /// What is said goes for the calling thread no longer.
    pub(crate) fn leave(&self) {
        // One that stays known is mistaken for nobody: the number of a thread counts with its process only.
        let _stays = self.run(names::WORKER_LEAVES, 0);
    }

    fn run(&self, name: &str, argument: u64) -> Option<()> {
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = argument;
        let program: &RawTracePoint = self.programs.program(name)?.try_into().ok()?;
        program.test_run(options).ok().map(drop)
    }

    /// What others waited for the rtnl lock while a worker held it, ever since the tracer was attached.
    pub(crate) fn pressure(&self) -> Result<Waiters, BpfError> {
        let found = self.pressure.get(&0, 0);
        let values = found.map_err(|e| failed("read", names::PRESSURE, &e))?;
        let mut sum = Waiters::ZERO;
        values.iter().for_each(|cpu| add(&mut sum, &cpu.0));
        Ok(sum)
    }
}

/// Waits that find no room are counted under no name, for which there has to be room.
fn make_room(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    let waiters = ebpf.map_mut(names::WAITERS);
    let waiters = waiters.ok_or_else(|| missing("map", names::WAITERS))?;
    let none = PerCpuValues::try_from(vec![Plain(Waiters::ZERO); possible_cpus() as usize])
        .map_err(|e| BpfError::new("make an entry for each processor", &e))?;
    PerCpuHashMap::<_, Plain<WaiterKey>, Plain<Waiters>>::try_from(waiters)
        .and_then(|mut waiters| waiters.insert(Plain(WaiterKey::default()), none, 0))
        .map_err(|e| failed("write", names::WAITERS, &e))
}

/// Groups of waits that are told apart: as many as take this much memory. All of it is taken at once.
fn groups(cpus: u32) -> u32 {
    const LEAST: u32 = 512;
    const MOST: u32 = 4096;
    const MEMORY: usize = 16 << 20;
    let each = (size_of::<Waiters>() + size_of::<Blocked>()) * cpus as usize;
    u32::try_from(MEMORY / each).map_or(MOST, |groups| groups.clamp(LEAST, MOST))
}

fn load<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint, BpfError> {
    let failed = |e: &dyn std::error::Error| BpfError::new(format!("load program {name}"), e);
    let program = ebpf.program_mut(name);
    let program = program.ok_or_else(|| failed(&MapError::KeyNotFound))?;
    let program: &mut RawTracePoint = program.try_into().map_err(|e| failed(&e))?;
    load_verified(name, || program.load())?;
    Ok(program)
}

fn add(sum: &mut Waiters, cpu: &Waiters) {
    sum.count += cpu.count;
    sum.total_ns += cpu.total_ns;
    sum.max_ns = sum.max_ns.max(cpu.max_ns);
    for (bucket, count) in sum.histogram.iter_mut().zip(cpu.histogram) {
        // One that is never reset may begin anew.
        *bucket = bucket.wrapping_add(count);
    }
}

fn long_wait(bytes: &[u8]) -> Option<LongWait> {
    if bytes.len() < size_of::<LongWait>() {
        return None;
    }
    // SAFETY: there are enough bytes, and every bit pattern is a record.
    Some(unsafe { bytes.as_ptr().cast::<LongWait>().read_unaligned() })
}

fn failed(what: &str, map: &str, error: &MapError) -> BpfError {
    BpfError::new(format!("{what} {map}"), error)
}
fn take_map<T>(ebpf: &mut Ebpf, name: &str) -> Result<T, BpfError>
where
    T: TryFrom<Map>,
    T::Error: std::error::Error + 'static,
{
    let map = ebpf.take_map(name).ok_or_else(|| missing("map", name))?;
    map.try_into()
        .map_err(|e: T::Error| BpfError::new(format!("use map {name}"), &e))
}

fn take_map_data(ebpf: &mut Ebpf, name: &str) -> Result<MapData, BpfError> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(missing("array map", name)),
    }
}

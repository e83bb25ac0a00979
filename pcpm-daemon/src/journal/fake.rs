//! A directory in memory, whose operations fail as planned.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use nix::errno::Errno;

use super::{
    Identity, Journal, Opened,
    storage::{Storage, StoredFile},
};

/// Clones share one directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryStorage(Arc<Mutex<Disk>>);

/// What keeps a daemon alive: it may be dead after so many operations on what survives it. And what lets one
/// operation fail.
#[derive(Clone, Debug)]
pub(crate) struct Power {
    left: Arc<AtomicI64>,
    before_failure: Arc<AtomicI64>,
}

impl Default for Power {
    fn default() -> Self {
        let endless = || Arc::new(AtomicI64::new(i64::MAX));
        Self {
            left: endless(),
            before_failure: endless(),
        }
    }
}

impl Power {
    /// The daemon dies in the operation after so many more.
    pub(crate) fn last_for(&self, operations: i64) {
        self.left.store(operations, Ordering::Relaxed);
    }

    /// The operation after so many more that can fail does, and no other.
    pub(crate) fn fail_after(&self, operations: i64) {
        self.before_failure.store(operations, Ordering::Relaxed);
    }

    /// Whether it has died.
    pub(crate) fn is_off(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    /// Counts an operation; says whether the daemon lives through it.
    pub(crate) fn suffices(&self) -> bool {
        self.left.fetch_sub(1, Ordering::Relaxed) > 0
    }

    /// Counts an operation that can fail; says whether it does.
    pub(crate) fn fails(&self) -> bool {
        self.before_failure.fetch_sub(1, Ordering::Relaxed) == 0
    }

    /// Has something done without a failure, and as if it had not been.
    pub(crate) fn spared<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.before_failure.swap(i64::MAX, Ordering::Relaxed);
        let done = work();
        self.before_failure.store(before, Ordering::Relaxed);
        done
    }

    /// How many there were, of all operations and of those that can fail.
    pub(crate) fn used(&self) -> (i64, i64) {
        let used = |left: &AtomicI64| i64::MAX.wrapping_sub(left.load(Ordering::Relaxed));
        (used(&self.left), used(&self.before_failure))
    }
}

/// What becomes of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and changes nothing.
    Fails(Errno),
    /// A write that ends early, and everything after it succeeds.
    Short(usize),
    /// The daemon dies: a write gets so far, and nothing happens ever after.
    Crash(usize),
}

#[derive(Debug, Default)]
struct Disk {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    operations: usize,
    faults: BTreeMap<usize, Fault>,
    /// Bytes that all files together may have.
    room: Option<usize>,
    crashed: bool,
    power: Power,
    /// How many bytes a write gets out that the daemon dies in.
    last_bytes: usize,
}

#[derive(Debug)]
struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    index: usize,
}

impl MemoryStorage {
    /// What a daemon opens here, always of the same boot and host.
    pub(crate) fn open(&self) -> Opened {
        let identity = Identity {
            boot: "3f3c".into(),
            netns: 7,
        };
        Journal::open(Arc::new(self.clone()), identity).expect("it can be opened")
    }

    /// A directory with one file.
    pub(crate) fn with(name: &str, bytes: &[u8]) -> Self {
        let storage = Self::default();
        storage.disk().files.push(bytes.to_vec());
        storage.disk().names.insert(name.to_owned(), 0);
        storage
    }

    /// Changes made or attempted so far.
    pub(crate) fn operations(&self) -> usize {
        self.disk().operations
    }

    /// Plans what becomes of the operation with this number.
    pub(crate) fn plan(&self, operation: usize, fault: Fault) {
        self.disk().faults.insert(operation, fault);
    }

    /// Every change fails from now on, or none.
    pub(crate) fn full(&self, full: bool) {
        let mut disk = self.disk();
        let used = disk.files.iter().map(Vec::len).sum();
        disk.room = full.then_some(used);
    }

    /// Its daemon lives on `power` from now on.
    pub(crate) fn live_on(&self, power: &Power, last_bytes: usize) {
        let mut disk = self.disk();
        disk.power = power.clone();
        disk.last_bytes = last_bytes;
    }

    /// What the next daemon finds: the same files, and no faults.
    pub(crate) fn after_crash(&self) -> Self {
        let disk = self.disk();
        let files = disk
            .names
            .iter()
            .map(|(name, &index)| (name.clone(), disk.files[index].clone()));
        let (names, files): (Vec<_>, Vec<_>) = files.unzip();
        Self(Arc::new(Mutex::new(Disk {
            names: names.into_iter().zip(0..).collect(),
            files,
            ..Disk::default()
        })))
    }

    /// The content of a file.
    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names.get(name).map(|&index| disk.files[index].clone())
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while it holds it")
    }
}

impl Disk {
    /// Counts an operation; says how far it gets, all the way if nothing is planned.
    fn begin(&mut self) -> io::Result<Option<usize>> {
        if self.crashed {
            return Err(Errno::EIO.into());
        }
        let mut fault = self.faults.get(&self.operations).copied();
        if self.power.fails() {
            fault = Some(Fault::Fails(Errno::ENOSPC));
        }
        if !self.power.suffices() {
            fault = Some(Fault::Crash(self.last_bytes));
        }
        self.operations += 1;
        match fault {
            None => Ok(None),
            Some(Fault::Fails(errno)) => Err(errno.into()),
            Some(Fault::Short(bytes)) => Ok(Some(bytes)),
            Some(Fault::Crash(bytes)) => {
                self.crashed = true;
                Ok(Some(bytes))
            }
        }
    }

    /// An operation that is done or not done.
    fn begin_whole(&mut self) -> io::Result<()> {
        self.begin()?;
        if self.crashed {
            return Err(Errno::EIO.into());
        }
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.content(name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        let mut disk = self.disk();
        disk.begin_whole()?;
        let next = disk.files.len();
        let index = *disk.names.entry(name.to_owned()).or_insert(next);
        if index == next {
            disk.files.push(Vec::new());
        }
        Ok(Arc::new(MemoryFile {
            disk: self.0.clone(),
            index,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.begin_whole()?;
        let index = disk.names.remove(from).ok_or(Errno::ENOENT)?;
        disk.names.insert(to.to_owned(), index);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.begin_whole()?;
        disk.names.remove(name);
        Ok(())
    }

    fn place(&self, name: &str) -> String {
        format!("/memory/{name}")
    }
}

impl StoredFile for MemoryFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock().expect("as above");
        let planned = disk.begin()?.unwrap_or(bytes.len()).min(bytes.len());
        let start = usize::try_from(offset).expect("small");
        let others: usize =
            disk.files.iter().map(Vec::len).sum::<usize>() - disk.files[self.index].len();
        let room = disk
            .room
            .map_or(usize::MAX, |room| room.saturating_sub(others + start));
        let crashed = disk.crashed;
        let file = &mut disk.files[self.index];
        let writes = planned.min(room);
        if writes == 0 && !bytes.is_empty() {
            return Err(Errno::ENOSPC.into());
        }
        file.resize(file.len().max(start + writes), 0);
        file[start..start + writes].copy_from_slice(&bytes[..writes]);
        if crashed {
            return Err(Errno::EIO.into());
        }
        Ok(writes)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.lock().expect("as above");
        disk.begin_whole()?;
        let length = usize::try_from(length).expect("small");
        disk.files[self.index].resize(length, 0);
        Ok(())
    }
}

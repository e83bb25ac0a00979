//! What must survive a daemon that is killed: who holds which slot, and which slots are clean.
//!
//! The journal is an append-only file, `STATE_DIR/journal`, with a line for everything that happens to a
//! slot ([`record`], [`mod@format`]). An attach or a detach costs one `write`. The kernel keeps what was
//! written when the daemon dies, and a reboot ends all that the journal is about; so nothing is synced
//! to disk.
//!
//! A record that cannot be written is refused ([`Journal::write`]) or, where it is about something that
//! has happened already, owed ([`Journal::note`]): it is written before any other. So the file is always
//! a beginning of what happened, and what the slots' words in the kernel say beside it tells the rest.
//!
//! When most of the file is about the past it is written anew by another thread ([`compact`]).
//! What to do about the slots is not decided here.

mod compact;
#[cfg(test)]
pub(crate) mod fake;
mod format;
mod history;
pub(crate) mod record;
mod storage;
#[cfg(test)]
mod tests;

use std::{fmt, fs, io, path::Path, sync::Arc};

use nix::errno::Errno;

use format::{Beginning, Chain, Flaw, Lines};
use record::Record;
use storage::{Directory, Storage, StoredFile};

pub(crate) use compact::{Compacted, Compaction};
pub(crate) use format::Identity;
pub(crate) use history::{History, Known, SlotHistory};

/// The file.
const NAME: &str = "journal";

/// The file that is to take its place.
const NEW: &str = "journal.new";

/// Where a damaged file is kept for whoever wants to know.
const DAMAGED: &str = "journal.damaged";

/// Files smaller than this are never compacted.
const SMALL: u64 = 16 * 1024;

/// A file is compacted when it has grown to this many times its compacted size.
const GROWTH: u64 = 4;

/// A failed operation on the journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {place}: {reason}")]
pub(crate) struct JournalError {
    operation: &'static str,
    place: String,
    reason: String,
}

/// What was noticed about the file when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is about another boot or another network namespace, and says nothing about what is here.
    Foreign(Identity),
    /// Its last record was being written when its daemon died.
    Torn,
    /// It is damaged in the middle; what comes after is lost.
    Damaged {
        offset: usize,
        lost: usize,
        reason: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(Identity { boot, netns }) => write!(
                f,
                "the journal is of boot {boot} and network namespace {netns}: it is not used"
            ),
            Self::Torn => f.write_str("the journal's last record was cut off and is left out"),
            Self::Damaged {
                offset,
                lost,
                reason,
            } => write!(
                f,
                "the journal is damaged at byte {offset} ({reason}): the {lost} bytes from there on \
                 are not used, and kept in {DAMAGED}"
            ),
        }
    }
}

/// A journal as it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    /// What was in it.
    pub(crate) history: History,
    pub(crate) findings: Vec<Finding>,
}

/// The open file. One thread writes.
#[derive(Debug)]
pub(crate) struct Journal {
    storage: Arc<dyn Storage>,
    identity: Identity,
    file: Arc<dyn StoredFile>,
    /// Bytes of whole records.
    length: u64,
    chain: Chain,
    /// Something may be behind them.
    torn: bool,
    /// Records that could not be written.
    owed: Vec<Record>,
    /// Lines written since the compaction began that is under way.
    tail: Option<Vec<u8>>,
    compact_at: u64,
    /// How long it was when it was compacted last.
    compacted: u64,
    trouble: Option<JournalError>,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the journal in the state directory, or begins one. `netns` is the cookie of the host's network
    /// namespace.
    pub(crate) fn of_host(state_dir: &Path, netns: u64) -> Result<Opened, JournalError> {
        let storage = Arc::new(Directory::new(state_dir));
        let identity = Identity::of_host(netns).map_err(|e| failed("identify", &*storage, &e))?;
        Self::open(storage, identity)
    }

    /// Opens the journal in `storage`, or begins one.
    ///
    /// # Errors
    /// When it is of a later version, and when it cannot be read or made.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        identity: Identity,
    ) -> Result<Opened, JournalError> {
        let found = storage
            .read(NAME)
            .map_err(|e| failed("read", &*storage, &e))?;
        let bytes = found.unwrap_or_default();
        let mut lines = Lines::of(&bytes);
        let finding = match format::begin(&mut lines, &identity) {
            None => return Self::begin(storage, identity, Vec::new()),
            Some(Ok(Beginning::Ours)) => return Self::go_on(storage, identity, lines, &bytes),
            Some(Ok(Beginning::Older)) => return Self::renew(storage, identity, lines, &bytes),
            Some(Ok(Beginning::Newer(version))) => return Err(newer(&*storage, version)),
            Some(Ok(Beginning::Foreign(identity))) => Finding::Foreign(identity),
            Some(Err(flaw)) => finding(&flaw, 0, bytes.len()),
        };
        keep_damaged(&*storage, &finding, &bytes);
        Self::begin(storage, identity, vec![finding])
    }

    /// A new file in place of whatever is there.
    fn begin(
        storage: Arc<dyn Storage>,
        identity: Identity,
        findings: Vec<Finding>,
    ) -> Result<Opened, JournalError> {
        let history = History::default();
        let new = compact::write_new(&*storage, &identity, &history)?;
        rename(&*storage)?;
        Ok(Opened {
            journal: Self::over(storage, identity, new),
            history,
            findings,
        })
    }

    /// What is written is read and goes on behind its intact part.
    fn go_on(
        storage: Arc<dyn Storage>,
        identity: Identity,
        mut lines: Lines<'_>,
        bytes: &[u8],
    ) -> Result<Opened, JournalError> {
        let (history, finding) = read(&*storage, &mut lines, bytes);
        let file = storage
            .open(NAME)
            .map_err(|e| failed("open", &*storage, &e))?;
        if finding.is_some() {
            file.truncate(lines.intact as u64)
                .map_err(|e| failed("cut off the end of", &*storage, &e))?;
        }
        let intact = Compacted {
            file,
            length: lines.intact as u64,
            chain: lines.chain,
        };
        Ok(Opened {
            journal: Self::over(storage, identity, intact),
            history,
            findings: finding.into_iter().collect(),
        })
    }

    /// What an earlier version wrote is written anew: it must not go on with records that the earlier
    /// version would not understand.
    fn renew(
        storage: Arc<dyn Storage>,
        identity: Identity,
        mut lines: Lines<'_>,
        bytes: &[u8],
    ) -> Result<Opened, JournalError> {
        let (history, finding) = read(&*storage, &mut lines, bytes);
        let new = compact::write_new(&*storage, &identity, &history)?;
        rename(&*storage)?;
        Ok(Opened {
            journal: Self::over(storage, identity, new),
            history,
            findings: finding.into_iter().collect(),
        })
    }

    fn over(storage: Arc<dyn Storage>, identity: Identity, written: Compacted) -> Self {
        let Compacted {
            file,
            length,
            chain,
        } = written;
        Self {
            storage,
            identity,
            file,
            length,
            chain,
            torn: false,
            owed: Vec::new(),
            tail: None,
            compact_at: SMALL.max(length),
            compacted: 0,
            trouble: None,
            buffer: Vec::new(),
        }
    }

    /// Writes down what is about to happen. On failure it must not happen, and nothing is written.
    pub(crate) fn write(&mut self, record: &Record) -> Result<(), JournalError> {
        let written = self.append(record);
        self.trouble = written.as_ref().err().cloned();
        written
    }

    /// Writes down what has happened. What cannot be written now is written before the next record.
    pub(crate) fn note(&mut self, record: Record) {
        if self.write(&record).is_err() {
            self.owed.push(record);
        }
    }

    /// Why the last record could not be written, if it could not.
    pub(crate) fn trouble(&self) -> Option<&JournalError> {
        self.trouble.as_ref()
    }

    /// Tries again after a failure: with what is owed, or whether there is room for as much as failed.
    pub(crate) fn try_again(&mut self) {
        match self.owed.pop() {
            Some(record) => self.note(record),
            None => self.trouble = self.try_room().err(),
        }
    }

    /// What it writes is no whole line, and cut off again.
    fn try_room(&mut self) -> Result<(), JournalError> {
        self.cut_off_torn()?;
        self.torn = true;
        let spaces = vec![b' '; self.buffer.len()];
        let written = write_all(&*self.file, &spaces, self.length);
        written.map_err(|e| failed("write", &*self.storage, &e))?;
        self.cut_off_torn()
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.cut_off_torn()?;
        let mut chain = self.chain;
        self.buffer.clear();
        for record in self.owed.iter().chain([record]) {
            chain.write(record, &mut self.buffer);
        }
        if let Err(error) = write_all(&*self.file, &self.buffer, self.length) {
            self.torn = true;
            let error = failed("write", &*self.storage, &error);
            // What cannot be cut off now is before the next record.
            let _tried_again = self.cut_off_torn();
            return Err(error);
        }
        self.chain = chain;
        self.length += self.buffer.len() as u64;
        self.owed.clear();
        if let Some(tail) = &mut self.tail {
            tail.extend_from_slice(&self.buffer);
        }
        Ok(())
    }

    fn cut_off_torn(&mut self) -> Result<(), JournalError> {
        if self.torn {
            self.file
                .truncate(self.length)
                .map_err(|e| failed("cut off the end of", &*self.storage, &e))?;
            self.torn = false;
        }
        Ok(())
    }
}

/// Removes the journal's files from the state directory; says whether there were any.
pub(crate) fn remove(state_dir: &Path) -> io::Result<bool> {
    let mut removed = false;
    for name in [NAME, NEW, DAMAGED] {
        match fs::remove_file(state_dir.join(name)) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Reads all records up to the first flaw.
fn replay(lines: &mut Lines<'_>) -> (History, Option<Flaw>) {
    let mut history = History::default();
    while let Some(read) = lines.next() {
        match read {
            Ok(record) => history.apply(record),
            Err(flaw) => return (history, Some(flaw)),
        }
    }
    (history, None)
}

fn finding(flaw: &Flaw, offset: usize, lost: usize) -> Finding {
    match flaw {
        Flaw::Torn if offset > 0 => Finding::Torn,
        flaw => Finding::Damaged {
            offset,
            lost,
            reason: flaw.to_string(),
        },
    }
}

/// What is written, up to where it is intact; what is wrong from there on is kept beside.
fn read(storage: &dyn Storage, lines: &mut Lines<'_>, bytes: &[u8]) -> (History, Option<Finding>) {
    let (history, flaw) = replay(lines);
    let finding = flaw.map(|flaw| finding(&flaw, lines.intact, bytes.len() - lines.intact));
    if let Some(finding) = &finding {
        keep_damaged(storage, finding, bytes);
    }
    (history, finding)
}

/// Best effort: it is for people.
fn keep_damaged(storage: &dyn Storage, finding: &Finding, bytes: &[u8]) {
    if let Finding::Damaged { .. } = finding {
        let _lost = storage.open(DAMAGED).and_then(|file| {
            file.truncate(0)?;
            write_all(&*file, bytes, 0)
        });
    }
}

fn rename(storage: &dyn Storage) -> Result<(), JournalError> {
    storage
        .rename(NEW, NAME)
        .map_err(|e| failed("put the new file in place of", storage, &e))
}

fn write_all(file: &dyn StoredFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn newer(storage: &dyn Storage, version: u32) -> JournalError {
    JournalError {
        operation: "use the journal",
        place: storage.place(NAME),
        reason: format!(
            "it has format {version} and this pcpmd knows {known}: it was written by a later one; \
             run that, or have it remove everything first (`pcpmd --cleanup`)",
            known = format::VERSION
        ),
    }
}

fn failed(operation: &'static str, storage: &dyn Storage, error: &io::Error) -> JournalError {
    let reason = match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).to_string(),
        None => error.to_string(),
    };
    JournalError {
        operation,
        place: format!("the journal {}", storage.place(NAME)),
        reason,
    }
}

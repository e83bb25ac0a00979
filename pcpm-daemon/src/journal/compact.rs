//! Writing the journal anew without its past. Another thread reads the file as it was when the
//! compaction began and writes the new one; what was appended meanwhile is copied when it is done, and
//! then the new file takes the place of the old. Whenever the daemon dies, one whole journal is there.

use std::sync::Arc;

use super::{
    GROWTH, History, Identity, Journal, JournalError, NAME, NEW, SMALL, failed,
    format::{self, Chain, Lines},
    rename, replay,
    storage::{Storage, StoredFile},
    write_all,
};

/// Bytes written at a time.
const CHUNK: usize = 64 * 1024;

/// A compaction that can be carried out. Blocks; belongs to a thread of its own.
#[derive(Debug)]
pub(crate) struct Compaction {
    storage: Arc<dyn Storage>,
    identity: Identity,
    /// As much of the file is there.
    length: u64,
}

/// A file that was written.
#[derive(Debug)]
pub(crate) struct Compacted {
    pub(super) file: Arc<dyn StoredFile>,
    pub(super) length: u64,
    pub(super) chain: Chain,
}

impl Compaction {
    /// Writes the new file.
    pub(crate) fn run(self) -> Result<Compacted, JournalError> {
        let Self {
            storage,
            identity,
            length,
        } = self;
        let read = storage
            .read(NAME)
            .map_err(|e| failed("read", &*storage, &e))?;
        let bytes = read.unwrap_or_default();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut lines = Lines::of(&bytes[..length.min(bytes.len())]);
        let history = match format::begin(&mut lines, &identity) {
            Some(Ok(format::Beginning::Ours)) => match replay(&mut lines) {
                (history, None) => history,
                (_, Some(flaw)) => return Err(unreadable(&*storage, lines.intact, &flaw)),
            },
            _ => return Err(unreadable(&*storage, 0, &format::Flaw::Checksum)),
        };
        write_new(&*storage, &identity, &history)
    }
}

impl Journal {
    /// Whether a compaction would be worth it and none is under way: when the file has grown, and when
    /// there may be no room for more.
    pub(crate) fn wants_compaction(&self) -> bool {
        let cramped = self.trouble.is_some() && self.length > self.compacted;
        self.tail.is_none() && (self.length >= self.compact_at || cramped)
    }

    /// Begins a compaction; its outcome goes to [`finish_compaction`](Self::finish_compaction).
    pub(crate) fn begin_compaction(&mut self) -> Compaction {
        self.tail = Some(Vec::new());
        Compaction {
            storage: self.storage.clone(),
            identity: self.identity.clone(),
            length: self.length,
        }
    }

    /// Puts the new file in place. On failure the old one goes on.
    pub(crate) fn finish_compaction(
        &mut self,
        outcome: Result<Compacted, JournalError>,
    ) -> Result<(), JournalError> {
        let tail = self.tail.take().unwrap_or_default();
        let replaced = outcome.and_then(|new| self.replace(new, &tail));
        if replaced.is_err() {
            self.compact_at = self.length + self.length / 2;
            // It is in nobody's way but takes room.
            let _left = self.storage.remove(NEW);
        }
        replaced
    }

    fn replace(&mut self, mut new: Compacted, tail: &[u8]) -> Result<(), JournalError> {
        let mut lines = Vec::with_capacity(tail.len());
        for json in format::jsons(tail) {
            new.chain.write_json(json, &mut lines);
        }
        write_all(&*new.file, &lines, new.length)
            .map_err(|e| failed("write", &*self.storage, &e))?;
        rename(&*self.storage)?;
        self.length = new.length + lines.len() as u64;
        self.chain = new.chain;
        self.file = new.file;
        self.torn = false;
        self.compact_at = SMALL.max(self.length * GROWTH);
        self.compacted = self.length;
        Ok(())
    }
}

/// Writes the file that is to take the journal's place.
pub(super) fn write_new(
    storage: &dyn Storage,
    identity: &Identity,
    history: &History,
) -> Result<Compacted, JournalError> {
    let file = storage
        .open(NEW)
        .map_err(|e| failed("open a new file for", storage, &e))?;
    let (mut length, mut chain) = (0, Chain::default());
    let mut lines = Vec::new();
    let mut flush = |lines: &mut Vec<u8>| {
        write_all(&*file, lines, length)?;
        length += lines.len() as u64;
        lines.clear();
        std::io::Result::Ok(())
    };
    let written = file.truncate(0).and_then(|()| {
        format::write_beginning(identity, &mut chain, &mut lines);
        for record in history.records() {
            chain.write(&record, &mut lines);
            if lines.len() >= CHUNK {
                flush(&mut lines)?;
            }
        }
        flush(&mut lines)
    });
    written.map_err(|e| failed("write a new file for", storage, &e))?;
    Ok(Compacted {
        file,
        length,
        chain,
    })
}

fn unreadable(storage: &dyn Storage, offset: usize, flaw: &format::Flaw) -> JournalError {
    JournalError {
        operation: "compact",
        place: format!("the journal {}", storage.place(NAME)),
        reason: format!("byte {offset}: {flaw}"),
    }
}

//! One daemon a state directory: `STATE_DIR/pcpmd.lock`, locked for as long as the daemon lives and
//! carrying who that is. The kernel drops the lock with its holder, so what a killed daemon left in
//! the file never blocks the next one.
//!
//! The lock is an open file description lock: unlike `flock` it can be asked about without taking
//! it, so looking (`holder`) never makes a starting daemon fail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

const NAME: &str = "pcpmd.lock";

/// Root owns it, everybody may look: the socket in it has its own mode.
const STATE_DIR_MODE: u32 = 0o755;

/// The held lock. Dropping it gives the state directory free and leaves the file; [`release`] removes
/// the file too.
///
/// [`release`]: LockFile::release
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    path: PathBuf,
    made_state_dir: bool,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Process id, where it is known.
    pub(crate) pid: Option<u32>,
    /// Command name, where it is known.
    pub(crate) command: Option<String>,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another daemon has it.
    #[error("state directory {} is in use by {holder}", state_dir.display())]
    InUse {
        /// The directory.
        state_dir: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// The directory or the file cannot be used.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was done, as a verb.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LockFile {
    /// Takes the lock of `state_dir`, which is made if it is missing.
    ///
    /// # Errors
    /// [`LockError::InUse`] when another process holds it.
    pub(crate) fn acquire(state_dir: &Path) -> Result<Self, LockError> {
        let made_state_dir = make_state_dir(state_dir)?;
        let path = state_dir.join(NAME);
        loop {
            let file = open(&path)?;
            if !try_lock(&file).map_err(|e| failed("lock", &path, e))? {
                let holder = holder_in(&file);
                return Err(LockError::InUse {
                    state_dir: state_dir.to_owned(),
                    holder,
                });
            }
            // A daemon that stopped in between has removed the file under us: its name must lead
            // to what was locked, or a third daemon would lock another file.
            if is_at(&file, &path) {
                let mut lock = Self {
                    file,
                    path,
                    made_state_dir,
                };
                lock.sign()?;
                return Ok(lock);
            }
        }
    }

    /// Removes the file, and the state directory if [`acquire`] made it and it is empty.
    ///
    /// [`acquire`]: LockFile::acquire
    ///
    /// # Errors
    /// When the file cannot be removed; the lock is gone in any case.
    pub(crate) fn release(self) -> Result<(), LockError> {
        fs::remove_file(&self.path).map_err(|e| failed("remove", &self.path, e))?;
        if let Some(state_dir) = self.path.parent().filter(|_| self.made_state_dir) {
            // Whatever else is in there is not ours to judge.
            let _not_empty = fs::remove_dir(state_dir);
        }
        Ok(())
    }

    fn sign(&mut self) -> Result<(), LockError> {
        let pid = std::process::id();
        let start = start_time(pid).unwrap_or_default();
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.write_all(format!("{pid} {start}\n").as_bytes()));
        written.map_err(|e| failed("write", &self.path, e))
    }
}

/// Who holds the lock of `state_dir`, `None` for nobody. Changes nothing.
///
/// # Errors
/// When the file is there and cannot be read.
pub(crate) fn holder(state_dir: &Path) -> Result<Option<Holder>, LockError> {
    let path = state_dir.join(NAME);
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", &path, e)),
    };
    let held = is_locked(&file).map_err(|e| failed("query the lock of", &path, e))?;
    Ok(held.then(|| holder_in(&file)))
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.command, self.pid) {
            (Some(command), Some(pid)) => write!(f, "{command} (pid {pid})"),
            (None, Some(pid)) => write!(f, "pid {pid}"),
            (_, None) => f.write_str("a process outside this pid namespace"),
        }
    }
}

fn make_state_dir(path: &Path) -> Result<bool, LockError> {
    if path.is_dir() {
        return Ok(false);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(STATE_DIR_MODE)
        .create(path)
        .map_err(|e| failed("create state directory", path, e))?;
    Ok(true)
}

fn open(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| failed("open", path, e))
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// What the file says of its holder, as far as the process it names is the one that wrote it.
fn holder_in(mut file: &File) -> Holder {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let pid = read.ok().and_then(|_| living_writer(&text));
    Holder {
        pid,
        command: pid.and_then(command),
    }
}

fn living_writer(text: &str) -> Option<u32> {
    let (pid, start) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_time(pid)? == start.parse::<u64>().ok()?).then_some(pid)
}

fn command(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}

/// When the process started, in clock ticks since boot: field 22 of `/proc/PID/stat`, counted from
/// behind the command name, which may contain anything.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> LockError {
    LockError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

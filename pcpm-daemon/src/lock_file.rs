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
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::process::start_time;

const NAME: &str = "pcpmd.lock";

/// What a daemon that was killed needs at most until the kernel has taken its files from it: scripts and service managers
/// may start the next one in the same moment.
const LAST_MOMENTS: Duration = Duration::from_secs(1);

/// How often is looked meanwhile.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(10);

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

/// A process that holds something.
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
    /// Takes the lock of `state_dir`, which is made if it is missing. Whoever has it is given [`LAST_MOMENTS`].
    ///
    /// # Errors
    /// [`LockError::InUse`] when another process holds it.
    pub(crate) fn acquire(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(NAME);
        let begun = Instant::now();
        loop {
            // Whoever ends may take the directory with it.
            let made_state_dir = make_state_dir(state_dir)?;
            let file = open(&path)?;
            if !try_lock(&file).map_err(|e| failed("lock", &path, e))? {
                if begun.elapsed() < LAST_MOMENTS {
                    thread::sleep(TRY_AGAIN_AFTER);
                    continue;
                }
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

    /// As [`release`](Self::release), and takes the state directory away if it is empty, whoever made it.
    pub(crate) fn release_with_directory(mut self) -> Result<(), LockError> {
        self.made_state_dir = true;
        self.release()
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
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", &path, e)),
    };
    let held = is_locked(&file).map_err(|e| failed("query the lock of", &path, e))?;
    Ok(held.then(|| holder_in(&file)))
}

impl Holder {
    /// The process with this id, 0 for one of another pid namespace.
    pub(crate) fn with_pid(pid: u32) -> Self {
        Self {
            pid: Some(pid).filter(|&pid| pid != 0),
            command: command(pid),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.command, self.pid) {
            (Some(command), Some(pid)) => write!(f, "{command} (pid {pid})"),
            (None, Some(pid)) => write!(f, "pid {pid}"),
            (_, None) => f.write_str("a process that cannot be seen from here"),
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

#[expect(
    clippy::cast_possible_truncation,
    reason = "the constants of locks are small, the fields just have another type"
)]
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
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
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
    Holder::with_pid(pid.unwrap_or(0))
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

fn failed(operation: &'static str, path: &Path, source: io::Error) -> LockError {
    LockError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn me() -> Holder {
        let pid = std::process::id();
        Holder {
            pid: Some(pid),
            command: command(pid),
        }
    }

    #[test]
    fn a_second_daemon_is_refused_with_the_name_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let _first = LockFile::acquire(dir.path()).unwrap();
        let error = LockFile::acquire(dir.path()).unwrap_err().to_string();
        let (pid, name) = (std::process::id(), command(std::process::id()).unwrap());
        let dir = dir.path().display();
        assert_eq!(
            error,
            format!("state directory {dir} is in use by {name} (pid {pid})")
        );
    }

    #[test]
    fn one_that_is_just_ending_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("pcpm");
        let first = LockFile::acquire(&state_dir).unwrap();
        let ending = thread::spawn(move || {
            thread::sleep(TRY_AGAIN_AFTER * 5);
            first.release()
        });
        let _second = LockFile::acquire(&state_dir).unwrap();
        ending.join().unwrap().unwrap();
        assert_eq!(holder(&state_dir).unwrap(), Some(me()));
    }

    #[test]
    fn looking_shows_the_holder_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()).unwrap(), None);
        let lock = LockFile::acquire(dir.path()).unwrap();
        assert_eq!(holder(dir.path()).unwrap(), Some(me()));
        drop(lock);
        assert_eq!(holder(dir.path()).unwrap(), None);
        LockFile::acquire(dir.path()).unwrap();
    }

    #[test]
    fn what_a_killed_daemon_left_behind_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(NAME),
            "1 0\nand more of this than we will write",
        )
        .unwrap();
        let _lock = LockFile::acquire(dir.path()).unwrap();
        assert_eq!(holder(dir.path()).unwrap(), Some(me()));
    }

    #[test]
    fn a_holder_that_is_not_the_process_of_that_number_is_not_named() {
        let dir = tempfile::tempdir().unwrap();
        let lock = LockFile::acquire(dir.path()).unwrap();
        let start = start_time(std::process::id()).unwrap() + 1;
        fs::write(&lock.path, format!("{} {start}\n", std::process::id())).unwrap();
        let holder = holder(dir.path()).unwrap().unwrap();
        assert_eq!(
            holder,
            Holder {
                pid: None,
                command: None
            }
        );
        assert_eq!(
            holder.to_string(),
            "a process that cannot be seen from here"
        );
    }

    #[test]
    fn a_missing_state_directory_is_made_and_goes_with_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("a/b");
        let lock = LockFile::acquire(&state_dir).unwrap();
        let mode = fs::metadata(&state_dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "others may write: {mode:o}");
        lock.release().unwrap();
        assert!(!state_dir.exists());
    }

    #[test]
    fn releasing_keeps_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        LockFile::acquire(dir.path()).unwrap().release().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let state_dir = dir.path().join("a");
        let lock = LockFile::acquire(&state_dir).unwrap();
        fs::write(state_dir.join("journal"), "").unwrap();
        lock.release().unwrap();
        assert!(state_dir.join("journal").exists());
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(NAME)).unwrap();
        let error = LockFile::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("open "), "{error}");
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let state_dir = file.path().join("x");
        let error = LockFile::acquire(&state_dir).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("create state directory {}", state_dir.display())
        );
    }

    #[test]
    fn daemons_that_start_while_others_stop_never_run_together() {
        let dir = tempfile::tempdir().unwrap();
        let running = std::sync::atomic::AtomicU32::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Ok(lock) = LockFile::acquire(dir.path()) {
                            assert_eq!(running.fetch_add(1, order), 0);
                            running.fetch_sub(1, order);
                            lock.release().unwrap();
                        }
                    }
                });
            }
        });
    }
}

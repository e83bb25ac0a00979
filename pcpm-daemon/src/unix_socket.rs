//! A listening Unix socket at a path, from the moment it is there open to those only who may connect.
#![expect(
    unsafe_code,
    reason = "takes over the socket that a service manager passed"
)]

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::FromRawFd as _,
        unix::fs::{FileTypeExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::stat::{Mode, umask},
    unistd::Gid,
};
use tokio::net::UnixListener;

/// The bound socket; the path is removed when it is dropped, unless somebody else listened there first.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    is_passed: bool,
}

impl UnixSocket {
    /// Listens at `path`, which only root and `group` may connect to. A socket that a killed daemon left there is
    /// replaced; the state directory's lock has made sure that its daemon is gone.
    pub(crate) fn bind(path: &Path, group: Option<Gid>) -> anyhow::Result<Self> {
        let bound = || -> io::Result<UnixListener> {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            remove_stale(path)?;
            let listener = bind_closed(path)?;
            chown(path, None, group.map(Gid::as_raw))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
            Ok(listener)
        };
        let listener = bound().with_context(|| format!("listen at {}", path.display()))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            is_passed: false,
        })
    }

    /// The socket that a service manager listens at in our place, if it does: clients that come while no daemon
    /// runs wait there for the next one. Its mode and group are the service manager's, unless `group` is given.
    pub(crate) fn passed(path: &Path, group: Option<Gid>) -> anyhow::Result<Option<Self>> {
        let what = "take over the socket of the service manager";
        let Some(listener) = passed_listener().context(what)? else {
            return Ok(None);
        };
        let at = listener.local_addr().context(what)?;
        ensure!(
            at.as_pathname() == Some(path),
            "{what}: it listens at {}, and not at {} as the configuration says",
            at.as_pathname().unwrap_or("no path".as_ref()).display(),
            path.display()
        );
        listener.set_nonblocking(true).context(what)?;
        if group.is_some() {
            chown(path, None, group.map(Gid::as_raw)).context(what)?;
        }
        Ok(Some(Self {
            listener: UnixListener::from_std(listener).context(what)?,
            path: path.to_owned(),
            is_passed: true,
        }))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.is_passed {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
}

fn passed_listener() -> anyhow::Result<Option<std::os::unix::net::UnixListener>> {
    let mut passed = sd_notify::listen_fds_with_names(false)?;
    let Some((fd, _)) = passed.next() else {
        return Ok(None);
    };
    ensure!(passed.next().is_none(), "there are several");
    // SAFETY: the service manager opened it for this process, and nobody else here takes it over: this is called once.
    Ok(Some(unsafe {
        std::os::unix::net::UnixListener::from_raw_fd(fd)
    }))
}

/// Binds a socket that nobody may connect to before it has its group and mode.
fn bind_closed(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::all());
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// Removes a socket nobody listens at. Anything else at the path stays and makes binding fail.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    ErrorKind::AddrInUse,
                    "another process is listening there",
                ));
            }
            fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::new(ErrorKind::AlreadyExists, "not a socket")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

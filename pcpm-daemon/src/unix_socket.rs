//! A listening Unix socket at a path, from the moment it is there open to those only who may connect.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::{
    sys::stat::{Mode, umask},
    unistd::Gid,
};
use tokio::net::UnixListener;

/// The bound socket; the path is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
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
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
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

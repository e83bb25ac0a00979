//! The Varlink service: a socket, one local task a client, calls answered in the order in which they
//! came. A client that waits or stalls keeps nobody but itself; what it may send, and how many
//! there may be, is bounded.

mod access;
mod calls;
mod client;
#[cfg(test)]
mod interface_tests;
mod peer;
mod service;
mod socket;

use std::{
    cell::{Cell, RefCell},
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::stat::{Mode, umask},
    unistd::Gid,
};
use pcpm_api::types::Check;
use tokio::net::{UnixListener, UnixStream};

use crate::{engine::Shared, locks::LockHistory, reload::Reload};

#[cfg(test)]
pub(crate) use access::Role;
pub(crate) use access::{Access, Caller};

/// What every client's task shares.
pub(crate) struct Service {
    pub(crate) engine: Shared,
    /// Checks the host; may block, so it is run on a thread of its own.
    pub(crate) doctor: Arc<dyn Fn() -> Vec<Check> + Send + Sync>,
    pub(crate) live: Rc<Live>,
    pub(crate) reload: Reload,
    pub(crate) locks: Arc<LockHistory>,
    /// Clients that waited, or wait, for a slot and have no answer yet.
    pub(crate) unanswered: Cell<u32>,
}

/// What a reload of the configuration changes about the service. Clients keep the role they came with.
pub(crate) struct Live {
    access: RefCell<Access>,
    max_clients: Cell<u32>,
}

impl Live {
    pub(crate) fn new(access: Access, max_clients: u32) -> Self {
        Self {
            access: RefCell::new(access),
            max_clients: Cell::new(max_clients),
        }
    }

    /// From now on.
    pub(crate) fn set(&self, access: Access, max_clients: u32) {
        self.access.replace(access);
        self.max_clients.set(max_clients);
    }
}

/// The bound socket; the path is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, which only root and the configured group may connect to. A socket that a killed daemon left there
    /// is replaced; the state directory's lock has made sure that its daemon is gone.
    pub(crate) fn bind(path: &Path, access: &Access) -> anyhow::Result<Self> {
        let bound = || -> io::Result<UnixListener> {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            remove_stale(path)?;
            let listener = bind_closed(path)?;
            chown(path, None, access.socket_group.map(Gid::as_raw))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
            Ok(listener)
        };
        let listener = bound().with_context(|| format!("listen at {}", path.display()))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves clients for ever. Must run inside a `LocalSet`.
    pub(crate) async fn serve(&self, service: Rc<Service>) {
        /// Pause after a failed accept: file descriptors that ran out do not come back at once.
        const PAUSE: Duration = Duration::from_millis(20);
        let mut next_client = 1;
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    admit(stream, &service, next_client);
                    next_client += 1;
                }
                Err(error) => {
                    tracing::warn!("accept a client: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
}

fn admit(stream: UnixStream, service: &Rc<Service>, id: u64) {
    if service.engine.borrow().clients() >= service.live.max_clients.get() {
        tracing::warn!(
            "more than {} clients: one was turned away",
            service.live.max_clients.get()
        );
        return;
    }
    match client::Client::new(stream, service.clone(), id) {
        Ok(client) => drop(tokio::task::spawn_local(client.serve())),
        Err(error) => tracing::warn!("serve a client: {error}"),
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
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process is listening there",
                ));
            }
            fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

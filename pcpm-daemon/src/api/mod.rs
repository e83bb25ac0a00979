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
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use pcpm_api::types::Check;
use tokio::net::UnixStream;

use crate::{engine::Shared, locks::LockHistory, reload::Reload, unix_socket::UnixSocket};

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

/// Where clients come in.
#[derive(Debug)]
pub(crate) struct Listener(UnixSocket);

impl Listener {
    /// Listens at `path`, which only root and the configured group may connect to, or takes over from a
    /// service manager that does.
    pub(crate) fn bind(path: &Path, access: &Access) -> anyhow::Result<Self> {
        let socket = match UnixSocket::passed(path, access.socket_group)? {
            Some(passed) => passed,
            None => UnixSocket::bind(path, access.socket_group)?,
        };
        Ok(Self(socket))
    }

    /// Serves clients for ever. Must run inside a `LocalSet`.
    pub(crate) async fn serve(&self, service: Rc<Service>) {
        /// Pause after a failed accept: file descriptors that ran out do not come back at once.
        const PAUSE: Duration = Duration::from_millis(20);
        let mut next_client = 1;
        loop {
            let accepted = self.0.listener.accept().await;
            let failure = accepted.as_ref().err().map(ToString::to_string);
            service.engine.borrow_mut().accepting(failure);
            match accepted {
                Ok((stream, _)) => {
                    admit(stream, &service, next_client);
                    next_client += 1;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
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

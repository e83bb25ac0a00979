//! A host whose other programs have the ports that a test says.

use std::{cell::RefCell, fs::File, rc::Rc};

use super::{BorrowedFd, Errno, OwnedFd, Port, PortKernel};
use crate::journal::fake::Power;

/// Clones are the same host.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakePorts {
    /// What a bind of a port comes to, where it fails.
    pub(crate) failures: Rc<RefCell<Vec<(u16, Errno)>>>,
    /// Every port that was bound, in order, with the number of sockets of ours that had it.
    pub(crate) bound: Rc<RefCell<Vec<(Port, usize)>>>,
    /// What lets one bind fail.
    pub(crate) power: Power,
}

impl PortKernel for FakePorts {
    fn bind(&self, port: &Port, beside: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno> {
        if self.power.fails() {
            return Err(Errno::EADDRINUSE);
        }
        let failures = self.failures.borrow();
        if let Some((_, errno)) = failures.iter().find(|(bad, _)| *bad == port.host_port) {
            return Err(*errno);
        }
        self.bound.borrow_mut().push((*port, beside.len()));
        Ok(File::open("/dev/null")
            .expect("there is a null device")
            .into())
    }
}

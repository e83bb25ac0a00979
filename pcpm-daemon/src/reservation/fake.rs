//! A host whose other programs have the ports that a test says.

use std::{cell::RefCell, fs::File, rc::Rc};

use super::{BorrowedFd, Errno, OwnedFd, Port, PortKernel};

/// Clones are the same host.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakePorts {
    /// What a bind of a port comes to, where it fails.
    pub(crate) failures: Rc<RefCell<Vec<(u16, Errno)>>>,
    /// Every port that was bound, in order, with the number of sockets of ours that had it.
    pub(crate) bound: Rc<RefCell<Vec<(Port, usize)>>>,
}

impl PortKernel for FakePorts {
    fn bind(&self, port: &Port, beside: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno> {
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

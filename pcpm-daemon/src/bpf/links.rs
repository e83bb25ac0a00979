//! Pinned links: what holds a program at its hook, whatever becomes of the daemon. A link that is there
//! gets our program without a packet in between that meets none.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use super::{BpfError, sys};

/// Has the link pinned at `pin`, if there is one, run the program with this descriptor and number.
/// False: there is none, or it was detached.
pub(super) fn adopt(pin: &Path, program: &OwnedFd, id: u32) -> Result<bool, BpfError> {
    let adopt = || -> io::Result<bool> {
        let Some(link) = sys::pinned(pin)? else {
            return Ok(false);
        };
        let info = sys::link_info(link.as_fd())?;
        if info.target == 0 {
            return Ok(false);
        }
        if info.program != id {
            sys::update_link(link.as_fd(), program.as_fd())?;
        }
        Ok(true)
    };
    adopt().map_err(|e| BpfError::new(format!("replace the program of {}", pin.display()), &e))
}

/// The interface that the tcx link pinned at `pin` is on; `None` where there is no link, or the interface
/// is gone.
pub(super) fn interface(pin: &Path) -> Result<Option<u32>, BpfError> {
    let look = || -> io::Result<Option<u32>> {
        let link = sys::pinned(pin)?;
        let info = link.map(|link| sys::link_info(link.as_fd())).transpose()?;
        Ok(info.map(|info| info.target).filter(|index| *index != 0))
    };
    look().map_err(|e| BpfError::new(format!("look at link {}", pin.display()), &e))
}

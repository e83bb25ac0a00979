//! What only files of `/proc/net` tell. They are those of the thread's namespace.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::super::error::{During as _, NetError};

/// Sections and files. A file that the kernel does not have is an answer too.
const FILES: [(&str, &str); 5] = [
    ("iptables", "ip_tables_names"),
    ("ip6tables", "ip6_tables_names"),
    ("arptables", "arp_tables_names"),
    ("link groups", "dev_mcast"),
    ("flow labels", "ip6_flowlabel"),
];

/// The directory of the files, as the thread that opened it sees it: in whichever namespace it is.
#[derive(Debug)]
pub(in super::super) struct Tables(OwnedFd);

impl Tables {
    pub(in super::super) fn open() -> Result<Self, NetError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open("/proc/thread-self/net", flags, Mode::empty())
            .map(Self)
            .during(|| "open /proc/thread-self/net".to_owned())
    }

    pub(super) fn read_all(&self) -> Result<Vec<(&'static str, Option<String>)>, NetError> {
        FILES
            .iter()
            .map(|(section, file)| Ok((*section, self.read(file)?)))
            .collect()
    }

    /// The content of a file; `None` where there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, NetError> {
        let what = || format!("read /proc/net/{name}");
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut file = match openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => File::from(other.during(what)?),
        };
        // Such a file has no length to be asked for.
        let mut bytes = Vec::with_capacity(1024);
        let mut part = [0; 1024];
        loop {
            match file.read(&mut part).during(what)? {
                0 => break,
                read => bytes.extend(&part[..read]),
            }
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

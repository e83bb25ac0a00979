//! What only files of `/proc/net` tell. They are those of the thread's namespace.

use std::fs::{self, File};
use std::io;

use super::super::error::{During as _, NetError};

/// Sections and files. A file that the kernel does not have is an answer too.
const FILES: [(&str, &str); 6] = [
    ("iptables", "ip_tables_names"),
    ("ip6tables", "ip6_tables_names"),
    ("arptables", "arp_tables_names"),
    ("link groups", "dev_mcast"),
    ("flow labels", "ip6_flowlabel"),
    ("IPv4 source filters", "mcfilter"),
];

pub(super) fn read_all() -> Result<Vec<(&'static str, Option<String>)>, NetError> {
    FILES
        .iter()
        .map(|(section, file)| Ok((*section, read(file)?)))
        .collect()
}

/// The content of a file; `None` where there is no such file.
pub(super) fn read(name: &str) -> Result<Option<String>, NetError> {
    let path = format!("/proc/thread-self/net/{name}");
    match File::open(&path).and_then(io::read_to_string) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).during(|| format!("read {path}")),
    }
}

/// The same for a file that is always there.
pub(super) fn read_present(name: &str) -> Result<String, NetError> {
    let path = format!("/proc/thread-self/net/{name}");
    fs::read_to_string(&path).during(|| format!("read {path}"))
}

//! Lines for systemd's journal, in its own protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>): a datagram each, whose
//! fields `journalctl` can select by (`journalctl PCPM_OWNER=web-1`).

use std::{env, io, os::unix::net::UnixDatagram};

use nix::sys::stat::fstat;
use tracing::Level;

use super::line::Line;

const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal's socket, as long as it lives; a journal that was started again is found by the next datagram.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

/// Whether the service manager connected stderr to the journal, and nobody to something else since.
pub(super) fn reads_stderr() -> bool {
    let named = env::var("JOURNAL_STREAM").ok();
    let stderr = fstat(io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    named.is_some_and(|stream| stderr.is_ok_and(|stderr| stderr == stream))
}

/// The journal, if there is one.
pub(super) fn connect() -> io::Result<Journal> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SOCKET)?;
    Ok(Journal(UnixDatagram::unbound()?))
}

impl Journal {
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.0.send_to(datagram, SOCKET).map(drop)
    }
}

pub(super) fn encode(line: &Line) -> Vec<u8> {
    let mut datagram = Vec::new();
    let message = match &line.event {
        Some(event) if line.message.is_empty() => event.clone(),
        Some(event) => format!("{event}: {}", line.message),
        None => line.message.clone(),
    };
    put(&mut datagram, "MESSAGE", &message);
    put(&mut datagram, "PRIORITY", priority(line.level));
    put(&mut datagram, "SYSLOG_IDENTIFIER", "pcpmd");
    put(&mut datagram, "PCPM_TARGET", &line.target);
    if let Some(event) = &line.event {
        put(&mut datagram, "PCPM_EVENT", event);
    }
    for (name, value) in &line.fields {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let name = format!("PCPM_{}", name.to_ascii_uppercase());
        put(&mut datagram, &name, &value.to_string());
    }
    datagram
}

/// A value with a line break must be told by its length; told that way, any value can be.
fn put(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend_from_slice(name.as_bytes());
    datagram.push(b'\n');
    datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

/// As syslog(3) numbers them.
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::line::{Value, sample};

    #[test]
    fn no_value_can_pass_for_another_field() {
        let mut line = sample("x");
        let hostile = "a\nPRIORITY=0\n";
        line.fields = vec![("owner", Value::Text(hostile.to_owned()))];
        let datagram = encode(&line);
        let mut field = b"PCPM_OWNER\n".to_vec();
        field.extend_from_slice(&(hostile.len() as u64).to_le_bytes());
        field.extend_from_slice(hostile.as_bytes());
        field.push(b'\n');
        assert!(datagram.ends_with(&field), "{datagram:?}");
        assert!(datagram.starts_with(b"MESSAGE\n\x01\0\0\0\0\0\0\0x\nPRIORITY\n"));
    }
}

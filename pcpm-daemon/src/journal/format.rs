//! How records stand in the file: a line each, `CHECKSUM JSON`. A reader needs no tool to see what is
//! there. The checksum (CRC-32, eight hexadecimal digits) continues that of the line before, so that a
//! line that is missing is noticed like one that was changed. The first line says what the file is.

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// The version that is written. Whatever a reader of the version before would misunderstand raises it.
pub(super) const VERSION: u32 = 3;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Digits of a checksum and the space behind them.
const CHECKSUM: usize = 9;

/// Whose file it is: what is in the kernel of another boot, or in another network namespace, has
/// nothing to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The kernel's name for this boot.
    pub(crate) boot: String,
    /// The cookie of the network namespace that is the host's.
    pub(crate) netns: u64,
}

impl Identity {
    /// Of what the kernel has now, where the host's network namespace has the cookie `netns`.
    pub(crate) fn of_host(netns: u64) -> io::Result<Self> {
        let boot = fs::read_to_string(BOOT_ID)?.trim().to_owned();
        Ok(Self { boot, netns })
    }
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    #[serde(flatten)]
    version: Version,
    #[serde(flatten)]
    identity: Identity,
}

/// What every version has in its first line.
#[derive(Debug, Serialize, Deserialize)]
struct Version {
    #[serde(rename = "pcpm_journal")]
    version: u32,
}

/// The checksum of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain(u32);

impl Chain {
    /// The chain with one more line.
    fn and(self, json: &[u8]) -> Self {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(json);
        Self(hasher.finalize())
    }

    /// Appends the line with `value` to `lines`; the chain then includes it.
    pub(super) fn write(&mut self, value: &impl Serialize, lines: &mut Vec<u8>) {
        let start = lines.len();
        lines.extend_from_slice(&[b' '; CHECKSUM]);
        serde_json::to_writer(&mut *lines, value)
            .expect("the journal's types have nothing that JSON has not, and memory takes all");
        *self = self.and(&lines[start + CHECKSUM..]);
        lines[start..start + CHECKSUM].copy_from_slice(&self.text());
        lines.push(b'\n');
    }

    /// As [`write`](Self::write), of what is JSON already.
    pub(super) fn write_json(&mut self, json: &[u8], lines: &mut Vec<u8>) {
        *self = self.and(json);
        lines.extend_from_slice(&self.text());
        lines.extend_from_slice(json);
        lines.push(b'\n');
    }

    /// As it stands before the JSON.
    fn text(self) -> [u8; CHECKSUM] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b' '; CHECKSUM];
        for (at, digit) in text[..CHECKSUM - 1].iter_mut().enumerate() {
            *digit = DIGITS[(self.0 >> (28 - 4 * at)) as usize & 15];
        }
        text
    }
}

/// The JSON of whole lines, checksums left out.
pub(super) fn jsons(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = lines.split_inclusive(|&byte| byte == b'\n');
    lines.map(|line| &line[CHECKSUM..line.len() - 1])
}

/// Why a line is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    /// The file ends in the middle of it: it was being written.
    #[error("the last line is cut off")]
    Torn,
    /// Its checksum is another one.
    #[error("the checksum does not match")]
    Checksum,
    /// It was written by something else than this program.
    #[error("{0}")]
    Meaning(String),
}

/// The lines of a file, until the first one with a flaw.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    /// Bytes without a flaw so far.
    pub(super) intact: usize,
    pub(super) chain: Chain,
}

impl<'a> Lines<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            intact: 0,
            chain: Chain::default(),
        }
    }

    /// The next line's JSON as what it should be; `None` behind the last. A flaw is met again and again.
    pub(super) fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Option<Result<T, Flaw>> {
        let rest = &self.bytes[self.intact..];
        if rest.is_empty() {
            return None;
        }
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Some(Err(Flaw::Torn));
        };
        let read = self.line(&rest[..length]).and_then(|(json, chain)| {
            let value = serde_json::from_slice(json).map_err(|e| Flaw::Meaning(e.to_string()))?;
            Ok((value, chain))
        });
        Some(read.map(|(value, chain)| {
            self.chain = chain;
            self.intact += length + 1;
            value
        }))
    }

    fn line(&self, line: &'a [u8]) -> Result<(&'a [u8], Chain), Flaw> {
        let (checksum, json) = line.split_at_checked(CHECKSUM).ok_or(Flaw::Checksum)?;
        let chain = self.chain.and(json);
        if checksum != chain.text() {
            return Err(Flaw::Checksum);
        }
        Ok((json, chain))
    }
}

/// What the first line says.
pub(super) enum Beginning {
    /// Ours.
    Ours,
    /// Ours, of an earlier version, whose records mean the same to this one.
    Older,
    /// Of another boot, or of another network namespace.
    Foreign(Identity),
    /// Of a later version.
    Newer(u32),
}

/// Reads the first line.
pub(super) fn begin(lines: &mut Lines<'_>, ours: &Identity) -> Option<Result<Beginning, Flaw>> {
    let first = lines.next::<serde_json::Value>()?;
    Some(first.and_then(|first| {
        let meaning = |e: serde_json::Error| Flaw::Meaning(e.to_string());
        let Version { version } = Version::deserialize(&first).map_err(meaning)?;
        if version > VERSION {
            return Ok(Beginning::Newer(version));
        }
        let Header { identity, .. } = Header::deserialize(&first).map_err(meaning)?;
        Ok(match identity {
            identity if identity != *ours => Beginning::Foreign(identity),
            _ if version < VERSION => Beginning::Older,
            _ => Beginning::Ours,
        })
    }))
}

/// Appends the first line to `lines`.
pub(super) fn write_beginning(identity: &Identity, chain: &mut Chain, lines: &mut Vec<u8>) {
    let version = Version { version: VERSION };
    let identity = identity.clone();
    chain.write(&Header { version, identity }, lines);
}

//! The compiled programs that are to run: those of the build, or others for whoever works on them.

use std::{borrow::Cow, fmt::Write as _, fs, path::Path};

use pcpm_ebpf::STEER_OBJECT;
use sha2::{Digest as _, Sha256};

use super::BpfError;

/// An object, and what tells it from others.
#[derive(Debug)]
pub(crate) struct Object {
    bytes: Cow<'static, [u8]>,
    hash: String,
}

impl Object {
    /// The object of the build.
    pub(crate) fn built_in() -> Self {
        Self::new(Cow::Borrowed(STEER_OBJECT))
    }

    /// The object at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, BpfError> {
        fs::read(path)
            .map(|bytes| Self::new(bytes.into()))
            .map_err(|e| BpfError::new(format!("read {}", path.display()), &e))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The beginning of its hash, in hexadecimal digits.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    fn new(bytes: Cow<'static, [u8]>) -> Self {
        let digest = Sha256::digest(&bytes);
        let mut hash = String::new();
        for byte in &digest[..8] {
            // Writing to a string cannot fail.
            let _ = write!(hash, "{byte:02x}");
        }
        Self { bytes, hash }
    }
}

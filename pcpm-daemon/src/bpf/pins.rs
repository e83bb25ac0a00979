//! The directory under which maps and the uplink's program are pinned, on a bpf file system that is
//! mounted if it is missing and unmounted again by whoever mounted it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::BpfError;

/// A directory of pins. Dropping it keeps them: they survive the daemon on purpose.
#[derive(Debug)]
pub(crate) struct PinDir {
    path: PathBuf,
    mounted: Option<PathBuf>,
}

impl PinDir {
    /// Makes `path` an empty directory of pins; what an earlier daemon pinned there is removed.
    pub(crate) fn create(path: &Path) -> Result<Self, BpfError> {
        let mounted = mount_if_missing(path)?;
        let dir = Self { path: path.to_owned(), mounted };
        fs::create_dir_all(path).map_err(|e| failed("create", path, &e))?;
        dir.remove_pins()?;
        Ok(dir)
    }

    /// Where `name` is pinned.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the pins, the directory and the file system if [`create`](Self::create) mounted it.
    pub(crate) fn remove(self) -> Vec<BpfError> {
        let pins = self.remove_pins();
        let dir = match &self.mounted {
            Some(mounted) if *mounted == self.path => Ok(()),
            _ => fs::remove_dir(&self.path).map_err(|e| failed("remove", &self.path, &e)),
        };
        let mount = self.mounted.as_ref().map_or(Ok(()), |at| {
            umount(at).map_err(|e| BpfError::new(format!("unmount {}", at.display()), &e))
        });
        [pins, dir, mount].into_iter().filter_map(Result::err).collect()
    }

    fn remove_pins(&self) -> Result<(), BpfError> {
        let entries = fs::read_dir(&self.path).map_err(|e| failed("read", &self.path, &e))?;
        for entry in entries.filter_map(Result::ok) {
            fs::remove_file(entry.path()).map_err(|e| failed("unpin", &entry.path(), &e))?;
        }
        Ok(())
    }
}

/// Mounts a bpf file system for `path` unless it lies on one; says where. `/sys` takes no new
/// directories, so the file system is mounted on the part of the path that exists.
fn mount_if_missing(path: &Path) -> Result<Option<PathBuf>, BpfError> {
    if is_bpffs(existing_part(path)) {
        return Ok(None);
    }
    let at = match fs::create_dir_all(path) {
        Ok(()) => path,
        Err(_) => existing_part(path),
    };
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|e| BpfError::new(format!("mount a bpf file system at {}", at.display()), &e))?;
    Ok(Some(at.to_owned()))
}

fn existing_part(path: &Path) -> &Path {
    path.ancestors().find(|part| part.is_dir()).unwrap_or(path)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn failed(operation: &str, path: &Path, error: &io::Error) -> BpfError {
    BpfError::new(format!("{operation} {}", path.display()), error)
}

//! `STATE_DIR/pins`, a link to the directory of pins: hubs and slots belong to the maps there, so a daemon
//! with another `bpffs` must not take them over, and `--cleanup` finds both by either.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

const NAME: &str = "pins";

/// Where an earlier life on this state directory pinned, if it said so.
pub(crate) fn read(state_dir: &Path) -> Option<PathBuf> {
    fs::read_link(state_dir.join(NAME)).ok()
}

/// An error if an earlier life pinned elsewhere and its pins are still there.
pub(crate) fn refuse_other(state_dir: &Path, bpffs: &Path) -> anyhow::Result<()> {
    let other = read(state_dir).filter(|noted| noted != bpffs && noted.is_dir());
    let Some(other) = other else {
        return Ok(());
    };
    bail!(
        "bpffs: what is left in {} belongs to the pins in {}; start with `--bpffs {1}`, or remove all of it \
         with `pcpmd --cleanup`",
        state_dir.display(),
        other.display()
    );
}

/// Notes where this life pins.
pub(crate) fn write(state_dir: &Path, bpffs: &Path) -> anyhow::Result<()> {
    if read(state_dir).as_deref() == Some(bpffs) {
        return Ok(());
    }
    remove(state_dir)?;
    let path = state_dir.join(NAME);
    symlink(bpffs, &path).with_context(|| format!("create {}", path.display()))
}

/// Removes the note; fine if it is gone.
pub(crate) fn remove(state_dir: &Path) -> anyhow::Result<()> {
    let path = state_dir.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_directory_of_pins_is_refused_while_the_first_exists() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("bpf");
        fs::create_dir(&pins).unwrap();
        refuse_other(dir.path(), &pins).unwrap();
        write(dir.path(), &pins).unwrap();
        refuse_other(dir.path(), &pins).unwrap();
        let refused = refuse_other(dir.path(), Path::new("/elsewhere"));
        assert!(refused.unwrap_err().to_string().starts_with("bpffs: "));
        fs::remove_dir(&pins).unwrap();
        refuse_other(dir.path(), Path::new("/elsewhere")).unwrap();
        write(dir.path(), Path::new("/elsewhere")).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Path::new("/elsewhere"));
        remove(dir.path()).unwrap();
        assert_eq!(read(dir.path()), None);
    }
}

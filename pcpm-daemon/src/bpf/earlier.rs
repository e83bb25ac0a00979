//! What an earlier life left in its maps, looked at before anything is changed.

use std::os::fd::AsFd as _;

use pcpm_ebpf::abi::{ABI_VERSION, Config, names};

use super::{
    BpfError, PinDir,
    layout::{ADVICE, Layout},
    steering::open_array,
    sys,
    words::AttachmentWords,
};

/// What was there.
#[derive(Debug)]
pub(crate) struct Earlier {
    /// What its programs were told.
    pub(crate) config: Config,
    /// The slots that somebody held when it ended, in ascending order.
    pub(crate) attached: Vec<u32>,
}

impl Earlier {
    /// Looks; `None` if nothing was ever configured there. An error if it was another version.
    pub(crate) fn look(pins: &PinDir) -> Result<Option<Self>, BpfError> {
        let Some(config) = configuration(pins)? else {
            return Ok(None);
        };
        if !pins.has(names::ATTACHMENTS) {
            return Ok(None);
        }
        let (words, slots) = open_array(pins, names::ATTACHMENTS)?;
        let words = AttachmentWords::map(words.fd(), slots)
            .map_err(|e| BpfError::new(format!("map {} into memory", names::ATTACHMENTS), &e))?;
        Ok(Some(Self {
            config,
            attached: words.attached(),
        }))
    }
}

/// The version stands in the first word, whatever the rest; it is 0 as long as nothing was written.
fn configuration(pins: &PinDir) -> Result<Option<Config>, BpfError> {
    if !pins.has(names::CONFIG) {
        return Ok(None);
    }
    let what = || format!("read map {} of an earlier life", names::CONFIG);
    let (map, _) = open_array(pins, names::CONFIG)?;
    let layout = Layout::of(&map).map_err(|e| BpfError::new(what(), &e))?;
    let mut value = vec![0; layout.value as usize];
    sys::lookup(map.fd().as_fd(), &[0; 4], &mut value).map_err(|e| BpfError::new(what(), &e))?;
    let version = value
        .first_chunk()
        .map_or(0, |word| u32::from_ne_bytes(*word));
    match version {
        0 => Ok(None),
        ABI_VERSION => Ok(super::steering::plain_config(&value)),
        other => Err(BpfError {
            what: format!("go on with the maps of an earlier life at {}", pins.shown()),
            cause: format!("they have version {other}, this pcpmd needs {ABI_VERSION}; {ADVICE}"),
        }),
    }
}

//! What one may keep ready for a container, and what memory that takes.

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::Method;
use super::bundle::Bundle;
use super::network::Networks;
use crate::inside::in_threads;
use crate::memory::Memory;
use crate::plain::Netns;

const NAMESPACES: &str = "/run/kept";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// A network namespace with nothing in it.
    Namespace,
    /// One with a link, an address and routes.
    Link,
    /// A container in such a one that was created and not started.
    Created,
    /// A container in such a one that was started and does nothing.
    Pause,
}

/// Makes so many and says what memory all of them take.
pub(in crate::inside) fn keep(kept: Kept, count: u32) -> Result<Memory> {
    fs::create_dir_all(NAMESPACES)?;
    let networks = Networks::prepare(Method::OnDemand, count)?;
    let before = Memory::read([])?;
    let mut bundles = Vec::new();
    for index in 0..count {
        match kept {
            Kept::Namespace => {
                Netns::mounted(&Path::new(NAMESPACES).join(index.to_string()))?;
                networks.leave()?;
            }
            Kept::Link => networks.make(index).map(drop)?,
            Kept::Created | Kept::Pause => {
                let network = networks.make(index)?;
                let bundle = Bundle::idle("pause", index)?;
                let container = bundle.create(Some(&network))?;
                if kept == Kept::Pause {
                    container.start()?;
                }
                bundles.push(bundle);
            }
        }
    }
    let pids = bundles.iter().map(Bundle::pid).collect::<Result<Vec<_>>>();
    let used = pids.and_then(Memory::read);
    let deleted = in_threads(&bundles, Bundle::delete);
    deleted.into_iter().collect::<Result<()>>()?;
    Ok(used? - before)
}

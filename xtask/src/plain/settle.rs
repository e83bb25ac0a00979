//! Waiting for the kernel to finish destroying network namespaces, which it does in the background
//! and at the cost of whoever measures next.

use std::thread;

use anyhow::{Result, anyhow};

use super::message::{Link, Message};
use super::namespace::Netns;
use super::socket::RouteSocket;

const NEAR: Link<'_> = Link {
    name: "near",
    index: 0,
    mac: None,
};
const FAR: Link<'_> = Link {
    name: "far",
    index: 0,
    mac: None,
};

/// Returns when all namespaces that had no user before the call are gone.
///
/// # Errors
/// When the kernel refuses to make a namespace.
pub(crate) fn settle() -> Result<()> {
    // The kernel destroys namespaces in batches, one batch after the other (`cleanup_net`). Links
    // go early in a batch, so only the next batch's links tell that one is through.
    for _ in 0..2 {
        thread::spawn(outlive_a_namespace)
            .join()
            .map_err(|_| anyhow!("waiting for namespaces to go panicked"))??;
    }
    Ok(())
}

/// Makes a link into a namespace that is then left alone, and waits until the link is gone.
fn outlive_a_namespace() -> Result<()> {
    let doomed = Netns::create()?;
    let _own = Netns::create()?;
    let mut events = RouteSocket::listening_to_links()?;
    let veth = Message::new_veth(NEAR, FAR, doomed.raw(), 1500);
    RouteSocket::open()?.request("make a link to a doomed namespace", vec![veth])?;
    drop(doomed);
    events.wait_for(libc::RTM_DELLINK)
}

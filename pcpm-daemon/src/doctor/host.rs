//! The host as it is. Nothing here changes it: probes are closed again, paths are only looked at.

use super::NetworkFacts;

/// The facts of the host that this process runs on.
#[derive(Debug)]
pub(crate) struct Host {
    network: NetworkFacts,
}

impl Host {
    /// The host, with what is known of its network.
    pub(crate) fn new(network: NetworkFacts) -> Self {
        Self { network }
    }
}

//! The ring in which the programs tell of dropped packets.
#![expect(
    unsafe_code,
    reason = "reads records as they lie in the ring, and registers its descriptor with the runtime"
)]

use std::io;

use aya::maps::{Map, MapData, RingBuf};
use pcpm_ebpf::abi::{DropRecord, names};
use tokio::io::{Interest, unix::AsyncFd};

use super::{BpfError, PinDir, steering::use_map};

/// The reading end, before anybody listens.
pub(crate) struct DropEvents(RingBuf<MapData>);

/// The reading end. The kernel wakes it when records come after it was found empty, so a flood of them
/// wakes it once a batch.
pub(crate) struct DropInbox(AsyncFd<RingBuf<MapData>>);

impl DropEvents {
    /// Opens the ring; there is one reader.
    pub(crate) fn open(pins: &PinDir) -> Result<Self, BpfError> {
        use_map(pins, names::DROP_EVENTS, Map::RingBuf).map(Self)
    }

    /// Begins to listen, within a runtime.
    pub(crate) fn listen(self) -> io::Result<DropInbox> {
        // SAFETY: the ring owns its descriptor and keeps it as long as it is registered.
        let ring = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        Ok(DropInbox(ring))
    }
}

impl DropInbox {
    /// Waits for records and takes up to `most` of them.
    pub(crate) async fn take(&mut self, most: usize) -> io::Result<Vec<DropRecord>> {
        let mut ready = self.0.readable_mut().await?;
        let ring = ready.get_inner_mut();
        let mut records = Vec::new();
        while records.len() < most {
            let Some(item) = ring.next() else {
                ready.clear_ready();
                break;
            };
            records.extend(record(&item));
        }
        Ok(records)
    }
}

fn record(bytes: &[u8]) -> Option<DropRecord> {
    if bytes.len() < size_of::<DropRecord>() {
        return None;
    }
    // SAFETY: there are enough bytes, and every bit pattern is a record.
    Some(unsafe { bytes.as_ptr().cast::<DropRecord>().read_unaligned() })
}

//! The transport under a client's connection: zlink's Unix stream with a bound on what a client may
//! send without ending the message.

use pcpm_api::limits::MESSAGE_BYTES;
use tokio::net::UnixStream;
use zlink::{
    Error, Result,
    connection::socket::{self, ReadResult, Socket},
    tokio::unix::Stream,
};

/// A client's stream.
#[derive(Debug)]
pub(super) struct BoundedStream(Stream);

/// Its reading half.
#[derive(Debug)]
pub(super) struct BoundedRead {
    inner: <Stream as Socket>::ReadHalf,
    /// Bytes read since the last end of a message.
    unfinished: usize,
}

impl BoundedStream {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        Stream::try_from(stream).map(Self)
    }
}

impl Socket for BoundedStream {
    type ReadHalf = BoundedRead;
    type WriteHalf = <Stream as Socket>::WriteHalf;

    const CAN_TRANSFER_FDS: bool = true;

    fn split(self) -> (Self::ReadHalf, Self::WriteHalf) {
        let (inner, write) = self.0.split();
        (
            BoundedRead {
                inner,
                unfinished: 0,
            },
            write,
        )
    }
}

impl socket::ReadHalf for BoundedRead {
    async fn read(&mut self, buf: &mut [u8]) -> Result<ReadResult> {
        let result = self.inner.read(buf).await?;
        let read = &buf[..result.bytes_read()];
        self.unfinished = match read.iter().rposition(|&byte| byte == 0) {
            Some(end) => read.len() - end - 1,
            None => self.unfinished + read.len(),
        };
        if self.unfinished > MESSAGE_BYTES {
            return Err(Error::BufferOverflow);
        }
        Ok(result)
    }
}

//! Unary calls of gRPC over a Unix socket: a message there, a message back, or the reason why not. A connection for each call,
//! so that nothing has to be kept alive, and an engine may restart between any two.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use h2::client::{self, ResponseFuture};
use http::{HeaderMap, Request};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use tokio::net::UnixStream;

use crate::PATIENCE;

/// In front of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Calls `method` (`/package.Service/Method`) of the server at `socket`.
pub(crate) fn call<A: Message + Default>(
    socket: &Path,
    method: &str,
    question: &impl Message,
) -> Result<A> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, exchange(socket, method, question)).await
    });
    let answer = answer.with_context(|| format!("no answer within {PATIENCE:?}"));
    answer.flatten().with_context(|| format!("call {method}"))
}

async fn exchange<A: Message + Default>(
    socket: &Path,
    method: &str,
    question: &impl Message,
) -> Result<A> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {}", socket.display()))?;
    let (requests, connection) = client::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = requests.ready().await?.send_request(request, false)?;
    body.send_data(framed(question), true)?;
    answer(response).await
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put(&message.encode_to_vec()[..]);
    bytes.freeze()
}

async fn answer<A: Message + Default>(response: ResponseFuture) -> Result<A> {
    let (head, mut body) = response.await?.into_parts();
    ensure!(head.status.is_success(), "HTTP status {}", head.status);
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    // Without a message the status comes in front.
    check(&body.trailers().await?.unwrap_or(head.headers))?;
    ensure!(bytes.len() >= PREFIX, "an answer of {} bytes", bytes.len());
    ensure!(bytes[0] == 0, "the answer is compressed");
    Ok(A::decode(&bytes[PREFIX..])?)
}

fn check(trailers: &HeaderMap) -> Result<()> {
    let text = |name: &str| {
        trailers
            .get(name)
            .map(|value| value.to_str().unwrap_or("?"))
    };
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(code) => bail!("gRPC {code}: {}", text("grpc-message").unwrap_or_default()),
        None => bail!("no gRPC status"),
    }
}

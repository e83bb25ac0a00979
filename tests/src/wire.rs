//! A bare Varlink connection: JSON messages that end in a zero byte, with nothing of the product's
//! own clients in between, so that anything can be sent and every byte of the answer is seen.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::PATIENCE;

const INTERFACE: &str = pcpm_api::INTERFACE_NAME;

/// A connection to the daemon's socket.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Wire {
    /// Connects to `socket`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Sends `bytes` as they are.
    ///
    /// # Errors
    /// When the other side does not take them.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("write to the socket")
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the other side does not take it.
    pub fn send(&mut self, message: &Value) -> Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        bytes.push(0);
        self.send_bytes(&bytes)
    }

    /// From now on sending fails where it would wait.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn never_block(&mut self) -> Result<()> {
        self.stream
            .set_nonblocking(true)
            .context("make the socket non-blocking")
    }

    /// Ends the sending direction.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn finish(&mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("shut down")
    }

    /// The next message; `None` when the other side has closed the connection.
    ///
    /// # Errors
    /// When nothing comes, or something that is no JSON.
    pub fn receive(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == 0) {
                let rest = self.received.split_off(end + 1);
                let message = std::mem::replace(&mut self.received, rest);
                return Ok(Some(serde_json::from_slice(&message[..end])?));
            }
            if !self.read_more()? {
                return Ok(None);
            }
        }
    }

    /// Sends a call of `method` (without the interface's name) and waits for its reply, either the
    /// parameters or the error.
    ///
    /// # Errors
    /// When there is no reply.
    pub fn try_call(&mut self, method: &str, parameters: &Value) -> Result<Result<Value, Refusal>> {
        self.send(&json!({"method": format!("{INTERFACE}.{method}"), "parameters": parameters}))?;
        let reply = self
            .receive()?
            .with_context(|| format!("{method}: the daemon closed the connection"))?;
        Ok(outcome(reply))
    }

    /// Calls `method`, which must succeed.
    ///
    /// # Errors
    /// When it is refused.
    pub fn call<T: DeserializeOwned>(&mut self, method: &str, parameters: &Value) -> Result<T> {
        let reply = self
            .try_call(method, parameters)?
            .map_err(|refusal| anyhow!("{method}: {refusal:?}"))?;
        serde_json::from_value(reply).with_context(|| format!("{method}: unexpected reply"))
    }

    /// Calls `method`, which must be refused.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused(&mut self, method: &str, parameters: &Value) -> Result<Refusal> {
        match self.try_call(method, parameters)? {
            Ok(reply) => bail!("{method} succeeded and should not: {reply}"),
            Err(refusal) => Ok(refusal),
        }
    }

    /// Calls `method` for a stream of replies, to be taken with [`Self::next_reply`].
    ///
    /// # Errors
    /// When the other side does not take the call.
    pub fn stream(&mut self, method: &str, parameters: &Value) -> Result<()> {
        let method = format!("{INTERFACE}.{method}");
        self.send(&json!({"method": method, "parameters": parameters, "more": true}))
    }

    /// The parameters of the next reply of a stream.
    ///
    /// # Errors
    /// When the stream ends or the reply is an error.
    pub fn next_reply<T: DeserializeOwned>(&mut self) -> Result<T> {
        let reply = self.receive()?.context("the stream ended")?;
        let reply = outcome(reply).map_err(|refusal| anyhow!("{refusal:?}"))?;
        serde_json::from_value(reply).context("unexpected reply")
    }

    fn read_more(&mut self) -> Result<bool> {
        let mut buffer = [0; 8 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            // A process that was stopped and goes on finds its timed reads interrupted.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error).context("read from the socket"),
        }
    }
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name without the interface's: `NoSuchAttachment`, `MethodNotFound`, ...
    pub name: String,
    /// What it says.
    pub parameters: Value,
}

fn outcome(mut reply: Value) -> Result<Value, Refusal> {
    let parameters = match reply["parameters"].take() {
        Value::Null => json!({}),
        parameters => parameters,
    };
    match reply["error"].as_str() {
        None => Ok(parameters),
        Some(error) => Err(Refusal {
            name: error.rsplit('.').next().unwrap_or(error).to_owned(),
            parameters,
        }),
    }
}

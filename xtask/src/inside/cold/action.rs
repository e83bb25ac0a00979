//! Both sides of OpenWhisk's action interface: `POST /init` once, then `POST /run`, on port 8080. The function returns its
//! parameters: what is measured is how soon, not what.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_mins(1);
/// A request or an answer that is longer is none.
const LONGEST: usize = 1 << 20;

/// Serves until it is killed. The first line on standard output says that it listens.
pub(in crate::inside) fn serve(unix: Option<&Path>) -> Result<()> {
    let mut function = Function::default();
    if let Some(path) = unix {
        let listener = UnixListener::bind(path).context("listen")?;
        println!("ready");
        loop {
            let (stream, _) = listener.accept()?;
            let _ = function.answer_all(&stream, &stream);
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("listen")?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let _ = function.answer_all(&stream, &stream);
    }
}

/// Initialises the function at `address` and has it run.
pub(super) fn invoke_at(address: Ipv4Addr) -> Result<()> {
    let address = SocketAddr::from((address, PORT));
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    invoke(&stream, &stream)
}

/// The same through a Unix socket.
pub(super) fn invoke_through(socket: &Path) -> Result<()> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    invoke(&stream, &stream)
}

fn invoke(read: impl Read, mut write: impl Write) -> Result<()> {
    let mut read = BufReader::new(read);
    let init = json!({"value": {
        "name": "hello", "main": "main", "code": "(parameters) => parameters", "binary": false,
    }});
    let (status, _) = ask(&mut read, &mut write, "/init", &init)?;
    ensure!(status == 200, "/init answered {status}");
    let run = json!({
        "value": {"greeting": "hello"}, "namespace": "guest", "action_name": "/guest/hello",
        "activation_id": "1", "deadline": 60_000,
    });
    let (status, answer) = ask(&mut read, &mut write, "/run", &run)?;
    ensure!(
        status == 200 && answer == run["value"],
        "/run answered {status}: {answer}"
    );
    Ok(())
}

fn ask(
    read: &mut impl BufRead,
    write: &mut impl Write,
    path: &str,
    body: &Value,
) -> Result<(u16, Value)> {
    let body = body.to_string();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: action\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    write.write_all(request.as_bytes())?;
    let Message { first_line, body } = Message::read(read)?.context("no answer")?;
    let status = first_line.split(' ').nth(1).context("no status")?;
    Ok((status.parse()?, body))
}

/// The function, and whether it was given its code.
#[derive(Default)]
struct Function {
    initialised: bool,
}

impl Function {
    fn answer_all(&mut self, read: impl Read, mut write: impl Write) -> Result<()> {
        let mut read = BufReader::new(read);
        while let Some(request) = Message::read(&mut read)? {
            let (status, body) = self.answer(request);
            let body = body.to_string();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            write.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn answer(&mut self, request: Message) -> (&'static str, Value) {
        let refused = |reason: &str| json!({"error": reason});
        let mut value = request.body;
        let value = value["value"].take();
        match request.first_line.split(" HTTP/").next() {
            Some("POST /init") if self.initialised => {
                ("403 Forbidden", refused("initialised before"))
            }
            Some("POST /init") if value["code"].is_string() => {
                self.initialised = true;
                ("200 OK", json!({"ok": true}))
            }
            Some("POST /init") => ("502 Bad Gateway", refused("no code to execute")),
            Some("POST /run") if !self.initialised => {
                ("502 Bad Gateway", refused("not initialised"))
            }
            Some("POST /run") => ("200 OK", value),
            _ => ("404 Not Found", refused("not part of the interface")),
        }
    }
}

/// An HTTP request or answer with JSON in it.
struct Message {
    first_line: String,
    body: Value,
}

impl Message {
    /// Reads one; `None` at the end.
    fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let mut first_line = String::new();
        if from.read_line(&mut first_line)? == 0 {
            return Ok(None);
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                bail!("it ends within the headers");
            }
            if line.trim_end().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        ensure!(length <= LONGEST, "{length} bytes are too many");
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).context("its body")?;
        let first_line = first_line.trim_end().to_owned();
        Ok(Some(Self { first_line, body }))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_function_is_initialised_once_and_then_run() {
        let (client, server) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || Function::default().answer_all(&server, &server));
        invoke(&client, &client).unwrap();
        let again = json!({"value": {"code": ""}});
        let mut read = BufReader::new(&client);
        let (status, _) = ask(&mut read, &mut &client, "/init", &again).unwrap();
        assert_eq!(status, 403);
        drop(read);
        drop(client);
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn a_function_without_code_does_not_run() {
        let run = Message {
            first_line: "POST /run HTTP/1.1".into(),
            body: json!({"value": {}}),
        };
        let (status, _) = Function::default().answer(run);
        assert!(status.starts_with("502"), "{status}");
    }
}

//! A scripted daemon on a socket of its own, and the real `pcpm` talking to it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the daemon does with a call.
pub(crate) enum Answer {
    /// Replies with these parameters.
    Result(Value),
    /// Replies with these parameters, then closes the connection.
    ResultThenHangUp(Value),
    /// Replies with several frames and keeps the connection.
    Frames(Vec<Value>),
    /// Replies with several frames, then closes the connection.
    FramesThenHangUp(Vec<Value>),
    /// Replies with these parameters and this network namespace as descriptor 0.
    WithNetns(Value, PathBuf),
    /// Replies with this error.
    Error(&'static str, Value),
    /// Closes the connection.
    HangUp,
}

/// What the daemon saw.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// A call: its method without the interface, and its parameters.
    Call(String, Value),
    /// The end of a connection.
    Closed,
}

/// A daemon that answers calls as its script says, one thread per connection.
pub(crate) struct Daemon {
    directory: TempDir,
    seen: Receiver<Seen>,
}

impl Daemon {
    /// Starts one; `script` gets the method without the interface, and the parameters.
    pub(crate) fn start(script: impl Fn(&str, &Value) -> Answer + Clone + Send + 'static) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let (sender, seen) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, sender) = (script.clone(), sender.clone());
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while let Some((method, parameters)) = read_call(&mut stream) {
                        let answer = script(&method, &parameters);
                        // The test may have ended, and with it its interest.
                        let _ = sender.send(Seen::Call(method, parameters));
                        if !reply(&stream, answer) {
                            break;
                        }
                    }
                    let _ = sender.send(Seen::Closed);
                });
            }
        });
        Self { directory, seen }
    }

    /// A daemon that answers every call alike.
    pub(crate) fn answering(answer: impl Fn() -> Answer + Clone + Send + 'static) -> Self {
        Self::start(move |_, _| answer())
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// The next thing it sees.
    pub(crate) fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }

    /// The command line, told to use this daemon.
    pub(crate) fn pcpm<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        pcpm(&self.socket(), words)
    }

    /// Runs the command line to its end.
    pub(crate) fn run(&self, words: &str) -> Outcome {
        Outcome::of(self.pcpm(words.split_whitespace()))
    }
}

/// The command line, told to use the daemon at `socket`.
pub(crate) fn pcpm<S: AsRef<OsStr>>(socket: &Path, words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pcpm"));
    command.args(words);
    command.env("PCPM_SOCKET", socket).stdin(Stdio::null());
    command
}

/// How a run of the command line ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(mut command: Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Self {
            code: status.code().unwrap(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// An attachment of `owner`.
pub(crate) fn attachment(owner: &str) -> Value {
    json!({
        "id": "7-3", "owner": owner, "tenant": "default", "class": "default", "slot": "s0007", "epoch": 3,
        "netns": "/run/pcpm/netns/s0007", "interface": "eth0", "addresses": ["10.213.0.7"],
        "inner_addresses": ["10.213.0.7"], "gateways": ["169.254.1.1"], "mac": "02:00:00:00:00:07", "mtu": 1500, "publish": [], "allow": [], "deny": [],
        "labels": {"app": "web"}, "lease": "explicit", "source": "warm", "took_us": 12,
        "attached_at_ms": 1_700_000_000_000_u64,
        "uid": 0
    })
}

/// The parameters of a `Status` reply of a pool with 8 slots.
pub(crate) fn status() -> Value {
    let took = json!({"count": 1, "p50_us": 14, "p90_us": 14, "p99_us": 14, "max_us": 14});
    json!({
        "version": "0.1.0", "uptime_s": 61, "draining": false, "pool_cidr": "10.213.0.0/16",
        "slots": counts(),
        "target": {"mode": "fixed", "target": 6, "floor": 6, "ceiling": 6, "burst": 0, "refill_per_s": 500,
                   "reason": "fixed"},
        "published_ports": 0, "flows": flow_table(), "clients": 1, "waiting": [], "drops": [], "failures": [], "warnings": [],
        "attach": {"warm": 1, "cold": 0, "detached": 0, "exhausted": 0, "refused": 0},
        "attach_latency": took,
        "refill": {"created": 8, "retired": 0, "failed": 0, "create": took, "namespace": took,
                   "mount": took, "link": took, "configure": took},
        "memory": {"daemon_rss_bytes": 4_000_000}
    })
}

/// A flow table with a few flows.
fn flow_table() -> Value {
    json!({"capacity": 1000, "used": 10, "per_slot": 250, "opened": 12, "collected": 2, "pass_us": 80,
           "refused_limit": 0, "refused_full": 0, "refused_ports": 0})
}

/// Counts of a pool with 8 slots.
pub(crate) fn counts() -> Value {
    json!({"ready": 5, "attached": 1, "creating": 1, "retiring": 0, "failed": 1, "vacant": 0,
           "capacity": 8, "target": 6, "waiting": 0, "beyond": 0, "kept": 0, "reserved": 0})
}

fn read_call(stream: &mut UnixStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).ok()? == 1 {
        if byte[0] != 0 {
            bytes.push(byte[0]);
            continue;
        }
        let mut call: Value = serde_json::from_slice(&bytes).unwrap();
        let method = call["method"].as_str().unwrap();
        let method = method.strip_prefix("io.pcpm.Pool.").unwrap().to_owned();
        return Some((method, call["parameters"].take()));
    }
    None
}

/// Whether the connection goes on.
fn reply(stream: &UnixStream, answer: Answer) -> bool {
    match answer {
        Answer::Result(parameters) => send(stream, &json!({ "parameters": parameters }), &[]),
        Answer::ResultThenHangUp(parameters) => {
            reply(stream, Answer::Result(parameters));
            false
        }
        Answer::Frames(frames) => frames.into_iter().all(|frame| {
            send(
                stream,
                &json!({"parameters": frame, "continues": true}),
                &[],
            )
        }),
        Answer::FramesThenHangUp(frames) => {
            reply(stream, Answer::Frames(frames));
            false
        }
        Answer::WithNetns(mut parameters, netns) => {
            let netns = File::open(netns).unwrap();
            parameters["netns_fd"] = 0.into();
            send(
                stream,
                &json!({ "parameters": parameters }),
                &[netns.as_raw_fd()],
            )
        }
        Answer::Error(name, parameters) => {
            let error = format!("io.pcpm.Pool.{name}");
            send(
                stream,
                &json!({"error": error, "parameters": parameters}),
                &[],
            )
        }
        Answer::HangUp => false,
    }
}

/// Whether the client still listens.
fn send(stream: &UnixStream, message: &Value, fds: &[i32]) -> bool {
    let mut bytes = message.to_string().into_bytes();
    bytes.push(0);
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[] } else { &rights[..] };
    let slices = [IoSlice::new(&bytes)];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &slices,
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .is_ok()
}

//! Everything that comes from outside, each from a thread of its own that may wait, in one bounded queue.

use std::{io, path::Path, sync::mpsc::SyncSender, thread, time::Duration};

use anyhow::{Context, Result};
use crossterm::event::{self, Event, KeyEvent, KeyEventKind, MouseEvent};
use nix::sys::signal::Signal;
use pcpm_api::{
    client::{Client, ClientError},
    types::{GetReply, WatchFrame, WatchRequest},
};

use super::state::Replay;
use crate::{render::humanise::now_ms, signals::Signals};

/// Things that may wait to be looked at. A thread that is faster waits itself.
pub(crate) const QUEUE: usize = 256;

/// Something that came.
#[derive(Debug)]
pub(crate) enum Arrival {
    Frame(Box<WatchFrame>),
    /// The connection is gone, and is tried again at that time.
    Lost {
        reason: String,
        retry_ms: u64,
    },
    /// A replay begins anew, to go on from another place.
    Restart,
    Replayed(Replay),
    Key(KeyEvent),
    Mouse(MouseEvent),
    Resized,
    Signal(Signal),
    /// The daemon told all about an owner's attachment.
    Told(String, Result<Box<GetReply>, String>),
    /// Something that was to be done, is; or why not.
    Done(Result<String, String>),
    TerminalGone,
}

/// Where arrivals go. Sending fails when nobody wants any more.
pub(crate) type Inbox = SyncSender<Arrival>;

/// Pauses between attempts to connect, growing.
struct Backoff(Duration);

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(8);

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        pause
    }

    fn reset(&mut self) {
        self.0 = Self::SHORTEST;
    }
}

/// What the dashboard wants to hear.
pub(crate) fn request(interval: Duration) -> WatchRequest {
    WatchRequest {
        interval_ms: Some(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)),
        locks: Some(true),
        figures: Some(true),
        usage: Some(true),
    }
}

/// Follows the daemon, and comes back to it whenever it can.
pub(crate) fn follow(socket: &Path, request: WatchRequest, inbox: Inbox) -> Result<()> {
    let socket = socket.to_owned();
    spawn("watch", move || {
        let mut backoff = Backoff(Backoff::SHORTEST);
        loop {
            let Some(error) = listen(&socket, &request, &inbox, &mut backoff) else {
                return;
            };
            let pause = backoff.next();
            let retry_ms = now_ms() + u64::try_from(pause.as_millis()).unwrap_or(0);
            let reason = whole_cause(&error);
            if inbox.send(Arrival::Lost { reason, retry_ms }).is_err() {
                return;
            }
            thread::sleep(pause);
        }
    })
}

/// Hands on frames until the connection ends with an error, or nobody wants them any more.
fn listen(
    socket: &Path,
    request: &WatchRequest,
    inbox: &Inbox,
    backoff: &mut Backoff,
) -> Option<ClientError> {
    let frames = match Client::connect(socket).and_then(|client| client.watch(request)) {
        Ok(frames) => frames,
        Err(error) => return Some(error),
    };
    for frame in frames {
        match frame {
            Ok(frame) => {
                backoff.reset();
                inbox.send(Arrival::Frame(Box::new(frame))).ok()?;
            }
            Err(error) => return Some(error),
        }
    }
    Some(ClientError::Lost {
        method: "Watch".into(),
        socket: socket.to_owned(),
        source: io::Error::other("the daemon ended it"),
    })
}

/// An error and what caused it, in one line.
pub(crate) fn whole_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Reads keys and the mouse.
pub(crate) fn read_terminal(inbox: Inbox) -> Result<()> {
    spawn("keys", move || {
        loop {
            let arrival = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Arrival::Key(key),
                Ok(Event::Mouse(mouse)) => Arrival::Mouse(mouse),
                Ok(Event::Resize(..)) => Arrival::Resized,
                Ok(_) => continue,
                Err(_) => Arrival::TerminalGone,
            };
            let is_last = matches!(arrival, Arrival::TerminalGone);
            if inbox.send(arrival).is_err() || is_last {
                return;
            }
        }
    })
}

/// Reads signals that were caught before.
pub(crate) fn read_signals(signals: Signals, inbox: Inbox) -> Result<()> {
    spawn("signals", move || {
        while let Ok(arrived) = signals.next() {
            if inbox.send(Arrival::Signal(arrived.signal)).is_err() {
                return;
            }
        }
    })
}

/// Does something that takes a while, and hands on what comes of it.
pub(crate) fn ask(inbox: Inbox, work: impl FnOnce() -> Arrival + Send + 'static) -> Result<()> {
    spawn("ask", move || {
        // Nobody wants to know any more: the program ends.
        let _ = inbox.send(work());
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new()
        .name(format!("top-{name}"))
        .spawn(run);
    spawned.with_context(|| format!("start the thread '{name}'"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff(Backoff::SHORTEST);
        let pauses: Vec<_> = (0..7).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 8000]);
        backoff.reset();
        assert_eq!(backoff.next(), Backoff::SHORTEST);
    }
}

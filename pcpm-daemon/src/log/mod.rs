//! The log: each event of `tracing` becomes one line, which a thread of its own writes out. Whoever logs never
//! waits for whoever reads: the queue before that thread is bounded, and lines it has no room for are counted.

mod human;
mod journald;
mod json;
mod line;
mod outlet;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Display,
    io::IsTerminal as _,
    panic,
};

use anyhow::Context as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{self, SubscriberExt as _},
    reload,
    util::SubscriberInitExt as _,
};

use crate::config::LogFormat;
use human::Human;
use line::Line;
use outlet::{Outlet, Sink};

pub(crate) use outlet::lost_lines;

/// The log of this process. Dropping it writes out what is queued, as far as somebody reads it.
pub(crate) struct Log {
    outlet: Outlet,
    format: Format,
    filter: reload::Handle<Targets, Registry>,
}

/// How lines are written.
#[derive(Clone, Copy)]
enum Format {
    Human(Human),
    Json,
    Journald,
}

impl Log {
    /// Begins to log, in the format asked for, what passes `filter`.
    ///
    /// # Errors
    /// When the journal is asked for and is not there.
    pub(crate) fn start(format: LogFormat, filter: Targets) -> anyhow::Result<Self> {
        let (format, sink) = opened(format)?;
        let outlet = Outlet::open(sink, move |lost| format.encode(&Line::of_lost(lost)))
            .context("start the thread that writes the log")?;
        let (filter, handle) = reload::Layer::new(filter);
        let lines = Lines {
            outlet: outlet.clone(),
            format,
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .context("start the log")?;
        log_panics();
        Ok(Self {
            outlet,
            format,
            filter: handle,
        })
    }

    /// Logs what passes `filter` from now on.
    pub(crate) fn set_filter(&self, filter: Targets) {
        let changed = self.filter.reload(filter);
        changed.expect("the log lives as long as the process");
    }

    /// Says why the process ends, whatever is filtered: a person gets the line that any program would print.
    pub(crate) fn failure(&self, reason: impl Display) {
        let reason = reason.to_string();
        self.outlet.write(match self.format {
            Format::Human(_) => human::plain(&reason),
            _ => self.format.encode(&Line::of_failure(reason)),
        });
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.outlet.flush();
    }
}

impl Format {
    fn encode(self, line: &Line) -> Vec<u8> {
        match self {
            Self::Human(human) => human.encode(line),
            Self::Json => json::encode(line),
            Self::Journald => journald::encode(line),
        }
    }
}

/// Where lines go, and how they are written there.
fn opened(format: LogFormat) -> anyhow::Result<(Format, Sink)> {
    let human = || {
        let is_coloured = std::io::stderr().is_terminal();
        (Format::Human(Human { is_coloured }), Sink::Stderr)
    };
    let journal = || {
        let socket = journald::connect().context("log to the journal")?;
        anyhow::Ok((Format::Journald, Sink::Journal(socket)))
    };
    match format {
        LogFormat::Json => Ok((Format::Json, Sink::Stderr)),
        LogFormat::Journald => journal(),
        LogFormat::Auto if journald::reads_stderr() => Ok(journal().unwrap_or_else(|_| human())),
        LogFormat::Human | LogFormat::Auto => Ok(human()),
    }
}

/// Makes lines of events.
struct Lines {
    outlet: Outlet,
    format: Format,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        self.outlet.write(self.format.encode(&Line::of(event)));
    }
}

/// Panics are lines of the log like others; with a backtrace if `RUST_BACKTRACE` asks for one.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!(%backtrace, "{panic}");
        } else {
            tracing::error!("{panic}");
        }
    }));
}

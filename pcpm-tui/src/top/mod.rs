//! `pcpm top`, the dashboard: what arrives ([`feed`]) becomes actions, actions and frames change the state
//! ([`state`]), the screen is made of the state ([`view`]). This file is the loop that carries them from one to the
//! other.

mod action;
mod config;
mod export;
mod feed;
#[cfg(test)]
mod fixture;
mod keys;
mod num;
mod recording;
mod state;
mod terminal;
mod view;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use nix::sys::signal::Signal;
use pcpm_api::{
    client::Client,
    types::{DrainRequest, ResizeRequest},
};
use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
};

use self::{
    action::Action,
    feed::{Arrival, Inbox},
    keys::Keys,
    recording::{Control, Recorder, Recording},
    state::{Effect, Link, Mode, State, input::Typed, overlay::Request},
    terminal::Screen,
    view::theme::{Depth, Theme},
};
use crate::{
    cli::TopArgs,
    render::humanise::now_ms,
    signals::{Signals, stop_myself},
};

pub(crate) use self::{action::View, config::Config, view::theme::ThemeName};

/// The screen is drawn at most this often for what arrives by itself; a key is answered at once.
const SHORTEST_FRAME: Duration = Duration::from_millis(100);

/// Ages on the screen are right to the second.
const TICK: Duration = Duration::from_secs(1);

/// Signals that end the dashboard, and those around a stop.
const SIGNALS: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Does what the command line says.
pub(crate) fn run(socket: &Path, args: &TopArgs, colour: bool) -> Result<ExitCode> {
    let mut config = Config::load(args.config.as_deref())?;
    args.apply(&mut config);
    let keys = config.bindings().map_err(anyhow::Error::msg)?;
    if args.print_keys {
        crate::commands::print_text(&keys.print())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.print_config {
        crate::commands::print_text(&(config.print()? + "\n" + &keys.print()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let theme = Theme {
        name: config.theme,
        depth: depth(colour),
        ascii: config.ascii || !speaks_unicode(),
    };
    let source = Source::new(socket, args, &config)?;
    if args.once {
        once(source, args, &config, theme)
    } else {
        Dashboard::start(source, args, &config, keys, theme)?.run()
    }
}

/// How many colours the terminal says that it has.
fn depth(colour: bool) -> Depth {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (many, term) = (variable("COLORTERM"), variable("TERM"));
    match () {
        () if !colour || term == "dumb" => Depth::None,
        () if many == "truecolor" || many == "24bit" => Depth::True,
        () if term.contains("256color") || term.contains("kitty") => Depth::Indexed,
        () => Depth::Sixteen,
    }
}

/// Whether the locale has more than ASCII; the first variable that says something counts.
fn speaks_unicode() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let said = names.iter().filter_map(|name| std::env::var(name).ok());
    let locale = said.into_iter().find(|value| !value.is_empty());
    locale.is_none_or(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// Where frames come from.
enum Source {
    Daemon {
        socket: PathBuf,
        interval: Duration,
    },
    Recording {
        recording: Recording,
        speed: f64,
        at: Duration,
    },
}

impl Source {
    fn new(socket: &Path, args: &TopArgs, config: &Config) -> Result<Self> {
        Ok(match &args.replay {
            Some(path) => Self::Recording {
                recording: Recording::open(path)?,
                speed: args.speed,
                at: args.at.unwrap_or_default(),
            },
            None => Self::Daemon {
                socket: socket.to_owned(),
                interval: Duration::from_millis(config.interval_ms),
            },
        })
    }
}

/// One frame as text. Of a daemon two are waited for, so that there are rates.
fn once(source: Source, args: &TopArgs, config: &Config, theme: Theme) -> Result<ExitCode> {
    let mut state = new_state(args, config);
    state.tick(now_ms());
    match source {
        Source::Daemon { socket, interval } => {
            let mut told = 0;
            for frame in Client::connect(&socket)?.watch(&feed::request(interval))? {
                let frame = frame?;
                told += u32::from(frame.figures.is_some());
                state.take(frame);
                if told == 2 {
                    break;
                }
            }
            if told == 0 {
                bail!("this pcpmd tells no figures: it is older than this pcpm");
            }
        }
        Source::Recording {
            mut recording, at, ..
        } => {
            let until = args.at.map_or(usize::MAX, |_| {
                recording
                    .until(u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
                    .max(1)
            });
            let end = recording.until(u64::MAX / 2).min(until);
            for number in 0..end {
                state.take(recording.frame(number)?);
            }
        }
    }
    let (width, height) = args.size.unwrap_or_else(usual_size);
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    let keys = Keys::default();
    view::draw(&state, &keys, theme, &mut buffer);
    crate::commands::print_text(&view::text::of_buffer(&buffer, theme.depth != Depth::None))?;
    Ok(ExitCode::SUCCESS)
}

/// That of the terminal, or what most can show.
fn usual_size() -> (u16, u16) {
    crossterm::terminal::size().unwrap_or((120, 40))
}

fn new_state(args: &TopArgs, config: &Config) -> State {
    let mut state = State::new(Mode {
        read_only: config.read_only,
    });
    state.view = args.view;
    state.mouse = config.mouse;
    state
}

/// The running dashboard.
struct Dashboard {
    state: State,
    keys: Keys,
    theme: Theme,
    screen: Screen,
    hits: Vec<(Rect, Action)>,
    arrivals: Receiver<Arrival>,
    inbox: Inbox,
    /// To the replay, if one is watched.
    controls: Option<Sender<Control>>,
    recorder: Option<Recorder>,
    socket: Option<PathBuf>,
    /// The screen is not what the state says.
    dirty: bool,
    /// The user waits for it.
    urgent: bool,
    drawn: Instant,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Dashboard {
    fn start(
        source: Source,
        args: &TopArgs,
        config: &Config,
        keys: Keys,
        theme: Theme,
    ) -> Result<Self> {
        use std::io::IsTerminal as _;
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            bail!("'pcpm top' needs a terminal; 'pcpm top --once' prints one frame without");
        }
        let recorder = args.record.as_deref().map(Recorder::create).transpose()?;
        // Before there are threads, so that all of them leave these signals alone.
        let signals = Signals::catch(&SIGNALS)?;
        let (inbox, arrivals) = mpsc::sync_channel(feed::QUEUE);
        let mut socket_used = None;
        let controls = match source {
            Source::Daemon { socket, interval } => {
                feed::follow(&socket, feed::request(interval), inbox.clone())?;
                socket_used = Some(socket);
                None
            }
            Source::Recording {
                recording,
                speed,
                at,
            } => {
                let (controls, orders) = mpsc::channel();
                let inbox = inbox.clone();
                let player = thread::Builder::new().name("top-replay".to_owned());
                player
                    .spawn(move || recording::replay(recording, speed, at, &orders, &inbox))
                    .context("start the replay")?;
                Some(controls)
            }
        };
        let state = new_state(args, config);
        let screen = Screen::take(state.mouse)?;
        feed::read_signals(signals, inbox.clone())?;
        feed::read_terminal(inbox.clone())?;
        Ok(Self {
            state,
            keys,
            theme,
            screen,
            hits: Vec::new(),
            arrivals,
            inbox,
            controls,
            recorder,
            socket: socket_used,
            dirty: true,
            urgent: true,
            drawn: Instant::now(),
        })
    }

    fn run(mut self) -> Result<ExitCode> {
        loop {
            self.draw_if_due()?;
            let arrival = match self.arrivals.recv_timeout(self.patience()) {
                Ok(arrival) => arrival,
                Err(RecvTimeoutError::Timeout) => {
                    self.dirty |= self.state.tick(now_ms());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(ExitCode::SUCCESS),
            };
            self.dirty |= self.state.tick(now_ms());
            if self.handle(arrival)? == Then::End || self.drain()? == Then::End {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// Takes what waits already, before anything is drawn.
    fn drain(&mut self) -> Result<Then> {
        for _ in 0..feed::QUEUE {
            let Ok(arrival) = self.arrivals.try_recv() else {
                break;
            };
            if self.handle(arrival)? == Then::End {
                return Ok(Then::End);
            }
        }
        Ok(Then::GoOn)
    }

    /// How long nothing has to be done.
    fn patience(&self) -> Duration {
        if self.dirty {
            SHORTEST_FRAME.saturating_sub(self.drawn.elapsed())
        } else {
            TICK
        }
    }

    fn draw_if_due(&mut self) -> Result<()> {
        let is_due = self.urgent || self.drawn.elapsed() >= SHORTEST_FRAME;
        if !self.dirty || !is_due {
            return Ok(());
        }
        self.state.page = view::page(self.screen.height());
        let (state, keys, theme, hits) = (&self.state, &self.keys, self.theme, &mut self.hits);
        self.screen
            .draw(|buffer| *hits = view::draw(state, keys, theme, buffer))?;
        (self.dirty, self.urgent, self.drawn) = (false, false, Instant::now());
        Ok(())
    }

    fn handle(&mut self, arrival: Arrival) -> Result<Then> {
        match arrival {
            Arrival::Frame(frame) => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.write(&frame)?;
                }
                self.state.take(*frame);
                self.dirty = true;
            }
            Arrival::Lost { reason, retry_ms } => {
                self.state.lost(reason, retry_ms);
                self.dirty = true;
            }
            Arrival::Restart => self.state.restart(),
            Arrival::Replayed(replay) => {
                let link = Link::Replay(replay);
                self.dirty |= self.state.link != link;
                self.state.link = link;
            }
            Arrival::Key(key) => return self.key(key),
            Arrival::Mouse(mouse) => return self.mouse(mouse),
            Arrival::Resized => self.urge(),
            Arrival::Signal(signal) => return self.signal(signal),
            Arrival::Told(owner, reply) => {
                self.state.told(&owner, reply);
                self.urge();
            }
            Arrival::Done(result) => {
                self.state
                    .notify(result.unwrap_or_else(|reason| format!("not done: {reason}")));
                self.urge();
            }
            Arrival::TerminalGone => return Ok(Then::End),
        }
        Ok(Then::GoOn)
    }

    fn urge(&mut self) {
        (self.dirty, self.urgent) = (true, true);
    }

    fn signal(&mut self, signal: Signal) -> Result<Then> {
        match signal {
            Signal::SIGTSTP => self.suspend()?,
            // Somebody else may have had the terminal meanwhile.
            Signal::SIGCONT => {
                self.screen.again()?;
                self.urge();
            }
            _ => return Ok(Then::End),
        }
        Ok(Then::GoOn)
    }

    fn suspend(&mut self) -> Result<()> {
        self.screen.without(stop_myself)?;
        self.urge();
        Ok(())
    }

    fn key(&mut self, key: KeyEvent) -> Result<Then> {
        self.urge();
        let state = &self.state;
        let action = self.keys.find(key, |when| state.can(when));
        // A letter is a letter where one types; what ends the program does so everywhere.
        let is_letter = !key
            .modifiers
            .intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        let effect = match typed(key) {
            Some(typed) if state.is_typing() && (is_letter || action != Some(Action::Quit)) => {
                self.state.typed(typed)
            }
            _ => action.and_then(|action| self.state.act(action)),
        };
        effect.map_or(Ok(Then::GoOn), |effect| self.carry_out(effect))
    }

    fn mouse(&mut self, mouse: MouseEvent) -> Result<Then> {
        let at = Position::new(mouse.column, mouse.row);
        let action = match mouse.kind {
            MouseEventKind::Down(MouseButton::Left) => {
                let hit = self.hits.iter().rev().find(|(area, _)| area.contains(at));
                hit.map(|(_, action)| *action)
            }
            MouseEventKind::Down(MouseButton::Right) => Some(Action::Close),
            MouseEventKind::ScrollUp => Some(Action::Up),
            MouseEventKind::ScrollDown => Some(Action::Down),
            MouseEventKind::ScrollLeft => Some(Action::Back),
            MouseEventKind::ScrollRight => Some(Action::Forward),
            _ => None,
        };
        let Some(action) = action else {
            return Ok(Then::GoOn);
        };
        self.urge();
        let effect = self.state.act(action);
        effect.map_or(Ok(Then::GoOn), |effect| self.carry_out(effect))
    }

    fn carry_out(&mut self, effect: Effect) -> Result<Then> {
        match effect {
            Effect::Quit => return Ok(Then::End),
            Effect::Suspend => self.suspend()?,
            Effect::Redraw => self.screen.clear()?,
            Effect::NextTheme => {
                self.theme.name = self.theme.name.next();
                self.state
                    .notify(format!("theme: {}", self.theme.name.name()));
            }
            Effect::Mouse(mouse) => {
                self.screen.take_mouse(mouse)?;
                let whose = if mouse {
                    "the dashboard's"
                } else {
                    "the terminal's"
                };
                self.state.notify(format!("the mouse is {whose}"));
            }
            Effect::ExportJson => {
                let json = serde_json::to_string_pretty(&export::snapshot(&self.state));
                self.export("json", &json.context("write JSON")?);
            }
            Effect::ExportCsv => {
                let csv = export::csv(&self.state).unwrap_or_default();
                self.export("csv", &csv);
            }
            Effect::Details(owner) => self.ask_for_details(owner)?,
            Effect::Ask(request) => self.ask(request)?,
            Effect::Seek(by_ms) => self.control(Control::Seek(by_ms)),
            Effect::Speed(speed) => self.control(Control::Speed(speed)),
            Effect::Pause(paused) => self.control(Control::Pause(paused)),
        }
        Ok(Then::GoOn)
    }

    fn control(&mut self, control: Control) {
        if let Some(controls) = &self.controls {
            // A replay that failed has said so by standing still.
            let _ = controls.send(control);
        }
    }

    fn export(&mut self, extension: &str, content: &str) {
        let said = match export::write(now_ms(), extension, content) {
            Ok(path) => format!("written: {}", path.display()),
            Err(error) => format!("not written: {error:#}"),
        };
        self.state.notify(said);
    }

    fn ask_for_details(&mut self, owner: String) -> Result<()> {
        let Some(socket) = self.socket.clone() else {
            return Ok(());
        };
        feed::ask(self.inbox.clone(), move || {
            let told = Client::connect(&socket).and_then(|mut client| client.get(&owner));
            let told = told
                .map(Box::new)
                .map_err(|error| feed::whole_cause(&error));
            Arrival::Told(owner, told)
        })
    }

    fn ask(&mut self, request: Request) -> Result<()> {
        let Some(socket) = self.socket.clone() else {
            return Ok(());
        };
        self.state.notify("asked pcpmd".to_owned());
        feed::ask(self.inbox.clone(), move || {
            let result = carry_out_request(&socket, &request);
            Arrival::Done(
                result
                    .map(|()| request.done())
                    .map_err(|error| format!("{error:#}")),
            )
        })
    }
}

/// Has the daemon do something.
fn carry_out_request(socket: &Path, request: &Request) -> Result<()> {
    let mut client = Client::connect(socket)?;
    match request {
        Request::Detach { owner, slot, epoch } => {
            let held = client.get(owner)?.attachment;
            if held.slot != *slot || held.epoch != *epoch {
                bail!("'{owner}' has another attachment by now");
            }
            client.detach_only(owner, &held.id)?;
        }
        Request::Retire { slot } => client.retire(slot)?,
        Request::Drain { undo } => {
            client.drain(&DrainRequest {
                undo: undo.then_some(true),
                ..DrainRequest::default()
            })?;
        }
        Request::Resize { ready } => {
            let request = ResizeRequest {
                ready: Some(*ready),
                ..ResizeRequest::default()
            };
            client.resize(&request)?;
        }
    }
    Ok(())
}

/// What a key means to a line that is typed.
fn typed(key: KeyEvent) -> Option<Typed> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('w') if control => Typed::Word,
        KeyCode::Char('u') if control => Typed::Line,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(letter) => Typed::Letter(letter),
        KeyCode::Backspace => Typed::Backspace,
        KeyCode::Tab => Typed::Tab,
        KeyCode::Enter => Typed::Enter,
        KeyCode::Esc => Typed::Escape,
        KeyCode::Up => Typed::Up,
        KeyCode::Down => Typed::Down,
        _ => return None,
    })
}

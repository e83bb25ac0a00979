//! The terminal while it belongs to the dashboard, and giving it back whatever happens: at the end, before a stop, in
//! a panic.

use std::{
    io::{self, BufWriter, Stdout, Write as _},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use crossterm::{
    cursor, event, execute,
    terminal::{self, EnterAlternateScreen, LeaveAlternateScreen},
};
use ratatui::{Terminal, backend::CrosstermBackend, buffer::Buffer};

/// The terminal in our hands; dropping it gives it back.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    mouse: bool,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It is none, or is gone.
    pub(crate) fn take(mouse: bool) -> Result<Self> {
        give_back_in_a_panic();
        enter(mouse).context("prepare the terminal")?;
        let terminal = new_terminal().inspect_err(|_| leave())?;
        Ok(Self { terminal, mouse })
    }

    /// Shows what `draw` makes; only what changed is written.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> Result<()> {
        let drawn = self.terminal.draw(|frame| draw(frame.buffer_mut()));
        drawn.context("write to the terminal")?;
        Ok(())
    }

    /// Everything is written again the next time. The terminal's own way asks it where the cursor is, and the answer
    /// would go to whoever reads keys.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let cleared = execute!(io::stdout(), terminal::Clear(terminal::ClearType::All));
        cleared.context("clear the terminal")?;
        self.terminal = new_terminal()?;
        // The one before has shown the cursor as it went.
        execute!(io::stdout(), cursor::Hide).context("hide the cursor")
    }

    /// Rows of the screen.
    pub(crate) fn height(&self) -> u16 {
        self.terminal.size().map_or(24, |size| size.height)
    }

    /// Takes the mouse, or leaves it to the terminal.
    pub(crate) fn take_mouse(&mut self, mouse: bool) -> Result<()> {
        self.mouse = mouse;
        let result = if mouse {
            execute!(io::stdout(), event::EnableMouseCapture)
        } else {
            execute!(io::stdout(), event::DisableMouseCapture)
        };
        result.context("switch the mouse")
    }

    /// Gives the terminal back while `stopped` runs, and takes it again.
    pub(crate) fn without(&mut self, stopped: impl FnOnce() -> Result<()>) -> Result<()> {
        leave();
        stopped()?;
        self.again()
    }

    /// Takes the terminal again after somebody else had it.
    pub(crate) fn again(&mut self) -> Result<()> {
        enter(self.mouse).context("prepare the terminal")?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn new_terminal() -> Result<Terminal<CrosstermBackend<BufWriter<Stdout>>>> {
    let backend = CrosstermBackend::new(BufWriter::new(io::stdout()));
    Terminal::new(backend).context("ask the terminal for its size")
}

/// Whether the terminal is ours. Given back twice, it would put the cursor back over what was written meanwhile.
static IS_OURS: AtomicBool = AtomicBool::new(false);

fn enter(mouse: bool) -> io::Result<()> {
    IS_OURS.store(true, Ordering::Relaxed);
    terminal::enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
    if mouse {
        execute!(io::stdout(), event::EnableMouseCapture)?;
    }
    Ok(())
}

/// Also of a terminal that is gone: there is nobody to complain to.
fn leave() {
    if !IS_OURS.swap(false, Ordering::Relaxed) {
        return;
    }
    let _ = execute!(
        io::stdout(),
        event::DisableMouseCapture,
        LeaveAlternateScreen,
        cursor::Show
    );
    let _ = terminal::disable_raw_mode();
    let _ = io::stdout().flush();
}

/// A panic is told on a terminal that shows it. One in another thread than the first ends the program: nobody would
/// notice that keys, say, are not read any more.
fn give_back_in_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            leave();
            before(info);
            if std::thread::current().name() != Some("main") {
                std::process::exit(101);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs::File,
        io::Read as _,
        process::{Command, Stdio},
    };

    use nix::{
        pty::openpty,
        sys::termios::{LocalFlags, Termios, tcgetattr},
    };

    use super::*;

    /// Set for the process that a test starts in a terminal: what it is to do there.
    const INSIDE: &str = "PCPM_TEST_IN_A_TERMINAL";
    const WORDS: &str = "what went wrong";

    /// How the private modes of a terminal are after all that it was told.
    fn modes(told: &str) -> BTreeMap<&str, bool> {
        let mut modes = BTreeMap::new();
        for sequence in told.split("\u{1b}[?").skip(1) {
            let end = sequence.find(|c: char| !c.is_ascii_digit() && c != ';');
            let (numbers, rest) = sequence.split_at(end.unwrap_or(sequence.len()));
            for mode in numbers.split(';') {
                modes.insert(mode, rest.starts_with('h'));
            }
        }
        modes
    }

    /// Input, output and local flags; the rest is speeds and characters.
    fn flags(termios: &Termios) -> impl PartialEq + std::fmt::Debug {
        (
            termios.input_flags,
            termios.output_flags,
            termios.local_flags,
        )
    }

    /// Runs the calling test again, to do `what` in a terminal of its own, which must be as it was when it ends. Returns whether it
    /// succeeded, and what was written there.
    fn again_in_a_terminal(what: &str) -> (bool, String) {
        let this = std::thread::current();
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        assert!(before.local_flags.contains(LocalFlags::ICANON));
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this.name().unwrap(), "--nocapture"])
            .env(INSIDE, what)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let ended = {
            let slave = pty.slave.try_clone().unwrap();
            std::thread::spawn(move || (child.wait().unwrap(), tcgetattr(&slave).unwrap()))
        };
        drop(pty.slave);
        let mut told = Vec::new();
        // Ends with an error when nobody has the terminal any more.
        let _ = File::from(pty.master).read_to_end(&mut told);
        let (status, after) = ended.join().unwrap();
        assert_eq!(flags(&after), flags(&before));
        (status.success(), String::from_utf8(told).unwrap())
    }

    #[test]
    fn a_panic_gives_the_terminal_back_and_is_told_there() {
        if let Ok(thread) = std::env::var(INSIDE) {
            let panicking = std::thread::Builder::new().name(thread).spawn(|| {
                let _screen = Screen::take(true).unwrap();
                panic!("{WORDS}");
            });
            panicking.unwrap().join().unwrap();
        }
        // The first thread unwinds, any other one ends the program.
        for thread in ["main", "keys"] {
            let (succeeded, told) = again_in_a_terminal(thread);
            assert!(!succeeded, "{told:?}");
            let (before, after) = told.split_once(WORDS).expect("the panic is told");
            let taken = before.matches("\u{1b}[?1049h").count();
            assert_eq!(taken, 1, "{told:?}");
            for (mode, is_on) in modes(before) {
                // The cursor is on when it is shown, all else when it is taken.
                assert_eq!(is_on, mode == "25", "{mode} in {told:?}");
            }
            assert!(modes(after).is_empty(), "{told:?}");
        }
    }

    #[test]
    fn no_cursor_is_shown_in_a_terminal_that_is_taken_again() {
        if std::env::var(INSIDE).is_ok() {
            let mut screen = Screen::take(true).unwrap();
            screen.draw(|_| ()).unwrap();
            screen.again().unwrap();
            println!("{WORDS}");
            return;
        }
        let (succeeded, told) = again_in_a_terminal("take it again");
        assert!(succeeded, "{told:?}");
        let (before, _) = told.split_once(WORDS).expect("it was taken again");
        assert_eq!(modes(before).get("25"), Some(&false), "{told:?}");
    }
}

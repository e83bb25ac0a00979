//! The terminal while it belongs to the dashboard, and giving it back whatever happens: at the end, before a stop, in
//! a panic.

use std::{
    io::{self, BufWriter, Stdout, Write as _},
    panic,
    sync::Once,
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
        Ok(())
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

fn enter(mouse: bool) -> io::Result<()> {
    terminal::enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
    if mouse {
        execute!(io::stdout(), event::EnableMouseCapture)?;
    }
    Ok(())
}

/// Also of a terminal that is gone: there is nobody to complain to.
fn leave() {
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

//! A terminal in a world, for programs that draw on one: keys are pressed, the screen is read.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::PATIENCE;
use crate::world::World;

/// A terminal of 120x40 in which a shell runs, held by tmux. It dies with the world.
#[derive(Debug)]
pub struct Terminal<'a> {
    world: &'a World,
}

impl<'a> Terminal<'a> {
    /// One for each world.
    ///
    /// # Errors
    /// When tmux is missing.
    pub fn open(world: &'a World) -> Result<Self> {
        let terminal = Self { world };
        let shell = "env LC_ALL=C.UTF-8 TERM=screen-256color COLORTERM=truecolor bash --norc --noprofile -i";
        let size = ["-x", "120", "-y", "40", shell];
        let open = ["-f", "/dev/null", "new-session", "-d"];
        terminal.tmux(&[&open[..], &size].concat())?;
        Ok(terminal)
    }

    /// Has tmux do something, and returns what it prints.
    ///
    /// # Errors
    /// When it refuses.
    pub fn tmux(&self, args: &[&str]) -> Result<String> {
        let socket = ["-u", "-S", "/run/tmux"];
        let all = socket.iter().chain(args).copied();
        self.world.command("tmux", all).run()
    }

    /// Types text as it is.
    ///
    /// # Errors
    /// As [`Self::tmux`].
    pub fn type_text(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text])?;
        Ok(())
    }

    /// Types a line into the shell.
    ///
    /// # Errors
    /// As [`Self::tmux`].
    pub fn run(&self, line: &str) -> Result<()> {
        self.type_text(line)?;
        self.press("Enter")
    }

    /// Presses keys by the names that tmux has for them.
    ///
    /// # Errors
    /// As [`Self::tmux`].
    pub fn press(&self, keys: &str) -> Result<()> {
        for key in keys.split(' ') {
            self.tmux(&["send-keys", key])?;
        }
        Ok(())
    }

    /// Waits until the screen is as wanted, and returns it.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`], with the screen.
    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.tmux(&["capture-pane", "-p"])?;
            if wanted(&screen) {
                return Ok(screen);
            }
            if Instant::now() > deadline {
                bail!("{what}, but the screen is:\n{screen}");
            }
        }
    }

    /// Waits until the screen shows all of `texts`, and returns it.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn shows(&self, texts: &[&str]) -> Result<String> {
        let all = |screen: &str| texts.iter().all(|text| screen.contains(text));
        self.until(&format!("it should show {texts:?}"), all)
    }
}

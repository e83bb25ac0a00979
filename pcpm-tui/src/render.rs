//! Everything a person reads: pure functions from the interface's types to text. Nothing here asks
//! the daemon or writes to a terminal. All text of others goes through [`escape`].

pub(crate) mod attachments;
pub(crate) mod checks;
pub(crate) mod drops;
pub(crate) mod escape;
pub(crate) mod events;
pub(crate) mod humanise;
pub(crate) mod json;
pub(crate) mod locks;
pub(crate) mod status;
mod table;

use std::io::{self, IsTerminal};

use crate::cli::ColorWhen;

/// How output looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Whether words have colours.
    pub(crate) colour: bool,
    /// Whether columns are aligned and titled, for eyes; otherwise a tab separates them, for `cut`.
    pub(crate) aligned: bool,
}

impl Look {
    /// The look that fits standard output.
    pub(crate) fn of_stdout(when: ColorWhen) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::choose(when, io::stdout().is_terminal(), no_color)
    }

    fn choose(when: ColorWhen, terminal: bool, no_color: bool) -> Self {
        let always = when == ColorWhen::Always;
        Self {
            colour: always || (when == ColorWhen::Auto && terminal && !no_color),
            aligned: always || terminal,
        }
    }

    /// `text` in `hue`, where there are colours.
    fn paint(self, hue: Hue, text: &str) -> String {
        if self.colour && hue != Hue::Plain {
            format!("\x1b[{}m{text}\x1b[0m", hue.code())
        } else {
            text.to_owned()
        }
    }
}

/// Colours by meaning. No meaning is ever told by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hue {
    Plain,
    Good,
    Busy,
    Warning,
    Bad,
    Faint,
    Title,
}

impl Hue {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Good => "32",
            Self::Busy => "36",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Faint => "2",
            Self::Title => "1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a pipe gets.
    pub(super) const PIPE: Look = Look {
        colour: false,
        aligned: false,
    };
    /// What a terminal without colours gets.
    pub(super) const PLAIN: Look = Look {
        colour: false,
        aligned: true,
    };
    /// What a terminal gets.
    pub(super) const TERMINAL: Look = Look {
        colour: true,
        aligned: true,
    };

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        for (when, terminal, no_color, colour) in [
            (ColorWhen::Auto, true, false, true),
            (ColorWhen::Auto, false, false, false),
            (ColorWhen::Auto, true, true, false),
            (ColorWhen::Always, false, true, true),
            (ColorWhen::Never, true, false, false),
        ] {
            let look = Look::choose(when, terminal, no_color);
            assert_eq!(look.colour, colour, "{when:?} {terminal} {no_color}");
        }
    }
}

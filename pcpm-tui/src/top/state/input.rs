//! A line that is being typed.

/// Letters that a line may have.
const LONGEST: usize = 200;

/// The text, and why it cannot be used if so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Input {
    text: String,
    pub(crate) error: Option<String>,
}

impl Input {
    pub(crate) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            error: None,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn set(&mut self, text: String) {
        self.text = text;
    }

    pub(crate) fn push(&mut self, letter: char) {
        if !letter.is_control() && self.text.chars().count() < LONGEST {
            self.text.push(letter);
        }
    }

    pub(crate) fn pop(&mut self) {
        self.text.pop();
    }

    /// Takes the last word away.
    pub(crate) fn pop_word(&mut self) {
        let text = self.text.trim_end();
        let end = text.rfind(' ').map_or(0, |space| space + 1);
        self.text.truncate(end);
    }

    pub(crate) fn clear(&mut self) {
        self.text.clear();
    }
}

/// What a key means to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Letter(char),
    Backspace,
    Word,
    Line,
    Tab,
    Enter,
    Escape,
    Up,
    Down,
}

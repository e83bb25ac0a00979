//! The table of keys. Bindings, footer, help and `--print-keys` are all made of it, and the configuration changes
//! nothing else.

use std::fmt::Write as _;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::action::{Action, View};

/// When an action can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// A table is shown.
    Table,
    /// A table that can be filtered is shown.
    Filterable,
    /// A row is selected that more can be said of.
    Row,
    /// Something is filtered.
    Filtered,
    /// The latencies are shown.
    Latency,
    /// The locks are shown.
    Locks,
    /// Something covers the view.
    Overlay,
    /// A slot is selected that somebody holds, and changes are allowed.
    AttachedSlot,
    /// A slot is selected that nobody holds, and changes are allowed.
    ReadySlot,
    /// Changes are allowed.
    Writable,
    /// A recording is replayed.
    Replay,
}

/// An action, its keys, and what is said of it.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) action: Action,
    /// What the configuration calls it.
    pub(crate) name: &'static str,
    pub(crate) keys: Vec<Key>,
    pub(crate) when: When,
    /// One word for the footer; none where the help suffices.
    pub(crate) short: &'static str,
    pub(crate) help: &'static str,
}

/// One key with its modifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    code: KeyCode,
    modifiers: KeyModifiers,
}

/// The table as it is before anybody changes it: action, name, keys, when, footer, help.
#[rustfmt::skip]
const TABLE: &[(Action, &str, &str, When, &str, &str)] = &[
    (Action::Help, "help", "? f1", When::Always, "help", "what the keys do; type to search"),
    (Action::Quit, "quit", "q ctrl-c", When::Always, "quit", "leave"),
    (Action::NextView, "next-view", "tab", When::Always, "view", "the next view"),
    (Action::PreviousView, "previous-view", "backtab", When::Always, "", "the view before"),
    (Action::Show(View::Overview), "overview", "1", When::Always, "", "pool, attaches, latencies, lock, warnings"),
    (Action::Show(View::Slots), "slots", "2", When::Always, "", "all slots, their holders and traffic"),
    (Action::Show(View::Locks), "locks", "3", When::Always, "", "who waits for the kernel's locks, and who holds them"),
    (Action::Show(View::Latency), "latency", "4", When::Always, "", "how long attaches and every step of making slots take"),
    (Action::Show(View::Tenants), "tenants", "5", When::Always, "", "what tenants hold, use and lose"),
    (Action::Show(View::Events), "events", "6", When::Always, "", "what happened"),
    (Action::Close, "close", "esc", When::Overlay, "close", "close what covers the view"),
    (Action::Open, "open", "enter", When::Row, "details", "everything about the selected row"),
    (Action::Pause, "pause", "space", When::Always, "pause", "stop and go on; what comes meanwhile is not lost"),
    (Action::Back, "back", "left", When::Always, "past", "earlier, up to 15 minutes"),
    (Action::Forward, "forward", "right", When::Always, "", "later"),
    (Action::ZoomIn, "zoom-in", "+ =", When::Always, "zoom", "a shorter time on the screen"),
    (Action::ZoomOut, "zoom-out", "-", When::Always, "", "a longer time on the screen"),
    (Action::Up, "up", "up k", When::Table, "", "the row above"),
    (Action::Down, "down", "down j", When::Table, "", "the row below"),
    (Action::PageUp, "page-up", "pageup", When::Table, "", "a screen up"),
    (Action::PageDown, "page-down", "pagedown", When::Table, "", "a screen down"),
    (Action::First, "first", "home g", When::Table, "", "the first row"),
    (Action::Last, "last", "end G", When::Table, "", "the last row"),
    (Action::Filter, "filter", "/", When::Filterable, "filter", "show only some rows: words, key:value, key>number, /regex/"),
    (Action::ClearFilter, "clear-filter", "\\", When::Filtered, "all", "show all rows again"),
    (Action::SortNext, "sort-next", "s", When::Filterable, "sort", "sort by the next column"),
    (Action::SortPrevious, "sort-previous", "S", When::Filterable, "", "sort by the column before"),
    (Action::SortReverse, "sort-reverse", "r", When::Filterable, "", "sort the other way round"),
    (Action::NextLock, "next-lock", "l", When::Locks, "lock", "draw the waits for the next lock"),
    (Action::PreviousLock, "previous-lock", "L", When::Locks, "", "draw the waits for the lock before"),
    (Action::Compare, "compare", "c", When::Latency, "compare", "remember the time on the screen and compare later ones with it"),
    (Action::Detach, "detach", "d", When::AttachedSlot, "detach", "end the selected attachment; asks first"),
    (Action::Retire, "retire", "x", When::ReadySlot, "retire", "destroy the selected ready slot, which is made anew; asks first"),
    (Action::Drain, "drain", "D", When::Writable, "", "take no new attachments, or again; asks first"),
    (Action::Resize, "resize", "T", When::Writable, "", "how many slots are kept ready; asks first"),
    (Action::ExportJson, "export-json", "e", When::Always, "", "write what is shown to a file, as JSON"),
    (Action::ExportCsv, "export-csv", "E", When::Filterable, "", "write the table to a file, as CSV"),
    (Action::Slower, "slower", "<", When::Replay, "slower", "replay at half the speed"),
    (Action::Faster, "faster", ">", When::Replay, "faster", "replay at twice the speed"),
    (Action::Theme, "theme", "t", When::Always, "", "the next theme"),
    (Action::Mouse, "mouse", "m", When::Always, "", "leave the mouse to the terminal, or take it"),
    (Action::Redraw, "redraw", "ctrl-l", When::Always, "", "draw everything again"),
    (Action::Suspend, "suspend", "ctrl-z", When::Always, "", "stop the program until 'fg'"),
];

/// The bindings in force.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Vec<Binding>);

impl Default for Keys {
    fn default() -> Self {
        let binding = |&(action, name, keys, when, short, help): &(Action, _, &str, _, _, _)| {
            let keys = keys.split(' ').map(Key::parse).collect::<Result<_, _>>();
            Binding {
                action,
                name,
                keys: keys.expect("a test reads the table"),
                when,
                short,
                help,
            }
        };
        Self(TABLE.iter().map(binding).collect())
    }
}

impl Keys {
    pub(crate) fn bindings(&self) -> &[Binding] {
        &self.0
    }

    /// The binding of a key that can be used now.
    pub(crate) fn find(&self, event: KeyEvent, can: impl Fn(When) -> bool) -> Option<Action> {
        let key = Key::of(event);
        let bound = self.0.iter().filter(|binding| binding.keys.contains(&key));
        bound
            .filter(|binding| can(binding.when))
            .map(|binding| binding.action)
            .next()
    }

    /// Gives an action other keys.
    ///
    /// # Errors
    /// There is no such action or key, or another action has the key.
    pub(crate) fn rebind(&mut self, name: &str, keys: &[String]) -> Result<(), String> {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| Key::parse(key))
            .collect::<Result<_, _>>()?;
        let Some(at) = self.0.iter().position(|binding| binding.name == name) else {
            return Err(format!(
                "there is no action '{name}': see 'pcpm top --print-keys'"
            ));
        };
        self.0[at].keys = keys;
        Ok(())
    }

    /// # Errors
    /// A key that means two things at the same time.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (at, binding) in self.0.iter().enumerate() {
            let clash = self.0[..at].iter().find(|other| {
                other.when == binding.when
                    && other.keys.iter().any(|key| binding.keys.contains(key))
            });
            if let Some(other) = clash {
                return Err(format!(
                    "'{}' and '{}' have the same key",
                    other.name, binding.name
                ));
            }
        }
        Ok(())
    }

    /// All of it, as the configuration has it.
    pub(crate) fn print(&self) -> String {
        let mut text = String::from("[keys]\n");
        for binding in &self.0 {
            let keys: Vec<_> = binding
                .keys
                .iter()
                .map(|key| format!("{:?}", key.name()))
                .collect();
            let line = format!("{} = [{}]", binding.name, keys.join(", "));
            // Writing to a string does not fail.
            let _ = writeln!(text, "{line:<34} # {}", binding.help);
        }
        text
    }
}

impl Binding {
    /// Its first key, as people call it.
    pub(crate) fn key(&self, ascii: bool) -> String {
        let first = self.keys.first();
        first.map_or_else(String::new, |key| key.shown(ascii))
    }

    /// All its keys.
    pub(crate) fn all_keys(&self, ascii: bool) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| key.shown(ascii)).collect();
        keys.join(" ")
    }
}

/// Keys that are words, as the configuration and people call them.
const NAMED: &[(KeyCode, &str, &str)] = &[
    (KeyCode::Enter, "enter", "Enter"),
    (KeyCode::Esc, "esc", "Esc"),
    (KeyCode::Tab, "tab", "Tab"),
    (KeyCode::BackTab, "backtab", "Shift-Tab"),
    (KeyCode::Backspace, "backspace", "Backspace"),
    (KeyCode::Delete, "delete", "Del"),
    (KeyCode::Insert, "insert", "Ins"),
    (KeyCode::Up, "up", "↑"),
    (KeyCode::Down, "down", "↓"),
    (KeyCode::Left, "left", "←"),
    (KeyCode::Right, "right", "→"),
    (KeyCode::PageUp, "pageup", "PgUp"),
    (KeyCode::PageDown, "pagedown", "PgDn"),
    (KeyCode::Home, "home", "Home"),
    (KeyCode::End, "end", "End"),
    (KeyCode::Char(' '), "space", "Space"),
];

impl Key {
    fn of(event: KeyEvent) -> Self {
        let mut modifiers = event.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT);
        // A capital letter, and the back tab, say themselves that shift was held.
        if !matches!(event.code, KeyCode::Char(_) | KeyCode::BackTab) {
            modifiers |= event.modifiers & KeyModifiers::SHIFT;
        }
        Self {
            code: event.code,
            modifiers,
        }
    }

    /// Reads `q`, `G`, `ctrl-c`, `alt-x`, `pageup`, `f5`.
    fn parse(text: &str) -> Result<Self, String> {
        let mut modifiers = KeyModifiers::NONE;
        let mut rest = text;
        for (prefix, modifier) in [
            ("ctrl-", KeyModifiers::CONTROL),
            ("alt-", KeyModifiers::ALT),
            ("shift-", KeyModifiers::SHIFT),
        ] {
            if let Some(after) = rest.strip_prefix(prefix) {
                modifiers |= modifier;
                rest = after;
            }
        }
        let named = NAMED.iter().find(|(_, name, _)| *name == rest);
        let mut letters = rest.chars();
        let code = match (named, letters.next(), letters.next()) {
            (Some(&(code, ..)), ..) => code,
            (None, Some(letter), None) => KeyCode::Char(letter),
            _ => match rest
                .strip_prefix('f')
                .and_then(|number| number.parse().ok())
            {
                Some(number @ 1..=24) => KeyCode::F(number),
                _ => {
                    return Err(format!(
                        "'{text}' is no key: write q, G, ctrl-c, space, pageup or f5"
                    ));
                }
            },
        };
        Ok(Self { code, modifiers })
    }

    fn named(
        self,
        pick: impl Fn(&(KeyCode, &'static str, &'static str)) -> &'static str,
    ) -> String {
        let named = NAMED.iter().find(|(code, ..)| *code == self.code);
        match (named, self.code) {
            (Some(named), _) => pick(named).to_owned(),
            (None, KeyCode::Char(letter)) => letter.to_string(),
            (None, KeyCode::F(number)) => format!("F{number}"),
            _ => "?".to_owned(),
        }
    }

    fn name(self) -> String {
        let mut name = String::new();
        for (modifier, prefix) in [
            (KeyModifiers::CONTROL, "ctrl-"),
            (KeyModifiers::ALT, "alt-"),
            (KeyModifiers::SHIFT, "shift-"),
        ] {
            if self.modifiers.contains(modifier) {
                name += prefix;
            }
        }
        let key = match self.code {
            KeyCode::F(number) => format!("f{number}"),
            _ => self.named(|(_, name, _)| name),
        };
        name + &key
    }

    /// As people call it, with arrows as words where there are no arrows.
    fn shown(self, ascii: bool) -> String {
        let mut shown = String::new();
        if self.modifiers.contains(KeyModifiers::CONTROL) {
            shown.push('^');
        }
        if self.modifiers.contains(KeyModifiers::ALT) {
            shown += "Alt-";
        }
        if self.modifiers.contains(KeyModifiers::SHIFT) {
            shown += "Shift-";
        }
        let key = self.named(|(_, name, shown)| {
            if ascii && !shown.is_ascii() {
                name
            } else {
                shown
            }
        });
        let control = self.modifiers.contains(KeyModifiers::CONTROL);
        shown + &if control { key.to_uppercase() } else { key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_key_twice_and_no_action_without_words() {
        let keys = Keys::default();
        keys.check().unwrap();
        for binding in keys.bindings() {
            assert!(
                !binding.help.is_empty() && !binding.keys.is_empty(),
                "{}",
                binding.name
            );
        }
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let printed: toml::Table = Keys::default().print().parse().unwrap();
        let mut keys = Keys::default();
        for (name, bound) in printed["keys"].as_table().unwrap() {
            let bound: Vec<_> = bound
                .as_array()
                .unwrap()
                .iter()
                .map(|key| key.as_str().unwrap().to_owned())
                .collect();
            keys.rebind(name, &bound).unwrap();
        }
        assert_eq!(keys.print(), Keys::default().print());
    }

    #[test]
    fn keys_are_found_with_their_modifiers() {
        let keys = Keys::default();
        for (code, modifiers, action) in [
            (KeyCode::Char('q'), KeyModifiers::NONE, Some(Action::Quit)),
            (
                KeyCode::Char('c'),
                KeyModifiers::CONTROL,
                Some(Action::Quit),
            ),
            (KeyCode::Char('G'), KeyModifiers::SHIFT, Some(Action::Last)),
            (
                KeyCode::BackTab,
                KeyModifiers::SHIFT,
                Some(Action::PreviousView),
            ),
            (KeyCode::Char('q'), KeyModifiers::ALT, None),
        ] {
            let found = keys.find(KeyEvent::new(code, modifiers), |_| true);
            assert_eq!(found, action, "{code:?} {modifiers:?}");
        }
    }

    #[test]
    fn what_cannot_be_bound_is_refused_with_the_reason() {
        let mut keys = Keys::default();
        for (name, key, reason) in [
            ("quit", "hyper-q", "is no key"),
            ("quit", "f25", "is no key"),
            ("explode", "q", "there is no action 'explode'"),
        ] {
            let error = keys.rebind(name, &[key.to_owned()]).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        keys.rebind("help", &["q".to_owned()]).unwrap();
        assert_eq!(
            keys.check().unwrap_err(),
            "'help' and 'quit' have the same key"
        );
    }
}

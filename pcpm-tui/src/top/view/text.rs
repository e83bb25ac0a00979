//! Text that fits its place and cannot disturb its neighbours.

use std::borrow::Cow;

use ratatui::{buffer::Buffer, style::Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::render::escape;

/// Text of others as the screen may have it: what a terminal would obey is written out, and marks that are put on
/// a letter are left out, as terminals do not agree on their width.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let text = escape::text(text);
    if text.chars().all(|letter| letter.width() != Some(0)) {
        return text;
    }
    text.chars()
        .filter(|letter| letter.width() != Some(0))
        .collect()
}

/// The same with signs that every font has.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return text.into();
    }
    let letter = |letter: char| match letter {
        'µ' => 'u',
        other if other.is_ascii() => other,
        _ => '?',
    };
    text.chars().map(letter).collect()
}

/// How many cells it takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The beginning of `text` that fits, with a sign where something was left out.
pub(crate) fn fit(text: &str, cells: usize, ascii: bool) -> Cow<'_, str> {
    if width(text) <= cells {
        return text.into();
    }
    let sign = if ascii { "~" } else { "…" };
    let mut room = cells.saturating_sub(1);
    let mut fitted = String::new();
    for letter in text.chars() {
        let wide = letter.width().unwrap_or(0);
        if wide > room {
            break;
        }
        room -= wide;
        fitted.push(letter);
    }
    if cells > 0 {
        fitted += sign;
    }
    fitted.into()
}

/// Words in lines of at most so many cells. A word that is longer than a line is cut.
pub(crate) fn wrap(text: &str, cells: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = Cow::from(word);
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && width(line) + 1 + width(&word) <= cells {
            line.push(' ');
            line.push_str(&word);
            continue;
        }
        if !line.is_empty() {
            lines.push(String::new());
        }
        while width(&word) > cells && cells > 0 {
            let (head, rest) = cut(&word, cells);
            let (head, rest) = (head.to_owned(), rest.to_owned());
            *lines.last_mut().expect("there is always a line") = head;
            lines.push(String::new());
            word = rest.into();
        }
        *lines.last_mut().expect("there is always a line") = word.into_owned();
    }
    lines
}

/// What fits in a line, at least one letter, and the rest.
fn cut(word: &str, cells: usize) -> (&str, &str) {
    let mut taken = 0;
    for (at, letter) in word.char_indices() {
        let wide = letter.width().unwrap_or(0);
        if taken + wide > cells && at > 0 {
            return word.split_at(at);
        }
        taken += wide;
    }
    (word, "")
}

/// A drawn screen as lines of text, with colours if wanted.
pub(crate) fn of_buffer(buffer: &Buffer, coloured: bool) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut line = String::new();
        let mut skip = 0;
        let mut style = Style::new();
        for x in buffer.area.left()..buffer.area.right() {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let cell = &buffer[(x, y)];
            if coloured && cell.style() != style {
                style = cell.style();
                line += &escapes(style);
            }
            line += cell.symbol();
            skip = width(cell.symbol()).saturating_sub(1);
        }
        text += line.trim_end();
        text += if coloured { "\u{1b}[0m\n" } else { "\n" };
    }
    text
}

/// What a terminal is told for a style, from whatever it was before.
fn escapes(style: Style) -> String {
    use ratatui::style::{Color, Modifier};
    let mut codes = vec!["0".to_owned()];
    for (modifier, code) in [
        (Modifier::BOLD, "1"),
        (Modifier::DIM, "2"),
        (Modifier::REVERSED, "7"),
    ] {
        if style.add_modifier.contains(modifier) {
            codes.push(code.to_owned());
        }
    }
    for (colour, base) in [(style.fg, 38), (style.bg, 48)] {
        let few = |number: u32| (number + base - 8).to_string();
        codes.push(match colour {
            None | Some(Color::Reset) => continue,
            Some(Color::Rgb(red, green, blue)) => format!("{base};2;{red};{green};{blue}"),
            Some(Color::Indexed(index)) => format!("{base};5;{index}"),
            Some(Color::Black) => few(0),
            Some(Color::Red) => few(1),
            Some(Color::Green) => few(2),
            Some(Color::Yellow) => few(3),
            Some(Color::Blue) => few(4),
            Some(Color::Magenta) => few(5),
            Some(Color::Cyan) => few(6),
            Some(Color::Gray) => few(7),
            Some(Color::DarkGray) => few(60),
            Some(_) => few(67),
        });
    }
    format!("\u{1b}[{}m", codes.join(";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_marked() {
        for (text, cells, fitted) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("日本語", 4, "日…"),
            ("日本語", 6, "日本語"),
            ("abc", 0, ""),
            ("abc", 1, "…"),
        ] {
            assert_eq!(fit(text, cells, false), fitted, "{text} {cells}");
            assert!(width(&fit(text, cells, false)) <= cells);
        }
    }

    #[test]
    fn text_of_others_is_harmless() {
        assert_eq!(clean("a\u{1b}[2J"), "a\\u{1b}[2J");
        assert_eq!(clean("e\u{301}\u{302}x"), "ex");
        assert_eq!(clean("日本"), "日本");
    }

    #[test]
    fn poor_fonts_have_a_sign_for_everything() {
        assert_eq!(plain("p50 14µs"), "p50 14us");
        assert_eq!(plain("日x"), "?x");
    }

    #[test]
    fn words_are_wrapped_and_long_ones_cut() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(
            wrap("abcdefgh x", 3),
            ["abc", "def", "gh", "x"].map(str::to_owned)[..]
        );
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("日本語", 1).concat(), "日本語");
    }
}

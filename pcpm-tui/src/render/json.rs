//! JSON for programs. Harmless on a terminal too: whatever a terminal could obey is escaped, which
//! leaves the values the same.

use std::fmt::Write;

use serde::Serialize;

use super::escape::is_unprintable;

/// One value: a line for programs, indented for people.
pub(crate) fn document<T: Serialize>(value: &T, indented: bool) -> serde_json::Result<String> {
    if !indented {
        return line(value);
    }
    Ok(harmless(&serde_json::to_string_pretty(value)?) + "\n")
}

/// One value on one line.
pub(crate) fn line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    Ok(harmless(&serde_json::to_string(value)?) + "\n")
}

/// Such characters are inside strings only, except for the line breaks of the indentation.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if c == '\n' || !is_unprintable(c) {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(text, "\\u{unit:04x}").expect("a String takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_means_the_same() {
        let hostile = "a\u{1b}[2J\u{9b}\u{7f}\u{202e}\u{e0041}\nö";
        for text in [
            document(&[hostile], true).unwrap(),
            line(&[hostile]).unwrap(),
        ] {
            assert!(
                !text.trim_end().contains(|c| c != '\n' && is_unprintable(c)),
                "{text}"
            );
            let back: Vec<String> = serde_json::from_str(&text).unwrap();
            assert_eq!(back, [hostile]);
        }
    }

    #[test]
    fn a_line_is_one_line() {
        let text = line(&["a\nb", "c"]).unwrap();
        assert_eq!(text.find('\n'), Some(text.len() - 1));
    }
}

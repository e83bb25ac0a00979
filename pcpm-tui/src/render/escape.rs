//! Makes text of others harmless: a terminal obeys control characters, a reader is misled by ones
//! that reorder or hide text.

use std::borrow::Cow;

/// `text` with every character that is not plainly visible written as `\n`, `\u{1b}` and so on.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return text.into();
    }
    let escape = |c: char| {
        let escaped = is_unprintable(c).then(|| c.escape_default().to_string());
        escaped.unwrap_or_else(|| c.into())
    };
    text.chars().map(escape).collect()
}

/// Control characters, direction and line marks, invisible spaces, and tags.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_orders_from_text() {
        for (hostile, shown) in [
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\rb\nc\td", "a\\rb\\nc\\td"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{7f}\u{0}", "\\u{7f}\\u{0}"),
            ("x\u{202e}gpj", "x\\u{202e}gpj"),
        ] {
            assert_eq!(text(hostile), shown);
        }
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for ordinary in ["", "web-1", "Größe ≥ 3, 日本語", "back\\slash 'quote'"] {
            assert_eq!(text(ordinary), ordinary);
        }
    }
}

//! Text with the colours that a terminal is told, as cells.

/// What a cell looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) ink: Option<[u8; 3]>,
    pub(super) paper: Option<[u8; 3]>,
    pub(super) bold: bool,
    pub(super) reversed: bool,
}

/// A sign and its look.
pub(super) type Cell = (char, Look);

/// The lines of `text`, without what tells their colours.
pub(super) fn screen(text: &str) -> Vec<Vec<Cell>> {
    let mut look = Look::default();
    text.lines().map(|line| cells(line, &mut look)).collect()
}

fn cells(line: &str, look: &mut Look) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut rest = line;
    while let Some(sign) = rest.chars().next() {
        let order = rest
            .strip_prefix("\u{1b}[")
            .and_then(|order| order.split_once('m'));
        if let Some((codes, after)) = order {
            apply(look, codes);
            rest = after;
        } else {
            cells.push((sign, *look));
            rest = &rest[sign.len_utf8()..];
        }
    }
    cells
}

fn apply(look: &mut Look, codes: &str) {
    let codes: Vec<u8> = codes
        .split(';')
        .map(|code| code.parse().unwrap_or(0))
        .collect();
    let mut rest = codes.as_slice();
    while let Some((&code, after)) = rest.split_first() {
        rest = after;
        match (code, after) {
            (0, _) => *look = Look::default(),
            (1, _) => look.bold = true,
            (7, _) => look.reversed = true,
            (38, &[2, red, green, blue, ref after @ ..]) => {
                look.ink = Some([red, green, blue]);
                rest = after;
            }
            (48, &[2, red, green, blue, ref after @ ..]) => {
                look.paper = Some([red, green, blue]);
                rest = after;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_hold_until_they_are_told_to_end() {
        let lines = screen("a\u{1b}[0;1;38;2;1;2;3;48;2;4;5;6mb\u{1b}[0mc");
        let looks: Vec<_> = lines[0]
            .iter()
            .map(|(sign, look)| (*sign, look.ink, look.paper, look.bold))
            .collect();
        let painted = ('b', Some([1, 2, 3]), Some([4, 5, 6]), true);
        assert_eq!(
            looks,
            [('a', None, None, false), painted, ('c', None, None, false)]
        );
    }
}

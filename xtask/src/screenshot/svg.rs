//! Cells as a picture that looks the same everywhere: blocks, lines and dots are drawn, letters are text. It has a
//! background of its own, so that it can be read on a light page and on a dark one.

use std::fmt::Write as _;

use super::ansi::{Cell, Look};

/// A cell, in pixels.
const WIDTH: usize = 8;
const HEIGHT: usize = 17;
const MARGIN: usize = 14;

const PAPER: [u8; 3] = [0x10, 0x15, 0x1b];
const INK: [u8; 3] = [0xd4, 0xda, 0xe0];

/// Draws the lines.
pub(super) fn picture(lines: &[Vec<Cell>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (
        columns * WIDTH + 2 * MARGIN,
        lines.len() * HEIGHT + 2 * MARGIN,
    );
    let mut drawing = Drawing(String::new());
    for (row, line) in lines.iter().enumerate() {
        drawing.line(line, row);
    }
    let paper = hex(PAPER);
    let fonts = "'DejaVu Sans Mono',Menlo,Consolas,ui-monospace,monospace";
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"{fonts}\" font-size=\"13\" role=\"img\" aria-label=\"pcpm top under load\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"10\" fill=\"{paper}\"/>\n{}</svg>\n",
        drawing.0
    )
}

struct Drawing(String);

impl Drawing {
    fn line(&mut self, line: &[Cell], row: usize) {
        let mut at = 0;
        while at < line.len() {
            let (sign, look) = line[at];
            let same =
                |(other, other_look): &&Cell| *other_look == look && kind(*other) == kind(sign);
            let run = line[at..].iter().take_while(same).count();
            self.paper(at, row, run, look);
            match kind(sign) {
                Kind::Letter => self.text(&line[at..at + run], at, row, look),
                Kind::Drawn => {
                    for (offset, (sign, _)) in line[at..at + run].iter().enumerate() {
                        self.sign(*sign, at + offset, row, look);
                    }
                }
            }
            at += run;
        }
    }

    fn rect(&mut self, [x, y, width, height]: [f64; 4], colour: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    fn paper(&mut self, column: usize, row: usize, cells: usize, look: Look) {
        let paper = if look.reversed {
            Some(look.ink.unwrap_or(INK))
        } else {
            look.paper
        };
        if let Some(paper) = paper {
            let (x, y) = place(column, row);
            self.rect([x, y, float(cells * WIDTH), float(HEIGHT)], &hex(paper));
        }
    }

    fn text(&mut self, cells: &[Cell], column: usize, row: usize, look: Look) {
        let text: String = cells.iter().map(|(sign, _)| *sign).collect();
        let shown = text.trim_end();
        if shown.trim().is_empty() {
            return;
        }
        let indent = shown.len() - shown.trim_start().len();
        let length = (shown.chars().count() - indent) * WIDTH;
        let (x, y) = place(column + indent, row);
        let weight = if look.bold {
            " font-weight=\"bold\""
        } else {
            ""
        };
        let escaped = shown
            .trim_start()
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            // Spaces between words stay as many as they are.
            .replace(' ', "\u{a0}");
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{length}\" fill=\"{}\"{weight}>{escaped}</text>",
            y + 13.0,
            ink(look)
        );
    }

    /// A sign that fonts draw differently, or with gaps.
    fn sign(&mut self, sign: char, column: usize, row: usize, look: Look) {
        let (x, y) = place(column, row);
        let (width, height) = (float(WIDTH), float(HEIGHT));
        let (middle_x, middle_y) = (x + width / 2.0, y + height / 2.0);
        let colour = ink(look);
        match sign {
            '▁'..='█' => {
                let part = height * f64::from(u32::from(sign) - 0x2580) / 8.0;
                // A little wider than the cell, so that no seam is seen between neighbours.
                self.rect([x, y + height - part, width + 0.4, part + 0.4], &colour);
            }
            '─' => self.rect([x, middle_y - 0.5, width, 1.0], &colour),
            '╌' => {
                self.rect([x, middle_y - 0.5, width * 0.4, 1.2], &colour);
                self.rect([x + width / 2.0, middle_y - 0.5, width * 0.4, 1.2], &colour);
            }
            '━' => self.rect([x, middle_y - 2.5, width + 0.4, 5.0], &colour),
            '│' => self.rect([middle_x - 0.5, y, 1.0, height], &colour),
            '╭' => self.corner([middle_x, y + height], [x + width, middle_y], &colour),
            '╮' => self.corner([middle_x, y + height], [x, middle_y], &colour),
            '╰' => self.corner([middle_x, y], [x + width, middle_y], &colour),
            '╯' => self.corner([middle_x, y], [x, middle_y], &colour),
            _ => self.dots(u32::from(sign).saturating_sub(0x2800), [x, y], &colour),
        }
    }

    fn corner(&mut self, [x, y]: [f64; 2], [to_x, to_y]: [f64; 2], colour: &str) {
        let _ = writeln!(
            self.0,
            "<path d=\"M{x:.1} {y:.1}Q{x:.1} {to_y:.1} {to_x:.1} {to_y:.1}\" fill=\"none\" stroke=\"{colour}\"/>"
        );
    }

    /// The dots of a Braille sign.
    fn dots(&mut self, dots: u32, [x, y]: [f64; 2], colour: &str) {
        const PLACES: [(u32, u32); 8] = [
            (0, 0),
            (0, 1),
            (0, 2),
            (1, 0),
            (1, 1),
            (1, 2),
            (0, 3),
            (1, 3),
        ];
        for (bit, (column, row)) in PLACES.into_iter().enumerate() {
            if dots & (1 << bit) != 0 {
                let left = x + 1.0 + f64::from(column) * 4.0;
                let top = y + 1.2 + f64::from(row) * 4.2;
                self.rect([left, top, 2.4, 2.4], colour);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Drawn,
}

fn kind(sign: char) -> Kind {
    match sign {
        '▁'..='█' | '─' | '╌' | '━' | '│' | '╭' | '╮' | '╰' | '╯' | '\u{2800}'..='\u{28ff}' => {
            Kind::Drawn
        }
        _ => Kind::Letter,
    }
}

fn place(column: usize, row: usize) -> (f64, f64) {
    (float(MARGIN + column * WIDTH), float(MARGIN + row * HEIGHT))
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn float(pixels: usize) -> f64 {
    pixels as f64
}

fn ink(look: Look) -> String {
    let ink = if look.reversed {
        look.paper.unwrap_or(PAPER)
    } else {
        look.ink.unwrap_or(INK)
    };
    hex(ink)
}

fn hex([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_text_and_blocks_are_drawn() {
        let cells: Vec<Cell> = "a<█⠁".chars().map(|sign| (sign, Look::default())).collect();
        let picture = picture(&[cells]);
        assert!(picture.contains(">a&lt;</text>"), "{picture}");
        // The background, the block and the dot.
        assert_eq!(picture.matches("<rect").count(), 3, "{picture}");
    }
}

//! Manual pages: of programs by what they say of themselves, of everything else by the documentation's pages.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};

use crate::steps;

/// Pages of the documentation that are manual pages, and their sections.
const PAGES: [(&str, &str, &str); 3] = [
    ("cni.md", "pcpm-cni", "8"),
    ("runtime.md", "pcpm-runtime", "8"),
    ("configuration.md", "pcpmd.toml", "5"),
];

/// Writes all of them into `directory`, those of programs by the `binaries`.
///
/// # Errors
/// When a program does not tell, or a file cannot be read or written.
pub(crate) fn write(binaries: &Path, directory: &Path) -> Result<()> {
    let pages = directory.display();
    fs::create_dir_all(directory).with_context(|| format!("create {pages}"))?;
    steps::run(
        Command::new(binaries.join("pcpm"))
            .arg("manual")
            .arg(directory),
    )?;
    let daemon = steps::output(Command::new(binaries.join("pcpmd")).arg("--manual"))?;
    fs::write(directory.join("pcpmd.8"), daemon)?;
    let docs = steps::workspace().join("docs");
    for (source, name, section) in PAGES {
        let text =
            fs::read_to_string(docs.join(source)).with_context(|| format!("read {source}"))?;
        let page = Page::of(name, section, &text);
        fs::write(directory.join(format!("{name}.{section}")), page)?;
    }
    Ok(())
}

/// A page in the making.
#[derive(Default)]
struct Page {
    roff: Roff,
    /// The paragraph, heading or cell that is being read.
    line: Vec<Inline>,
    /// The texts of the cells of a row.
    cells: Vec<Vec<Inline>>,
    /// The first row of a table.
    header: Vec<String>,
    emphasis: Emphasis,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Emphasis {
    #[default]
    None,
    Strong,
    Code,
}

impl Page {
    /// The manual page that a page of the documentation is.
    fn of(name: &str, section: &str, markdown: &str) -> String {
        let version = concat!("pcpm ", env!("CARGO_PKG_VERSION"));
        let mut page = Self::default();
        page.roff
            .control("TH", [name, section, "", version, "PCPM"])
            .control("SH", ["NAME"]);
        for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
            page.take(event, name);
        }
        page.roff.render()
    }

    fn take(&mut self, event: Event<'_>, name: &str) {
        match event {
            Event::Text(text) => self.say(&text),
            Event::Code(text) => self.line.push(bold(text.into_string())),
            Event::SoftBreak | Event::HardBreak => self.say(" "),
            Event::Start(tag) => self.begin(&tag),
            Event::End(tag) => self.end(tag, name),
            _ => {}
        }
    }

    fn say(&mut self, text: &str) {
        match self.emphasis {
            Emphasis::None => self.line.push(roman(text)),
            Emphasis::Strong => self.line.push(bold(text)),
            // Line by line as it stands there.
            Emphasis::Code => {
                for line in text.lines() {
                    self.roff.text([roman(line)]);
                }
            }
        }
    }

    fn begin(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::CodeBlock(_) => {
                self.emphasis = Emphasis::Code;
                self.roff.control("PP", []).control("nf", []);
            }
            Tag::Strong => self.emphasis = Emphasis::Strong,
            Tag::Item => {
                self.paragraph();
                self.roff.control("IP", ["-", "2"]);
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd, name: &str) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => {
                let about = plain(&std::mem::take(&mut self.line));
                let about = about.split_once(": ").map_or(&*about, |(_, about)| about);
                self.roff.text([roman(format!("{name} - {about}"))]);
                self.roff.control("SH", ["DESCRIPTION"]);
            }
            TagEnd::Heading(_) => {
                let heading = plain(&std::mem::take(&mut self.line)).to_uppercase();
                self.roff.control("SH", [&*heading]);
            }
            TagEnd::CodeBlock => {
                self.emphasis = Emphasis::None;
                self.roff.control("fi", []).control("PP", []);
            }
            TagEnd::Strong => self.emphasis = Emphasis::None,
            TagEnd::Paragraph => {
                self.paragraph();
                self.roff.control("PP", []);
            }
            TagEnd::Item => self.paragraph(),
            TagEnd::List(_) => {
                self.roff.control("PP", []);
            }
            TagEnd::TableCell => self.cells.push(std::mem::take(&mut self.line)),
            TagEnd::TableHead => {
                let cells = std::mem::take(&mut self.cells);
                self.header = cells.iter().map(|cell| plain(cell)).collect();
            }
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    fn paragraph(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(std::mem::take(&mut self.line));
        }
    }

    /// The first cell is what the others are about: the last one says most, those between are short.
    fn row(&mut self) {
        let mut cells = std::mem::take(&mut self.cells).into_iter().enumerate();
        let Some((_, first)) = cells.next() else {
            return;
        };
        self.roff.control("TP", []).text(first);
        let count = self.header.len();
        for (column, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
            let mut text = Vec::new();
            if column + 1 < count {
                text.push(italic(format!("{}: ", self.header[column])));
                text.extend(cell);
                text.push(roman("."));
            } else {
                text = cell;
            }
            self.roff.text(text);
        }
        self.roff.control("PP", []);
    }
}

fn plain(line: &[Inline]) -> String {
    let texts = line.iter().map(|part| match part {
        Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
        Inline::LineBreak => " ",
    });
    texts.collect()
}

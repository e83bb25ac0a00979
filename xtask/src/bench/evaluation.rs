//! All that was found in one run, as files: `report.md` for people, a plot each, `report.json` for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::findings::{Block, Findings, Ratio};
use super::markdown;
use crate::machine::Machine;

const HOW_TO_READ: &str = "\
Medians of rounds; product, peers and floors take turns within a round, and what is given beside a median are the quartiles of \
the rounds. A ratio is taken within each round before its median is. Figures of other machines differ; ratios differ less.";

/// A run, and what became of its parts so far.
#[derive(Debug)]
pub(super) struct Evaluation {
    machine: Machine,
    directory: PathBuf,
    outcomes: Vec<Outcome>,
}

/// What became of one part.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) part: &'static str,
    /// How to measure it alone.
    pub(super) command: String,
    pub(super) took: Duration,
    pub(super) found: Result<Findings>,
}

impl Evaluation {
    /// Makes `directory`, where the report goes.
    ///
    /// # Errors
    /// When that fails, and when the machine does not say what it is.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let context = || format!("make {}", directory.display());
        fs::create_dir_all(directory).with_context(context)?;
        Ok(Self {
            machine: Machine::read()?,
            directory: directory.to_owned(),
            outcomes: Vec::new(),
        })
    }

    /// Takes what became of a part into the report and writes all of it: a run that is ended leaves what it found.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn add(&mut self, outcome: Outcome) -> Result<()> {
        outcome.draw(&self.directory)?;
        self.outcomes.push(outcome);
        write(&self.directory.join("report.md"), &self.markdown())?;
        write_json(&self.directory.join("report.json"), &self.json())
    }

    pub(super) fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Where people read it.
    pub(super) fn page(&self) -> PathBuf {
        self.directory.join("report.md")
    }

    /// What `--json` writes: the figures of the only part, or those of all by name.
    pub(super) fn figures(&self, parts: &[&str]) -> Value {
        let found = self.found().filter(|(part, _)| parts.contains(part));
        let mut figures: Map<_, _> = match (parts, found.collect::<Vec<_>>().as_slice()) {
            (
                [_],
                [
                    (
                        _,
                        Findings {
                            figures: Value::Object(only),
                            ..
                        },
                    ),
                ],
            ) => only.clone(),
            (_, found) => {
                let by_name = found.iter();
                by_name
                    .map(|(part, findings)| ((*part).to_owned(), findings.figures.clone()))
                    .collect()
            }
        };
        figures.insert("machine".to_owned(), json!(self.machine));
        Value::Object(figures)
    }

    fn found(&self) -> impl Iterator<Item = (&'static str, &Findings)> {
        let outcomes = self.outcomes.iter();
        outcomes.filter_map(|outcome| Some((outcome.part, outcome.found.as_ref().ok()?)))
    }

    fn json(&self) -> Value {
        let ratios: BTreeMap<String, &Ratio> = self
            .found()
            .flat_map(|(part, findings)| {
                let ratios = findings.ratios.iter();
                ratios.map(move |ratio| (full_name(part, ratio), ratio))
            })
            .collect();
        json!({
            "machine": self.machine,
            "ratios": ratios,
            "parts": self.outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
        })
    }

    fn markdown(&self) -> String {
        let mut page = format!("# PCPM, measured\n\n{}\n{HOW_TO_READ}\n", self.machine);
        page += "\n## Summary\n\n";
        page += &markdown::table(&self.summary());
        let failed = self.outcomes.iter().filter_map(|outcome| {
            let error = outcome.found.as_ref().err()?;
            Some(format!("\n**{} failed**: {error:#}\n", outcome.part))
        });
        page.extend(failed);
        let parts = self.outcomes.iter();
        page.extend(parts.map(|outcome| format!("\n{}", outcome.markdown())));
        page
    }

    fn summary(&self) -> Vec<Vec<String>> {
        let heading = ["part"].into_iter().chain(Ratio::HEADING);
        let heading = heading.map(str::to_owned).collect();
        let rows = self.found().flat_map(|(part, findings)| {
            let ratios = findings.ratios.iter();
            ratios.map(move |ratio| [vec![part.to_owned()], ratio.row()].concat())
        });
        [heading].into_iter().chain(rows).collect()
    }
}

/// The name of a ratio among those of all parts.
pub(super) fn full_name(part: &str, ratio: &Ratio) -> String {
    format!("{part}/{}", ratio.name)
}

impl Outcome {
    /// For people: a section of the report, which is also what is printed.
    pub(super) fn markdown(&self) -> String {
        let took = self.took.as_secs();
        let findings = match &self.found {
            Ok(findings) => findings,
            Err(error) => {
                return format!(
                    "## {}\n\n`{}` failed after {took} s: {error:#}\n",
                    self.part, self.command
                );
            }
        };
        let mut section = format!("## {}\n\n`{}` ({took} s)\n", findings.title, self.command);
        for block in &findings.blocks {
            // Writing to a string does not fail.
            let _ = match block {
                Block::Text(text) => writeln!(section, "\n{text}"),
                Block::Table(rows) => write!(section, "\n{}", markdown::table(rows)),
                Block::Chart(file, chart) => {
                    writeln!(section, "\n![{}]({file}.svg)", chart.title())
                }
            };
        }
        if !findings.ratios.is_empty() {
            let heading = Ratio::HEADING.map(str::to_owned).to_vec();
            let rows = findings.ratios.iter().map(Ratio::row);
            let rows: Vec<_> = [heading].into_iter().chain(rows).collect();
            let _ = write!(section, "\n{}", markdown::table(&rows));
        }
        section
    }

    fn draw(&self, directory: &Path) -> Result<()> {
        let blocks = self.found.iter().flat_map(|findings| &findings.blocks);
        for block in blocks {
            if let Block::Chart(file, chart) = block {
                write(&directory.join(format!("{file}.svg")), &chart.svg())?;
            }
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let took_s = self.took.as_secs_f64();
        match &self.found {
            Ok(findings) => json!({
                "part": self.part,
                "command": self.command,
                "took_s": took_s,
                "title": findings.title,
                "figures": findings.figures,
            }),
            Err(error) => json!({
                "part": self.part,
                "command": self.command,
                "took_s": took_s,
                "error": format!("{error:#}"),
            }),
        }
    }
}

/// Writes `figures` to `path`.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_json(path: &Path, figures: &impl Serialize) -> Result<()> {
    write(path, &(serde_json::to_string_pretty(figures)? + "\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::bench::chart::Lines;

    fn outcome(part: &'static str, found: Result<Findings>) -> Outcome {
        Outcome {
            part,
            command: format!("cargo xtask bench {part}"),
            took: Duration::from_secs(3),
            found,
        }
    }

    #[test]
    fn a_report_has_what_was_found_and_what_failed() {
        let directory = tempfile::tempdir().unwrap();
        let mut evaluation = Evaluation::new(directory.path()).unwrap();
        let findings = Findings::new("Filling", &json!({"slots": 4}))
            .unwrap()
            .text("Slots a second.")
            .table(vec![vec!["a|b".into()], vec!["c".into()]])
            .chart("fill", Lines::default())
            .ratio(
                Ratio::higher("over-floor", "beside the floor", [0.9])
                    .unwrap()
                    .aim(0.8),
            );
        evaluation.add(outcome("fill", Ok(findings))).unwrap();
        evaluation
            .add(outcome("top", Err(anyhow!("no terminal"))))
            .unwrap();
        let page = fs::read_to_string(evaluation.page()).unwrap();
        for text in ["Filling", "a\\|b", "![](fill.svg)", "no terminal", "met"] {
            assert!(page.contains(text), "no '{text}' in:\n{page}");
        }
        assert!(directory.path().join("fill.svg").exists());
        let report = fs::read_to_string(directory.path().join("report.json")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["ratios"]["fill/over-floor"]["median"], 0.9);
        assert_eq!(report["parts"][1]["error"], "no terminal");
        assert_eq!(evaluation.figures(&["fill"])["slots"], 4);
        assert_eq!(evaluation.figures(&["fill", "top"])["fill"]["slots"], 4);
    }
}

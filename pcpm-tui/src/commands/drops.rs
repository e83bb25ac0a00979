//! `drops`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use pcpm_api::types::{DropCount, DroppedPackets, DropsReply, DropsRequest};
use serde::Serialize;

use super::watch::{end_with_the_reader, ended};
use super::{Session, print_text};
use crate::cli::DropsArgs;
use crate::render::{drops as screen, json};

/// Every reason, described one by one. This is what `--explain` prints.
const REASONS: &str = include_str!("../../../docs/drops.md");

/// What `drops --json` prints.
#[derive(Serialize)]
struct Overview {
    totals: Vec<DropCount>,
    records: Vec<DroppedPackets>,
    records_lost: u64,
}

pub(super) fn drops(session: &Session, args: &DropsArgs) -> Result<ExitCode> {
    if let Some(reason) = &args.explain {
        return explain(reason);
    }
    let request = DropsRequest {
        owner: args.owner.clone(),
        reason: args.reason.clone(),
    };
    if args.follow {
        return follow(session, &request);
    }
    let mut client = session.connect()?;
    let DropsReply {
        records,
        records_lost,
    } = client.drops(&request)?;
    let mut totals = client.status()?.drops;
    totals.retain(|total| request.reason.as_ref().is_none_or(|r| *r == total.reason));
    let overview = Overview {
        totals,
        records,
        records_lost,
    };
    session.print(&overview, |overview| {
        screen::screen(
            &overview.totals,
            &overview.records,
            overview.records_lost,
            session.look,
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn follow(session: &Session, request: &DropsRequest) -> Result<ExitCode> {
    end_with_the_reader();
    for frame in session.connect()?.follow_drops(request)? {
        print_text(&lines(session, &frame?)?)?;
    }
    Err(ended(session, "Drops").into())
}

fn lines(session: &Session, frame: &DropsReply) -> Result<String> {
    if session.json {
        return Ok(json::line(frame)?);
    }
    Ok(screen::lines(frame, session.look))
}

fn explain(reason: &str) -> Result<ExitCode> {
    let Some(section) = section(reason) else {
        let known: Vec<_> = names().collect();
        bail!(
            "no reason is called '{reason}'; there are {}",
            known.join(", ")
        );
    };
    print_text(&format!("{}\n", section.trim()))?;
    Ok(ExitCode::SUCCESS)
}

/// The part of the page about `reason`, without its title.
fn section(reason: &str) -> Option<&'static str> {
    sections().find_map(|(name, text)| (name == reason).then_some(text))
}

fn names() -> impl Iterator<Item = &'static str> {
    sections().map(|(name, _)| name)
}

/// Reasons are titles of the third order.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    let titled = REASONS.split("\n### ").skip(1);
    titled.filter_map(|section| {
        let (name, text) = section.split_once('\n')?;
        let end = text.find("\n## ").unwrap_or(text.len());
        Some((name.trim(), &text[..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_explained_without_its_neighbours() {
        let text = section("other-tenant").unwrap();
        assert!(text.contains("**What to do.**"), "{text}");
        assert!(!text.contains('#'), "{text}");
        assert_eq!(section("bad-luck"), None);
    }

    #[test]
    fn a_reason_may_be_the_last_of_its_group() {
        assert!(names().count() > 30);
        for name in names() {
            assert!(!section(name).unwrap().contains("\n#"), "{name}");
        }
    }
}

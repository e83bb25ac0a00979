//! What operators see of dropped packets.

use std::collections::HashSet;

use pcpm_ebpf::drop_reason::DropReason;

#[test]
fn every_reason_stands_at_its_own_index() {
    for (index, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, index, "{reason:?}");
    }
}

#[test]
fn names_are_distinct_and_kebab_case() {
    let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), DropReason::ALL.len());
    for name in names {
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.chars().all(kebab), "{name}");
    }
}

#[test]
fn descriptions_are_sentences() {
    for reason in DropReason::ALL {
        let text = reason.description();
        assert!(text.ends_with('.') && !text.contains("  "), "{text}");
    }
}

/// The page behind `pcpm drops --explain`.
const PAGE: &str = include_str!("../../../docs/drops.md");

#[test]
fn the_page_of_reasons_tells_each_one_what_it_means_what_causes_it_and_what_to_do() {
    let sections: Vec<_> = PAGE
        .split("\n### ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .collect();
    for reason in DropReason::ALL {
        let name = reason.name();
        let mut about = sections.iter().filter(|(title, _)| *title == name);
        let (_, text) = about
            .next()
            .unwrap_or_else(|| panic!("docs/drops.md: no section '### {name}'"));
        assert!(about.next().is_none(), "docs/drops.md has '{name}' twice");
        for part in ["**Cause.**", "**What to do.**"] {
            assert!(text.contains(part), "docs/drops.md: '{name}' lacks {part}");
        }
    }
    for (title, _) in sections {
        let known = DropReason::ALL.iter().any(|reason| reason.name() == title);
        assert!(known, "docs/drops.md: there is no reason '{title}'");
    }
}

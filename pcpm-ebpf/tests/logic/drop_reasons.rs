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

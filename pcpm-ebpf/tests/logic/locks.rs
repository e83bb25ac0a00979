//! Which long waits are told one by one.

use pcpm_ebpf::locks::{LONG_WAITS_A_SECOND, Telling};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

/// What is told of waits that end at these times after these, in nanoseconds.
fn told(waits: &[(u64, u64)]) -> Vec<u64> {
    let mut telling = Telling::default();
    let told = waits
        .iter()
        .filter(|&&(now_ns, waited_ns)| telling.admits(now_ns, waited_ns));
    told.map(|&(_, waited_ns)| waited_ns).collect()
}

#[test]
fn a_few_are_all_told_whatever_their_length() {
    let waits: Vec<_> = (1..=LONG_WAITS_A_SECOND).rev().map(|n| (0, n)).collect();
    assert_eq!(told(&waits).len(), waits.len());
}

#[test]
fn of_many_only_those_longer_than_all_before_are_told_until_the_second_is_over() {
    let mut waits = vec![(SECOND_NS, 50); 1000];
    waits.extend([(SECOND_NS, 60), (SECOND_NS, 60), (2 * SECOND_NS - 1, 55)]);
    waits.extend([(2 * SECOND_NS, 7)]);
    let told = told(&waits);
    assert_eq!(told.len() as u64, LONG_WAITS_A_SECOND + 2);
    assert_eq!(told[told.len() - 2..], [60, 7]);
}

proptest! {
    #[test]
    fn the_longest_of_a_second_is_told(lengths in prop::collection::vec(any::<u64>(), 1..300)) {
        let waits: Vec<_> = lengths.iter().map(|&waited_ns| (5, waited_ns)).collect();
        prop_assert_eq!(told(&waits).into_iter().max(), lengths.into_iter().max());
    }
}

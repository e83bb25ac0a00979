//! Which dropped packets are told of.

use pcpm_ebpf::abi::DropWindow;
use pcpm_ebpf::drop_sample::RECORDS_PER_SECOND;

const SECOND_NS: u64 = 1_000_000_000;

/// Drops a packet every `step_ns` for `packets` packets; what each record tells.
fn flood(window: &mut DropWindow, packets: u64, step_ns: u64) -> Vec<u32> {
    let mut told = Vec::new();
    for packet in 0..packets {
        if window.count(packet * step_ns) {
            told.push(window.untold);
            window.told();
        }
    }
    told
}

#[test]
fn a_trickle_is_told_packet_by_packet() {
    let mut window = DropWindow::default();
    assert_eq!(flood(&mut window, 50, SECOND_NS / 4), [1; 50]);
}

#[test]
fn a_flood_is_told_at_a_bounded_rate_and_no_packet_is_left_out() {
    let mut window = DropWindow::default();
    // Ten seconds of a million packets a second.
    let told = flood(&mut window, 10_000_000, 1000);
    assert_eq!(told.len(), 10 * usize::from(RECORDS_PER_SECOND));
    assert_eq!(told.iter().sum::<u32>() + window.untold, 10_000_000);
}

#[test]
fn what_found_no_room_is_told_by_the_next_record() {
    let mut window = DropWindow::default();
    for _ in 0..3 {
        assert!(window.count(1));
        window.missed();
    }
    assert!(window.count(2));
    assert_eq!((window.untold, window.missed), (4, 3));
}

#[test]
fn a_clock_that_another_cpu_reads_differently_does_no_harm() {
    let mut window = DropWindow::default();
    assert!(window.count(5 * SECOND_NS));
    assert!(window.count(5 * SECOND_NS - 10));
}

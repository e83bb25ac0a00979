//! What watchers get once a second.

use pcpm_api::types::{PhaseTime, ReportStartRequest, StartPhase, WatchFrame, WatchRequest};

use super::*;
use crate::{engine::figures::Ticker, pool::Quota};

const SECOND: Duration = Duration::from_secs(1);

fn everything() -> WatchRequest {
    WatchRequest {
        figures: Some(true),
        usage: Some(true),
        ..WatchRequest::default()
    }
}

/// A watcher's frame at `now`.
fn frame(bench: &Bench, ticker: &mut Ticker, now: Instant) -> WatchFrame {
    let mut frame = WatchFrame::default();
    ticker.add(&bench.engine.borrow(), &mut frame, now);
    frame
}

#[test]
fn figures_come_once_a_second_to_those_who_ask() {
    let bench = Bench::filled(2);
    let mut ticker = Ticker::new(&everything());
    let begun = Instant::now();
    for (ms, expected) in [
        (0, true),
        (10, false),
        (999, false),
        (1000, true),
        (1500, false),
    ] {
        let told = frame(&bench, &mut ticker, begun + Duration::from_millis(ms));
        assert_eq!(told.figures.is_some(), expected, "after {ms} ms");
        assert_eq!(told.usage.is_some(), expected, "after {ms} ms");
    }
    let mut plain = Ticker::new(&WatchRequest::default());
    assert_eq!(plain.due(), None);
    assert_eq!(frame(&bench, &mut plain, begun), WatchFrame::default());
}

#[test]
fn steps_are_told_since_the_frame_before() {
    let bench = Bench::filled(3);
    let mut ticker = Ticker::new(&everything());
    let begun = Instant::now();
    let count = |frame: WatchFrame, step: &str| -> u64 {
        let steps = frame.steps.unwrap();
        let found = steps.into_iter().find(|told| told.step == step);
        found.map_or(0, |told| told.times.iter().map(|time| time.count).sum())
    };
    let first = frame(&bench, &mut ticker, begun);
    assert_eq!(count(first.clone(), "create"), 3);
    assert_eq!(count(first, "warm"), 0);
    bench.attach(request("a")).unwrap();
    let second = frame(&bench, &mut ticker, begun + SECOND);
    assert_eq!(count(second.clone(), "create"), 0);
    assert_eq!(count(second, "warm"), 1);
}

/// What `caller` is answered who tells of a start of `owner`'s container.
fn told_by(caller: Caller, bench: &Bench, owner: &str, id: Option<&str>) -> Result<(), PoolError> {
    let request = ReportStartRequest {
        owner: owner.to_owned(),
        id: id.map(str::to_owned),
        phases: vec![PhaseTime {
            phase: StartPhase::Create,
            took_us: 1000,
        }],
    };
    bench.engine.borrow_mut().report_start(&request, caller)
}

#[test]
fn starts_are_told_by_whoever_may_detach() {
    let bench = Bench::filled(1);
    let attachment = bench.attach(request("a")).unwrap();
    let id = attachment.0.id().clone();
    told_by(ROOT, &bench, "a", None).unwrap();
    told_by(ROOT, &bench, "a", Some(&id)).unwrap();
    for (owner, id) in [("b", None), ("a", Some("another"))] {
        let refused = told_by(ROOT, &bench, owner, id).unwrap_err();
        assert!(
            matches!(refused, PoolError::NoSuchAttachment { .. }),
            "{refused}"
        );
    }
    let refused = told_by(ALICE, &bench, "a", None).unwrap_err();
    assert!(
        matches!(refused, PoolError::PermissionDenied { .. }),
        "{refused}"
    );
    assert_eq!(bench.engine.borrow().status().starts.create.count, 2);
    let frame = frame(&bench, &mut Ticker::new(&everything()), Instant::now());
    let steps = frame.steps.unwrap();
    let told = steps.iter().find(|told| told.step == "start/create");
    assert_eq!(told.unwrap().times[0].count, 2);
}

#[test]
fn only_attachments_whose_use_changed_are_told() {
    let bench = Bench::filled(2);
    bench.attach(request("a")).unwrap();
    let mut ticker = Ticker::new(&everything());
    let begun = Instant::now();
    let told = |frame: WatchFrame| frame.usage.unwrap();
    assert_eq!(told(frame(&bench, &mut ticker, begun)).len(), 1);
    assert!(told(frame(&bench, &mut ticker, begun + SECOND)).is_empty());
    bench.datapath.counters.borrow_mut().sent_bytes = 9;
    let changed = told(frame(&bench, &mut ticker, begun + 2 * SECOND));
    assert_eq!(changed[0].traffic.sent_bytes, 9);
    bench.engine.borrow_mut().detach("a", None, ROOT).unwrap();
    assert!(told(frame(&bench, &mut ticker, begun + 3 * SECOND)).is_empty());
}

#[test]
fn quotas_are_told_of_tenants_that_have_one_and_hold_something() {
    let limited = Quota {
        attachments: Some(5),
        ..Quota::default()
    };
    let quotas = Quotas {
        tenants: [("shop".to_owned(), limited)].into(),
        ..Quotas::default()
    };
    let bench = Bench::filled_with(3, quotas);
    for (owner, tenant) in [("a", "shop"), ("b", "shop"), ("c", "free")] {
        let mut request = request(owner);
        request.tenant = Some(tenant.to_owned());
        bench.attach(request).unwrap();
    }
    let told = frame(&bench, &mut Ticker::new(&everything()), Instant::now());
    let tenants = told.tenants.unwrap();
    assert_eq!(tenants.len(), 1);
    assert_eq!((tenants[0].attachments, tenants[0].limit), (2, Some(5)));
}

#[test]
fn a_watcher_who_wants_figures_hears_of_what_was_before() {
    let bench = Bench::filled(1);
    bench.attach(request("a")).unwrap();
    let curious = Subscription::new(&bench.engine, &everything());
    let kinds: Vec<_> = curious
        .snapshot()
        .events
        .into_iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(kinds, ["ready", "attached"]);
    let plain = Subscription::new(&bench.engine, &WatchRequest::default());
    assert!(plain.snapshot().events.is_empty());
}

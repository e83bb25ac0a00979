//! What options come to: in the datapath, on the host, and when something fails.

use nix::errno::Errno;
use pcpm_ebpf::{
    abi::{PortKey, PortTarget},
    address::Address,
};

use super::*;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.into()).collect()
}

fn publishing(owner: &str, ports: &[&str]) -> types::AttachRequest {
    types::AttachRequest {
        publish: Some(texts(ports)),
        ..request(owner)
    }
}

fn update_of(owner: &str) -> types::UpdateRequest {
    types::UpdateRequest {
        owner: owner.into(),
        ..types::UpdateRequest::default()
    }
}

/// TCP on every address.
fn key(port: u16) -> PortKey {
    PortKey {
        address: Address::ANY,
        port,
        protocol: 6,
        padding: 0,
    }
}

fn target(slot: u32, epoch: u32, port: u16) -> PortTarget {
    PortTarget {
        slot,
        epoch,
        port,
        ..PortTarget::default()
    }
}

impl Bench {
    fn update(&self, request: &types::UpdateRequest) -> Result<types::Attachment, PoolError> {
        let updated = self.engine.borrow_mut().update(request, ROOT);
        updated.map(|attachment| shown(&attachment))
    }

    fn leads_to(&self, port: u16) -> Option<PortTarget> {
        self.datapath.ports.borrow().get(&key(port)).copied()
    }

    fn refusal(&self, request: types::AttachRequest) -> String {
        let error = self.attach(request).unwrap_err();
        match error {
            PoolError::InvalidArgument { field, reason } => format!("{field}: {reason}"),
            other => other.to_string(),
        }
    }
}

#[test]
fn published_ports_are_reserved_and_lead_to_the_slot_of_this_attachment() {
    let bench = Bench::filled(1);
    let (attached, _) = bench.attach(publishing("a", &["8080-8081:80-81"])).unwrap();
    assert_eq!(bench.leads_to(8080), Some(target(0, 1, 80)));
    assert_eq!(bench.leads_to(8081), Some(target(0, 1, 81)));
    assert_eq!(bench.ports.bound.borrow().len(), 2);
    let attached = shown(&attached);
    assert_eq!(attached.publish.len(), 2);
    assert_eq!(attached.publish[1].host_port, 8081);
    assert_eq!(bench.engine.borrow().status().published_ports, 2);
}

#[test]
fn a_detach_withdraws_what_was_published() {
    let bench = Bench::filled(2);
    bench.attach(publishing("a", &["80:80"])).unwrap();
    bench.engine.borrow_mut().detach("a", None, ROOT).unwrap();
    assert!(bench.datapath.ports.borrow().is_empty());
    assert_eq!(bench.engine.borrow().status().published_ports, 0);
    bench.attach(publishing("b", &["80:80"])).unwrap();
}

#[test]
fn limits_are_in_force_before_the_slot_is_let_out() {
    let bench = Bench::filled(1);
    let limited = types::AttachRequest {
        rate_up: Some(1_000_000),
        rate_down_packets: Some(500),
        ..request("a")
    };
    bench.attach(limited).unwrap();
    let settings = bench.datapath.settings.borrow()[&0];
    assert_eq!((settings.epoch, settings.policy), (1, 0));
    assert_eq!(settings.up.bits_per_second, 1_000_000);
    assert_eq!(settings.down.packets_per_second, 500);
    assert_eq!(settings.down.bits_per_second, 0);
}

#[test]
fn an_attach_without_options_touches_the_word_alone() {
    let bench = Bench::filled(1);
    bench.attach(request("a")).unwrap();
    assert!(bench.datapath.settings.borrow().is_empty());
    assert!(bench.datapath.ports.borrow().is_empty());
    assert!(bench.ports.bound.borrow().is_empty());
}

#[test]
fn the_same_options_are_the_same_attachment_and_others_are_refused() {
    let bench = Bench::filled(2);
    let first = bench.attach(publishing("a", &["80:80", "81:81"])).unwrap();
    let again = bench
        .attach(publishing("a", &["tcp:81:81", "80:80"]))
        .unwrap();
    assert_eq!(shown(&first.0), shown(&again.0));
    let other = types::AttachRequest {
        rate_up: Some(8_000),
        ..publishing("a", &["80-81:80-81"])
    };
    let refused = PoolError::OwnerExists {
        owner: "a".into(),
        field: "rate_up".into(),
    };
    assert_eq!(bench.attach(other).unwrap_err(), refused);
}

#[test]
fn a_port_that_cannot_be_had_leaves_the_slot_ready_and_nothing_behind() {
    let bench = Bench::filled(2);
    bench.attach(publishing("a", &["80:80"])).unwrap();
    let taken = (8080, Errno::EADDRINUSE);
    bench.ports.failures.borrow_mut().push(taken);
    for (ports, reason) in [
        (
            ["81:81", "127.0.0.1:80:80"],
            "publish: port tcp:127.0.0.1:80:80 is published by owner 'a'",
        ),
        (
            ["81:81", "8080:80"],
            "publish: port tcp:8080:80 is taken on the host",
        ),
        (["81:81", "100-110:100-110"], "publish.max_ports"),
    ] {
        let refused = bench.refusal(publishing("b", &ports));
        assert!(refused.contains(reason), "{refused}");
    }
    let status = bench.engine.borrow().status();
    assert_eq!((status.slots.ready, status.slots.attached), (1, 1));
    assert_eq!((status.published_ports, status.attach.refused), (1, 3));
    assert!(bench.work.retire.borrow().is_empty());
    assert_eq!(bench.datapath.published.borrow().len(), 1, "let out");
    bench.attach(publishing("b", &["81:81"])).unwrap();
}

#[test]
fn a_port_that_the_kernel_refuses_undoes_the_others() {
    let bench = Bench::filled(1);
    *bench.datapath.room_for_ports.borrow_mut() = Some(1);
    let refused = bench.refusal(publishing("a", &["80-81:80-81"]));
    assert!(refused.contains("publish port 81"), "{refused}");
    assert!(bench.datapath.ports.borrow().is_empty());
    assert_eq!(bench.engine.borrow().status().published_ports, 0);
}

#[test]
fn waiting_requests_of_one_owner_fail_together() {
    let bench = Bench::new(1, 1);
    let taken = (80, Errno::EADDRINUSE);
    bench.ports.failures.borrow_mut().push(taken);
    let wait = || {
        let request = types::AttachRequest {
            on_empty: Some(OnEmpty::Wait),
            ..publishing("a", &["80:80"])
        };
        match bench.engine.borrow_mut().attach(request, 1, ROOT) {
            Answer::Later(_, receiver) => receiver,
            Answer::Now(answer) => panic!("{answer:?}"),
        }
    };
    let (mut first, mut second) = (wait(), wait());
    bench.work();
    let (first, second) = (first.try_recv().unwrap(), second.try_recv().unwrap());
    assert_eq!(first.unwrap_err(), second.unwrap_err());
    assert_eq!(bench.engine.borrow().status().slots.ready, 1);
}

#[test]
fn an_update_replaces_what_it_names_and_keeps_the_rest() {
    let bench = Bench::filled(1);
    let first = types::AttachRequest {
        rate_up: Some(8_000),
        ..publishing("a", &["80:80", "81:81", "82:82"])
    };
    bench.attach(first).unwrap();
    let change = types::UpdateRequest {
        publish: Some(texts(&["81:81", "82:8082", "83:83"])),
        ..update_of("a")
    };
    let after = bench.update(&change).unwrap();
    assert_eq!(bench.leads_to(80), None);
    assert_eq!(bench.leads_to(81), Some(target(0, 1, 81)));
    assert_eq!(bench.leads_to(82), Some(target(0, 1, 8082)));
    assert_eq!(bench.leads_to(83), Some(target(0, 1, 83)));
    assert_eq!((after.publish.len(), after.rate_up), (3, Some(8_000)));
    assert_eq!(bench.engine.borrow().status().published_ports, 3);
    assert_eq!(bench.ports.bound.borrow().len(), 4, "82 stays as it is");
    let settings = bench.datapath.settings.borrow()[&0];
    assert_eq!(settings.up.bits_per_second, 8_000);
    let (shown_now, _) = bench.engine.borrow().get("a", false, ROOT).unwrap().0;
    assert_eq!(shown(&shown_now), after);
}

#[test]
fn an_update_that_fails_leaves_everything_as_it_was() {
    let bench = Bench::filled(1);
    bench.attach(publishing("a", &["80:80", "81:81"])).unwrap();
    let before = bench.datapath.ports.borrow().clone();
    let change = types::UpdateRequest {
        publish: Some(texts(&["80:8080", "90:90", "91:91"])),
        rate_up: Some(8_000),
        ..update_of("a")
    };
    bench
        .ports
        .failures
        .borrow_mut()
        .push((91, Errno::EADDRINUSE));
    bench.update(&change).unwrap_err();
    assert_eq!(*bench.datapath.ports.borrow(), before);
    bench.ports.failures.borrow_mut().clear();
    *bench.datapath.room_for_ports.borrow_mut() = Some(3);
    bench.update(&change).unwrap_err();
    assert_eq!(*bench.datapath.ports.borrow(), before);
    let engine = bench.engine.borrow();
    assert_eq!(engine.status().published_ports, 2);
    assert!(bench.datapath.settings.borrow().is_empty());
    let ((attachment, _), _) = engine.get("a", false, ROOT).unwrap();
    assert_eq!(shown(&attachment).rate_up, None);
}

#[test]
fn an_update_of_an_attachment_that_is_gone_is_refused() {
    let bench = Bench::filled(2);
    let old = shown(&bench.attach(request("a")).unwrap().0).id;
    let by_id = types::UpdateRequest {
        id: Some(old),
        rate_up: Some(8_000),
        ..update_of("a")
    };
    bench.update(&by_id).unwrap();
    bench.engine.borrow_mut().detach("a", None, ROOT).unwrap();
    bench.attach(request("a")).unwrap();
    let gone = PoolError::NoSuchAttachment { owner: "a".into() };
    assert_eq!(bench.update(&by_id), Err(gone));
}

#[test]
fn watchers_see_an_update() {
    let bench = Bench::filled(1);
    bench.attach(request("a")).unwrap();
    let subscription = Subscription::new(&bench.engine, &types::WatchRequest::default());
    subscription.snapshot();
    bench.update(&update_of("a")).unwrap();
    let frame = subscription.delta();
    assert_eq!(frame.slots.len(), 1);
    assert_eq!(frame.events.last().unwrap().kind, "updated");
}

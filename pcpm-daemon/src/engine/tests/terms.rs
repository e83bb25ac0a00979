//! Rules and limits of classes, beside those that are asked for.

use pcpm_api::{options::Options, types::DefaultPolicy};
use pcpm_ebpf::abi::settings_flag;

use super::{restart::with_everything, *};
use crate::{found::Found, pool::Terms};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.into()).collect()
}

/// The class default with these rules and limits.
fn terms(template: &types::AttachRequest, world: Option<DefaultPolicy>) -> Option<Rc<Terms>> {
    Terms::of_class(Options::of(template).unwrap(), world)
}

fn denying(peer: &str) -> types::AttachRequest {
    types::AttachRequest {
        deny: Some(texts(&[peer])),
        rate_up: Some(1_000_000),
        ..types::AttachRequest::default()
    }
}

fn settings_with(terms: Option<Rc<Terms>>) -> Settings {
    let plain = settings(4, 4, Recycle::Verified);
    let [class] = <[ClassSpec; 1]>::try_from(plain.classes).unwrap();
    Settings {
        classes: vec![ClassSpec { terms, ..class }],
        ..settings(4, 4, Recycle::Verified)
    }
}

fn filled(terms: Option<Rc<Terms>>) -> Bench {
    let settings = settings_with(terms);
    let bench = Bench::with_settings(settings, FakeDatapath::default(), MemoryStorage::default());
    drop(bench.engine.borrow_mut().start());
    bench.work();
    bench
}

impl Bench {
    fn settings(&self, slot: u32) -> pcpm_ebpf::abi::Settings {
        self.datapath.settings.borrow()[&slot]
    }

    /// The next life of the daemon, whose class has these terms.
    fn next_life(&self, terms: Option<Rc<Terms>>) -> Self {
        let (datapath, storage) = (self.datapath.clone(), self.storage.after_crash());
        let next = Self::with_settings(settings_with(terms), datapath, storage);
        let slots = self.there().into_iter().map(restart::sound).collect();
        next.engine.borrow_mut().restore(Found { slots });
        next
    }
}

#[test]
fn an_attachment_has_what_its_class_gives() {
    let bench = filled(terms(&denying("10.0.0.0/8"), Some(DefaultPolicy::Closed)));
    let held = shown(&bench.attach(request("a")).unwrap().0);
    assert_eq!(held.deny, ["10.0.0.0/8"]);
    assert_eq!(held.rate_up, Some(1_000_000));
    let settings = bench.settings(0);
    assert_ne!(settings.policy, 0);
    assert_eq!(settings.up.bits_per_second, 1_000_000);
    let flags = settings_flag::WORLD_CLOSED | settings_flag::LIMIT_UP;
    assert_eq!(settings.flags, flags);
    let status = bench.engine.borrow().status();
    let policy = &status.classes[0].policy;
    assert_eq!(policy.default, Some(DefaultPolicy::Closed));
    assert_eq!(policy.deny, ["10.0.0.0/8"]);
}

#[test]
fn what_is_asked_for_counts_more_than_what_the_class_gives() {
    let bench = filled(terms(&denying("10.0.0.0/8"), None));
    let own = types::AttachRequest {
        allow: Some(texts(&["10.0.0.0/8"])),
        deny: Some(texts(&["192.0.2.0/24"])),
        rate_up: Some(9_000),
        ..request("a")
    };
    let held = shown(&bench.attach(own.clone()).unwrap().0);
    assert_eq!(held.allow, ["10.0.0.0/8"]);
    assert_eq!(held.deny, ["192.0.2.0/24"]);
    assert_eq!(held.rate_up, Some(9_000));
    // It is the same request, whatever the class adds to it.
    assert_eq!(shown(&bench.attach(own).unwrap().0).id, held.id);
}

#[test]
fn an_update_changes_what_was_asked_for_and_keeps_what_the_class_gives() {
    let bench = filled(terms(&denying("10.0.0.0/8"), None));
    let own = types::AttachRequest {
        allow: Some(texts(&["10.0.0.0/8"])),
        rate_up: Some(9_000),
        ..request("a")
    };
    bench.attach(own).unwrap();
    let nothing = types::UpdateRequest {
        owner: "a".into(),
        allow: Some(texts(&[])),
        rate_up: Some(0),
        ..types::UpdateRequest::default()
    };
    let updated = bench.engine.borrow_mut().update(&nothing, ROOT).unwrap();
    let held = shown(&updated);
    assert!(held.allow.is_empty());
    assert_eq!(
        (held.deny.as_slice(), held.rate_up),
        (["10.0.0.0/8".to_owned()].as_slice(), Some(1_000_000))
    );
}

#[test]
fn what_cannot_be_had_with_what_the_class_gives_is_refused_and_leaves_nothing() {
    let full = types::AttachRequest {
        deny: Some((0..200).map(|last| format!("10.0.0.{last}")).collect()),
        ..types::AttachRequest::default()
    };
    let bench = filled(terms(&full, None));
    let more = types::AttachRequest {
        deny: Some((0..100).map(|last| format!("10.0.1.{last}")).collect()),
        ..request("a")
    };
    let refused = bench.attach(more).unwrap_err();
    assert!(
        matches!(refused, PoolError::InvalidArgument { ref field, .. } if field == "deny"),
        "{refused}"
    );
    let counts = bench.engine.borrow().status().slots;
    assert_eq!((counts.attached, counts.ready), (0, 4));
    assert!(bench.datapath.policies.borrow().is_empty());
}

#[test]
fn a_detach_gives_back_the_rules_of_the_class() {
    let bench = filled(terms(&denying("10.0.0.0/8"), None));
    bench.attach(request("a")).unwrap();
    bench.detach("a");
    bench.work();
    // Sets that nobody has rest in the table; the next attachment finds this one.
    let nodes = bench.datapath.policies.borrow().len();
    bench.attach(request("b")).unwrap();
    assert_eq!(bench.datapath.policies.borrow().len(), nodes);
}

#[test]
fn other_terms_are_in_force_at_once_for_all_whom_they_change() {
    let bench = filled(terms(&denying("10.0.0.0/8"), None));
    bench.attach(request("a")).unwrap();
    let own = types::AttachRequest {
        deny: Some(texts(&["10.9.0.0/16"])),
        rate_up: Some(9_000),
        ..request("b")
    };
    bench.attach(own).unwrap();
    let before = bench.settings(1);
    let now = terms(&denying("10.9.0.0/16"), Some(DefaultPolicy::Closed));
    let updated = bench.engine.borrow_mut().set_terms(vec![now.clone()]);
    assert_eq!(updated, 2);
    assert_eq!(bench.show("a").deny, ["10.9.0.0/16"]);
    assert_eq!(bench.show("b").deny, ["10.9.0.0/16"]);
    assert_eq!(bench.show("b").rate_up, Some(9_000));
    let after = bench.settings(1);
    assert_ne!(before.policy, after.policy);
    assert_eq!(
        bench.settings(0).policy,
        after.policy,
        "the rules are the same"
    );
    assert_eq!(bench.events("updated").len(), 2);
    assert_eq!(bench.engine.borrow_mut().set_terms(vec![now]), 0);
    assert_eq!(bench.engine.borrow_mut().set_terms(vec![None]), 2);
    assert_eq!(bench.settings(0).policy, 0);
    assert_eq!(
        bench.show("b").deny,
        ["10.9.0.0/16"],
        "it asked for that itself"
    );
}

#[test]
fn one_that_cannot_have_the_new_terms_keeps_the_old_ones_and_that_is_told() {
    let bench = filled(None);
    let own = types::AttachRequest {
        deny: Some((0..100).map(|last| format!("10.0.1.{last}")).collect()),
        ..request("a")
    };
    bench.attach(own).unwrap();
    bench.attach(request("b")).unwrap();
    let full = types::AttachRequest {
        deny: Some((0..200).map(|last| format!("10.0.0.{last}")).collect()),
        ..types::AttachRequest::default()
    };
    let updated = bench
        .engine
        .borrow_mut()
        .set_terms(vec![terms(&full, None)]);
    assert_eq!(updated, 1);
    assert_eq!(
        (bench.show("a").deny.len(), bench.show("b").deny.len()),
        (100, 200)
    );
    let told = bench.events("updated");
    assert!(
        told.iter()
            .any(|text| text.starts_with("not updated, it keeps what it had: deny: 300 rules")),
        "{told:?}"
    );
}

#[test]
fn a_restart_goes_on_with_the_same_terms() {
    let given = terms(&denying("10.0.0.0/8"), Some(DefaultPolicy::Closed));
    let bench = filled(given.clone());
    bench.attach(with_everything("all")).unwrap();
    bench.attach(request("plain")).unwrap();
    let before = [bench.show("all"), bench.show("plain")];
    let settings = bench.datapath.settings.borrow().clone();
    let policies = bench.datapath.policies.borrow().clone();
    let next = bench.next_life(given);
    assert_eq!([next.show("all"), next.show("plain")], before);
    assert_eq!(*next.datapath.settings.borrow(), settings);
    assert_eq!(*next.datapath.policies.borrow(), policies);
    assert!(next.events("updated").is_empty());
}

#[test]
fn a_restart_puts_other_terms_in_force() {
    let bench = filled(terms(&denying("10.0.0.0/8"), None));
    bench.attach(request("a")).unwrap();
    let before = bench.settings(0).policy;
    let next = bench.next_life(terms(&denying("10.9.0.0/16"), None));
    assert_eq!(next.show("a").deny, ["10.9.0.0/16"]);
    assert_ne!(
        next.settings(0).policy,
        before,
        "no number means two rule sets"
    );
    // And it is written down.
    let again = next.next_life(terms(&denying("10.9.0.0/16"), None));
    assert!(again.events("updated").is_empty());
    let open = again.next_life(None);
    assert!(open.show("a").deny.is_empty());
    assert_eq!(open.settings(0).policy, 0);
}

#[test]
fn what_a_class_gave_that_is_not_there_any_more_stays() {
    let two = |terms| Settings {
        classes: vec![
            class("default", 2, 2, Recycle::Never),
            ClassSpec {
                terms,
                ..class("big", 2, 2, Recycle::Never)
            },
        ],
        ..settings(2, 2, Recycle::Never)
    };
    let given = two(terms(&denying("10.0.0.0/8"), None));
    let bench = Bench::with_settings(given, FakeDatapath::default(), MemoryStorage::default());
    drop(bench.engine.borrow_mut().start());
    bench.work();
    let of_big = types::AttachRequest {
        class: Some("big".into()),
        ..request("a")
    };
    let held = shown(&bench.attach(of_big).unwrap().0);
    let next = bench.next_life(None);
    assert_eq!(next.show("a"), held);
    let own = types::UpdateRequest {
        owner: "a".into(),
        allow: Some(texts(&["10.0.0.0/8"])),
        ..types::UpdateRequest::default()
    };
    let refused = next.engine.borrow_mut().update(&own, ROOT).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("class 'big' is not configured any more"),
        "{refused}"
    );
    let ports = types::UpdateRequest {
        owner: "a".into(),
        publish: Some(texts(&["80:80"])),
        ..types::UpdateRequest::default()
    };
    let updated = next.engine.borrow_mut().update(&ports, ROOT).unwrap();
    assert_eq!(shown(&updated).deny, ["10.0.0.0/8"]);
}

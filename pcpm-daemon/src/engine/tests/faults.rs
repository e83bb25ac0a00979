//! Every step that can fail fails once, and every step is once the last one of a daemon's life: on the journal,
//! the datapath, the host's ports, and the slots in the kernel. What a client was told holds ever after, nobody
//! gets what somebody else had, and nothing is there that nobody knows of.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    restart::{check, with_everything},
    *,
};
use crate::{found::FoundSlot, journal::fake::Power, reaper::Finding};

const SLOTS: u32 = 3;

/// What the kernel has of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Object {
    /// No other one ever has it.
    number: u32,
    is_mounted: bool,
    has_link: bool,
}

impl Object {
    fn is_whole(self) -> bool {
        self.is_mounted && self.has_link
    }
}

/// The kernel's part of slots, which outlives daemons. Its steps are those of `net::SlotKernel`: what fails is
/// undone, what is interrupted stays half done.
#[derive(Debug, Default)]
struct Kernel {
    objects: BTreeMap<SlotIndex, Object>,
    made: u32,
    power: Power,
}

/// A step did not happen.
enum Stopped {
    Failed,
    Dead,
}

impl Kernel {
    fn step(&mut self) -> Result<(), Stopped> {
        if !self.power.suffices() {
            return Err(Stopped::Dead);
        }
        if self.power.fails() {
            return Err(Stopped::Failed);
        }
        Ok(())
    }

    fn create(&mut self, slot: SlotIndex) -> Result<(), Stopped> {
        let before = self.objects.get(&slot);
        assert_eq!(before, None, "slot {slot} is made over another one");
        self.made += 1;
        let number = self.made;
        let made = self.step().and_then(|()| {
            let mounted = Object {
                number,
                is_mounted: true,
                has_link: false,
            };
            self.objects.insert(slot, mounted);
            self.connect(slot)
        });
        if let Err(Stopped::Failed) = made {
            self.objects.remove(&slot);
        }
        made
    }

    /// Makes a link and configures it.
    fn connect(&mut self, slot: SlotIndex) -> Result<(), Stopped> {
        self.step()?;
        self.object(slot).has_link = true;
        let configured = self.step();
        if let Err(Stopped::Failed) = configured {
            self.object(slot).has_link = false;
        }
        configured
    }

    /// All steps are tried.
    fn destroy(&mut self, slot: SlotIndex) -> Result<(), Stopped> {
        let Some(mut object) = self.objects.get(&slot).copied() else {
            return Ok(());
        };
        let mut outcome = Ok(());
        for part in [&mut object.has_link, &mut object.is_mounted] {
            match self.step() {
                Ok(()) => *part = false,
                Err(Stopped::Failed) => outcome = Err(Stopped::Failed),
                Err(Stopped::Dead) => {
                    outcome = Err(Stopped::Dead);
                    break;
                }
            }
        }
        let is_gone = !object.has_link && !object.is_mounted;
        self.objects.insert(slot, object);
        if is_gone {
            self.objects.remove(&slot);
        }
        outcome
    }

    fn mend(&mut self, slot: SlotIndex) -> Result<(), Stopped> {
        if self.object(slot).has_link {
            return Ok(());
        }
        self.connect(slot)
    }

    fn object(&mut self, slot: SlotIndex) -> &mut Object {
        self.objects.get_mut(&slot).expect("it is there")
    }

    /// What a survey of it finds.
    fn found(&self) -> Vec<FoundSlot> {
        let all = self.objects.iter();
        let found = all.map(|(&index, object)| {
            let netns = || File::open("/dev/null").unwrap().into();
            let doubt = match object {
                Object {
                    is_mounted: false, ..
                } => Some("it has a link and no mount"),
                Object {
                    has_link: false, ..
                } => Some("its link is gone"),
                _ => None,
            };
            FoundSlot {
                index,
                netns: object.is_mounted.then(netns),
                doubt: doubt.map(str::to_owned),
                share: net::Share::default(),
            }
        });
        found.collect()
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    Attach(Box<types::AttachRequest>),
    Update(&'static str, &'static [&'static str]),
    Detach(String),
    /// The workers do all there is to do.
    Work,
    Compact,
    /// Somebody deletes the link of the slot that the owner holds, and the reaper finds out.
    Damage(String),
    /// What failed before is tried again, much later.
    Later,
}

/// The machine: a daemon, and what outlives it.
struct Machine {
    bench: Bench,
    kernel: Kernel,
    /// What clients were told: owner, and id and slot of the attachment.
    told: BTreeMap<String, (String, String)>,
    /// Whose answer was under way when the daemon died.
    unsure: Option<String>,
    /// Who had which of the kernel's objects.
    had: BTreeMap<u32, String>,
}

impl Machine {
    fn new() -> Self {
        let bench = Bench::new(SLOTS, SLOTS);
        let kernel = Kernel {
            power: bench.datapath.power.clone(),
            ..Kernel::default()
        };
        bench.storage.live_on(&kernel.power, 0);
        drop(bench.engine.borrow_mut().start());
        Self {
            bench,
            kernel,
            told: BTreeMap::new(),
            unsure: None,
            had: BTreeMap::new(),
        }
    }

    fn is_dead(&self) -> bool {
        self.kernel.power.is_off()
    }

    /// Has it happen, unless the daemon dies of it.
    fn act(&mut self, act: &Act) {
        match act {
            Act::Attach(request) => self.attach(request),
            Act::Update(owner, ports) => self.update(owner, ports),
            Act::Detach(owner) => {
                let engine = self.bench.engine.clone();
                let gone = engine.borrow_mut().detach(owner, None, ROOT).is_ok();
                if self.is_dead() {
                    self.unsure = Some(owner.clone());
                } else if gone {
                    let told = self.told.remove(owner);
                    assert!(told.is_some(), "{owner} had no attachment");
                }
            }
            Act::Work => self.work(),
            Act::Compact => {
                let mut engine = self.bench.engine.borrow_mut();
                let compaction = engine.journal.begin_compaction();
                engine.end_compaction(compaction.run());
            }
            Act::Damage(owner) => self.damage(owner),
            Act::Later => self.later(),
        }
    }

    fn attach(&mut self, request: &types::AttachRequest) {
        let attached = self.bench.attach(request.clone());
        let owner = request.owner.clone();
        if self.is_dead() {
            self.unsure = Some(owner);
        } else if let Ok((attachment, _)) = attached {
            let attachment = shown(&attachment);
            let now = (attachment.id, attachment.slot);
            let before = self.told.insert(owner.clone(), now.clone());
            assert!(
                before.is_none_or(|before| before == now),
                "{owner}: {now:?}"
            );
        }
    }

    fn update(&mut self, owner: &str, ports: &[&str]) {
        let change = types::UpdateRequest {
            owner: owner.to_owned(),
            publish: Some(ports.iter().map(|port| (*port).to_owned()).collect()),
            ..types::UpdateRequest::default()
        };
        // Whether it is refused or not, the attachment goes on.
        let _refused = self.bench.engine.borrow_mut().update(&change, ROOT);
    }

    /// Like the workers, with the kernel's answers.
    fn work(&mut self) {
        loop {
            let work = &self.bench.work;
            let mend = work.mend.borrow_mut().pop();
            let retire = mend.is_none().then(|| work.retire.borrow_mut().pop());
            let retire = retire.flatten();
            let is_idle = mend.is_none() && retire.is_none();
            let create = is_idle.then(|| work.create.borrow_mut().pop()).flatten();
            let reason = || "planned".to_owned();
            let report = match (mend, retire, create) {
                (Some(slot), ..) => match self.kernel.mend(slot) {
                    Ok(()) => Report::Mended {
                        slot,
                        outcome: Ok(()),
                    },
                    Err(Stopped::Failed) => Report::Mended {
                        slot,
                        outcome: Err(reason()),
                    },
                    Err(Stopped::Dead) => return,
                },
                (_, Some(slot), _) => match self.kernel.destroy(slot) {
                    Ok(()) => Report::Retired {
                        slot,
                        took: Duration::from_millis(1),
                    },
                    Err(Stopped::Failed) => Report::RetireFailed {
                        slot,
                        reason: reason(),
                    },
                    Err(Stopped::Dead) => return,
                },
                (.., Some(spec)) => match self.kernel.create(spec.index) {
                    Ok(()) => created(spec.index),
                    Err(Stopped::Failed) => Report::CreateFailed {
                        slot: spec.index,
                        reason: reason(),
                    },
                    Err(Stopped::Dead) => return,
                },
                _ => return,
            };
            self.bench.engine.borrow_mut().report(report);
            if self.is_dead() {
                return;
            }
        }
    }

    fn damage(&mut self, owner: &str) {
        if self.told.contains_key(owner) {
            let slot = self.slot_of(owner);
            self.kernel.object(slot).has_link = false;
            self.look();
        }
    }

    /// The reaper looks twice at everything.
    fn look(&mut self) {
        for slot in self.kernel.found() {
            let finding = match slot.doubt {
                Some(doubt) => Finding::Doubtful {
                    slot: slot.index,
                    doubt,
                    looked_at_ms: u64::MAX,
                },
                None => Finding::Sound { slot: slot.index },
            };
            self.bench.engine.borrow_mut().found(finding);
        }
    }

    fn later(&mut self) {
        for _ in 0..8 {
            {
                let mut engine = self.bench.engine.borrow_mut();
                engine.started -= Duration::from_mins(1);
                engine.try_again();
                engine.feed(Event::Tick, None);
            }
            self.work();
            if self.is_dead() {
                return;
            }
            self.look();
            self.work();
        }
    }

    fn slot_of(&self, owner: &str) -> SlotIndex {
        let engine = self.bench.engine.borrow();
        let mut attached = engine.pool.attached_slots();
        let slot = attached.find(|&slot| engine.pool.holder(slot).unwrap().owner == owner);
        slot.expect("it is attached")
    }

    /// The daemon is dead, or is killed now; the next one starts, and nothing fails any more.
    fn restart(&mut self) {
        let next = self.bench.killed_and_found(self.kernel.found());
        self.kernel.power = next.datapath.power.clone();
        next.storage.live_on(&self.kernel.power, 0);
        self.bench = next;
        assert_eq!(self.bench.events("lost"), [""; 0]);
        self.check();
        // Whoever got no answer asks now.
        let owner = self.unsure.take();
        if let Some(owner) = owner {
            self.told.remove(&owner);
            if self.bench.owners().contains(&owner) {
                let attachment = self.bench.show(&owner);
                self.told.insert(owner, (attachment.id, attachment.slot));
            }
        }
    }

    /// These hold whatever happened, whenever a daemon runs.
    fn check(&mut self) {
        let power = self.kernel.power.clone();
        power.spared(|| self.try_check());
    }

    fn try_check(&mut self) {
        let answered: BTreeSet<_> = self.told.keys().cloned().collect();
        check(&self.bench, &answered, self.unsure.as_ref());
        for (owner, told) in &self.told {
            if Some(owner) != self.unsure.as_ref() {
                let now = self.bench.show(owner);
                assert_eq!((now.id, now.slot), *told, "{owner}");
            }
        }
        for owner in self.bench.owners() {
            let slot = self.slot_of(&owner);
            let object = self.kernel.objects.get(&slot).copied();
            let object = object.unwrap_or_else(|| panic!("{owner} holds nothing"));
            assert!(object.is_mounted, "{owner}");
            let id = self.bench.show(&owner).id;
            let first = self.had.entry(object.number).or_insert_with(|| id.clone());
            assert_eq!(*first, id, "{owner} got what somebody else had");
            let is_told = self.bench.show(&owner).broken.is_some();
            assert!(object.has_link || is_told, "{owner} is broken silently");
        }
        for (&slot, object) in &self.kernel.objects {
            let state = self.bench.state(slot);
            assert_ne!(state, SlotState::Vacant, "nobody knows of slot {slot}");
            let may_be_used = matches!(state, SlotState::Ready | SlotState::Kept);
            assert!(object.is_whole() || !may_be_used, "slot {slot}: {object:?}");
            let is_used = self.had.contains_key(&object.number);
            assert!(!is_used || !may_be_used, "slot {slot} was used");
        }
    }

    /// Once nothing fails any more all is as it should be.
    fn end(mut self) {
        self.restart();
        self.act(&Act::Later);
        self.check();
        let counts = self.bench.engine.borrow().status().slots;
        let held = u32::try_from(self.told.len()).unwrap();
        assert_eq!((counts.attached, counts.ready), (held, SLOTS - held));
        assert_eq!(self.kernel.objects.len(), SLOTS as usize);
        assert!(self.kernel.objects.values().all(|object| object.is_whole()));
        assert_eq!(self.bench.engine.borrow().broken_warning(), None);
        for owner in self.bench.owners() {
            self.act(&Act::Detach(owner));
        }
        self.act(&Act::Later);
        self.check();
        assert_eq!(self.bench.engine.borrow().status().slots.ready, SLOTS);
        assert!(self.bench.datapath.ports.borrow().is_empty());
        assert_eq!(self.bench.engine.borrow().status().published_ports, 0);
    }
}

fn attach(owner: &str) -> Act {
    Act::Attach(Box::new(request(owner)))
}

/// Everything that the engine does to journal, datapath, ports and slots, at least once.
fn story() -> Vec<Act> {
    vec![
        Act::Work,
        attach("a"),
        Act::Attach(Box::new(with_everything("b"))),
        Act::Update("b", &["8080:80", "9090:90"]),
        Act::Damage("b".to_owned()),
        Act::Work,
        Act::Compact,
        Act::Detach("a".to_owned()),
        attach("c"),
        Act::Work,
        Act::Update("b", &["9090:90"]),
        Act::Damage("c".to_owned()),
        Act::Detach("c".to_owned()),
        Act::Work,
        Act::Detach("b".to_owned()),
        Act::Compact,
        Act::Attach(Box::new(with_everything("b"))),
        Act::Work,
        Act::Later,
    ]
}

/// Plays acts with a fault, and says how many operations there were.
fn play(acts: &[Act], prepare: impl FnOnce(&Machine)) -> (i64, i64) {
    let mut machine = Machine::new();
    prepare(&machine);
    for act in acts {
        machine.act(act);
        if machine.is_dead() {
            break;
        }
        machine.check();
    }
    let used = machine.kernel.power.used();
    machine.end();
    used
}

#[test]
fn every_step_that_can_fail_fails_once() {
    let (_, steps) = play(&story(), |_| {});
    assert!(steps > 50, "{steps}");
    for step in 0..steps {
        println!("step {step} of {steps} fails");
        play(&story(), |machine| machine.kernel.power.fail_after(step));
    }
}

#[test]
fn every_step_is_once_the_last_one_of_a_life() {
    let (steps, _) = play(&story(), |_| {});
    for step in 0..steps {
        for last_bytes in [0, 9, 400] {
            println!("the daemon dies in step {step} of {steps}, and writes {last_bytes} bytes");
            play(&story(), |machine| {
                let power = &machine.kernel.power;
                machine.bench.storage.live_on(power, last_bytes);
                power.last_for(step);
            });
        }
    }
}

fn any_act(choice: u8, owner: usize) -> Act {
    const OWNERS: [&str; 4] = ["a", "b", "c", "d"];
    let owner = OWNERS[owner % OWNERS.len()];
    match choice % 12 {
        0..=2 => attach(owner),
        3 | 4 => {
            let port = 8000 + usize::from(owner.as_bytes()[0]);
            Act::Attach(Box::new(types::AttachRequest {
                publish: Some(vec![format!("{port}:80")]),
                ..with_everything(owner)
            }))
        }
        5 | 6 => Act::Detach(owner.to_owned()),
        7 => Act::Update(owner, &["7070:70"]),
        8 => Act::Damage(owner.to_owned()),
        9 => Act::Compact,
        10 => Act::Later,
        _ => Act::Work,
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Random schedules over several lives, in each of which something may fail, and in whose midst the daemon
    /// may die.
    #[test]
    fn whatever_fails_and_whenever_it_dies_what_was_told_holds(
        lives in proptest::collection::vec(
            (
                proptest::collection::vec((proptest::prelude::any::<u8>(), 0..4_usize), 1..60),
                proptest::option::of(0..150_i64),
                proptest::option::of((0..400_i64, 0..300_usize)),
            ),
            1..5,
        ),
    ) {
        let mut machine = Machine::new();
        for (acts, failure, death) in lives {
            if let Some(operations) = failure {
                machine.kernel.power.fail_after(operations);
            }
            if let Some((operations, last_bytes)) = death {
                machine.bench.storage.live_on(&machine.kernel.power, last_bytes);
                machine.kernel.power.last_for(operations);
            }
            for (choice, owner) in acts {
                machine.act(&any_act(choice, owner));
                if machine.is_dead() {
                    break;
                }
                machine.check();
            }
            machine.restart();
        }
        machine.end();
    }
}

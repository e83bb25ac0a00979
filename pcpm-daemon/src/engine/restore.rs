//! Takes over what an earlier life left: its journal, the slots' words in the datapath, and the slots
//! that were found. Each of them alone may be behind; together they tell what to do ([`judge`]).
//!
//! Packets of attachments that live on pass all the time. What nobody is known to hold passes nothing
//! before anything else is looked at.

use std::{
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

use pcpm_api::{publish::Port, types::Lease};
use pcpm_ebpf::abi::AttachmentWord;

use super::{
    Engine, Record,
    attachment::{Origin, SlotText},
    events::Happening,
    options::{complain, has_any, key, settings},
};
use crate::{
    found::{Found, FoundSlot},
    journal::{
        Known, SlotHistory,
        record::{self, Attached, Ready},
    },
    net::slot_name,
    pool::{ClassIndex, Event, Left, Process, Restored, SlotIndex},
    process,
    reservation::{Keeper, ReservationError},
};

/// What becomes of one slot.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// There is nothing.
    Vacant,
    /// It is clean.
    Ready(Ready),
    /// It is clean enough for the tenant that had it.
    Kept(Ready, Rc<str>),
    /// Its attachment lives on.
    Attached(Box<Attached>, Option<Ready>),
    /// It is destroyed, if there is anything of it.
    Spent(Why),
}

/// Why a slot is destroyed.
#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// The earlier life was about to.
    Meant,
    /// Its attachment was being ended.
    Ending,
    /// Its attachment cannot live on.
    Lost(Box<Attached>, String),
    /// Nobody knows what it was used for.
    Unknown(String),
}

/// What is known of one slot.
#[derive(Debug, Default)]
struct Traces {
    known: Option<SlotHistory>,
    word: AttachmentWord,
    found: Option<FoundSlot>,
}

impl Traces {
    /// What is wrong with the slot.
    fn doubt(&self) -> Option<String> {
        let made = self.known.as_ref().and_then(|known| known.made.as_ref());
        let share = made.map(|made| made.share).unwrap_or_default();
        match &self.found {
            None => Some("it is gone".to_owned()),
            Some(found) => found.doubt.clone().or_else(|| share.doubt(found.share)),
        }
    }
}

/// What to do about a slot.
fn judge(traces: &Traces) -> Verdict {
    let found = traces.found.as_ref();
    let doubt = traces.doubt();
    let spent = |why| match found {
        Some(_) => Verdict::Spent(why),
        None => Verdict::Vacant,
    };
    let Some(known) = &traces.known else {
        return spent(Why::Unknown("the journal does not know it".to_owned()));
    };
    let behind = traces.word.epoch() > known.epoch;
    let last_known = "the journal does not know its last attachment".to_owned();
    match &known.state {
        Known::Spent => spent(Why::Meant),
        Known::Ready | Known::Kept(_) if behind || traces.word.is_attached() => {
            spent(Why::Unknown(last_known))
        }
        state @ (Known::Ready | Known::Kept(_)) => match (doubt, known.made.clone()) {
            (None, Some(made)) => match state {
                Known::Kept(tenant) => Verdict::Kept(made, tenant.as_str().into()),
                _ => Verdict::Ready(made),
            },
            (None, None) => spent(Why::Meant),
            (Some(doubt), _) => spent(Why::Unknown(doubt)),
        },
        Known::Attached(attached) if behind => {
            Verdict::Spent(Why::Lost(attached.clone(), last_known))
        }
        Known::Attached(attached) if traces.word == AttachmentWord::detached(attached.epoch) => {
            Verdict::Spent(Why::Ending)
        }
        // As long as its namespace is there whoever is in it can be given everything else again.
        Known::Attached(attached) => match (found.and_then(|found| found.netns.as_ref()), doubt) {
            (None, Some(doubt)) => Verdict::Spent(Why::Lost(attached.clone(), doubt)),
            _ => Verdict::Attached(attached.clone(), known.made.clone()),
        },
    }
}

impl Engine {
    /// Goes on where the last life ended; before the first event.
    pub(crate) fn restore(&mut self, found: Found) {
        let traces = self.traces(found);
        self.cut_others(&traces);
        self.tell_findings();
        let used = self.history.used;
        self.tenants.go_on_after(used.last_tenant);
        let table = self
            .policies
            .begin_restore(used.last_policy, used.last_name, &*self.datapath);
        complain(table);
        let mut restored = Vec::with_capacity(traces.len());
        let mut doubtful = Vec::new();
        for (slot, traces) in traces {
            doubtful.extend(traces.doubt().map(|doubt| (slot, doubt)));
            restored.push(self.restore_slot(slot, traces));
        }
        self.note_started();
        let mut commands = Vec::new();
        self.pool.restore(restored, &mut commands);
        complain(self.policies.end_restore(&mut *self.datapath));
        for command in commands {
            self.carry_out(command);
        }
        self.end_leases();
        self.show_restored();
        self.apply_terms();
        for (slot, doubt) in doubtful {
            if self.pool.holder(slot).is_some() {
                self.break_and_mend(slot, doubt);
            }
        }
        self.after_change();
    }

    /// Everything known about slots.
    fn traces(&mut self, found: Found) -> BTreeMap<SlotIndex, Traces> {
        let room = self.pool.room();
        let mut all = BTreeMap::<SlotIndex, Traces>::new();
        for (slot, known) in std::mem::take(&mut self.history.slots) {
            if slot < room {
                all.entry(slot).or_default().known = Some(known);
            }
        }
        for found in found.slots {
            let slot = found.index;
            all.entry(slot).or_default().found = Some(found);
        }
        for slot in 0..room {
            let word = self.datapath.word(slot);
            if word != AttachmentWord::default() {
                all.entry(slot).or_default().word = word;
            }
        }
        all
    }

    /// Takes back what leads to attachments that do not live on.
    fn cut_others(&mut self, traces: &BTreeMap<SlotIndex, Traces>) {
        let mut led = HashSet::new();
        for (&slot, traces) in traces {
            match judge(traces) {
                Verdict::Attached(attached, _) => {
                    let ports = &attached.holder.options.publish;
                    led.extend(ports.iter().map(|port| (key(port), slot)));
                }
                _ => self.cut(slot, traces.word),
            }
        }
        let ports = self.datapath.published_ports().unwrap_or_else(|error| {
            complain(Err(error));
            Vec::new()
        });
        for (key, target) in ports {
            if !led.contains(&(key, target.slot)) {
                self.withdraw_key(key);
            }
        }
    }

    fn cut(&mut self, slot: SlotIndex, word: AttachmentWord) {
        if word.is_attached() {
            self.datapath
                .publish(slot, AttachmentWord::detached(word.epoch()));
        }
    }

    fn restore_slot(&mut self, slot: SlotIndex, traces: Traces) -> Restored {
        let verdict = judge(&traces);
        let known = traces.known.as_ref();
        let epoch = known
            .map_or(0, |known| known.epoch)
            .max(traces.word.epoch());
        let is_noted_ready =
            known.is_some_and(|known| matches!(known.state, Known::Ready | Known::Kept(_)));
        let is_found = traces.found.is_some();
        let class = self.class_before(&verdict, known);
        let record = &mut self.records[slot as usize];
        record.netns = traces.found.and_then(|found| found.netns);
        record.is_noted_ready = is_noted_ready;
        let now = match verdict {
            Verdict::Vacant => Left::Nothing,
            Verdict::Ready(made) | Verdict::Kept(made, _) if !self.is_as_configured(&made) => {
                Left::Spent
            }
            Verdict::Ready(made) => {
                self.describe(slot, Some(&made));
                Left::Ready
            }
            Verdict::Kept(made, tenant) => {
                self.describe(slot, Some(&made));
                Left::Kept(tenant)
            }
            Verdict::Attached(attached, made) => {
                self.describe(slot, made.as_ref());
                self.restore_attachment(slot, &attached, traces.word)
            }
            Verdict::Spent(why) => {
                self.tell_spent(slot, epoch, why);
                if is_found { Left::Spent } else { Left::Nothing }
            }
        };
        Restored {
            slot,
            class,
            epoch,
            now,
        }
    }

    /// The class that the slot was made for, also where that is not configured any more: an attachment
    /// keeps its class, and what is destroyed takes no place in another one.
    fn class_before(&mut self, verdict: &Verdict, known: Option<&SlotHistory>) -> ClassIndex {
        let name = match verdict {
            Verdict::Attached(attached, _) => &attached.holder.class,
            Verdict::Vacant => return 0,
            _ => match known.and_then(|known| known.made.as_ref()) {
                Some(made) => &made.class,
                None => return 0,
            },
        };
        self.class_of_earlier_life(name)
    }

    /// Whether slots of its class are still made as this one was.
    fn is_as_configured(&self, made: &Ready) -> bool {
        let class = self.class_named(Some(&made.class));
        class.is_ok_and(|class| {
            self.is_mtu_of(class, made.mtu) && self.classes[class].share == made.share
        })
    }

    /// What is said about the slot and does not change.
    fn describe(&mut self, slot: SlotIndex, made: Option<&Ready>) {
        let mtu = made.map_or(self.world.mtu, |made| made.mtu);
        let share = made.map(|made| made.share).unwrap_or_default();
        let text = Rc::new(SlotText::new(&self.world, slot, mtu, share));
        let Record {
            netns,
            is_noted_ready,
            ..
        } = std::mem::take(&mut self.records[slot as usize]);
        self.records[slot as usize] = Record {
            netns,
            is_noted_ready,
            baseline: made.map_or_else(Default::default, |made| {
                record::slot_counters(made.counters)
            }),
            text: Some(text),
            origin: None,
            ..Record::default()
        };
    }

    fn restore_attachment(
        &mut self,
        slot: SlotIndex,
        attached: &Attached,
        word: AttachmentWord,
    ) -> Left {
        if let Err(reason) = self.restore_options(slot, attached) {
            self.cut(slot, word);
            self.tell_lost(slot, attached, reason);
            return Left::Spent;
        }
        let holder = &attached.holder;
        let tenant = self.tenants.restore(&holder.tenant, attached.tenant);
        let word_now = AttachmentWord::attached(attached.epoch, tenant);
        if word != word_now {
            self.datapath.publish(slot, word_now);
        }
        self.records[slot as usize].origin = Some(Origin {
            source: attached.source,
            took_us: attached.took_us,
            attached_at_ms: attached.attached_at_ms,
            life: attached.life,
        });
        Left::Attached(holder.clone())
    }

    /// Makes sure that all of the attachment's options are there. Those that are stay untouched, so that
    /// no packet sees a difference.
    fn restore_options(&mut self, slot: SlotIndex, attached: &Attached) -> Result<(), String> {
        let holder = &attached.holder;
        let options = &holder.options;
        if !has_any(holder) {
            return Ok(());
        }
        let policy = self
            .policies
            .restore(
                &holder.in_force().rules,
                attached.policy,
                &mut *self.datapath,
            )
            .map_err(|error| error.to_string())?;
        if holder.has_settings() {
            let settings = settings(attached.epoch, policy, holder);
            self.datapath.set_settings(slot, &settings);
        }
        if let Err(error) = self.lead(slot, attached.epoch, &options.publish, &[]) {
            self.revoke_options(slot, holder);
            return Err(error.to_string());
        }
        self.unreserved
            .extend(options.publish.iter().map(|&port| (slot, port)));
        for (port, error) in self.reserve_of(slot) {
            let reason = format!("port {port} leads to the slot, but is not reserved: {error}");
            let happening = Happening::Unreserved { reason };
            self.events
                .push(happening, Some(slot), Some(&attached.holder));
        }
        Ok(())
    }

    /// Takes ports on the host that lead to slots and are not taken yet.
    pub(super) fn reserve_missing(&mut self) {
        let slots: HashSet<_> = self.unreserved.iter().map(|(slot, _)| *slot).collect();
        for slot in slots {
            let _still_taken = self.reserve_of(slot);
        }
    }

    fn reserve_of(&mut self, slot: SlotIndex) -> Vec<(Port, ReservationError)> {
        let holder = self.pool.holder(slot);
        let keeper = match holder {
            Some(holder) if !holder.options.reserve_ports => Keeper::ClientAlready,
            _ => Keeper::Daemon,
        };
        let mut failed = Vec::new();
        self.unreserved.retain(|&(of, port)| {
            if of != slot {
                return true;
            }
            let reserved = self.reservations.reserve(slot, &[port], keeper);
            reserved
                .map_err(|error| failed.push((port, error)))
                .is_err()
        });
        failed
    }

    fn tell_findings(&mut self) {
        for finding in &self.findings {
            let happening = Happening::Journal {
                message: finding.to_string(),
                is_trouble: true,
            };
            self.events.push(happening, None, None);
        }
    }

    fn tell_spent(&mut self, slot: SlotIndex, epoch: u32, why: Why) {
        match why {
            Why::Meant => {}
            Why::Ending => self.journal.note(record::Record::Detached { slot, epoch }),
            Why::Lost(attached, reason) => self.tell_lost(slot, &attached, reason),
            Why::Unknown(reason) => {
                tracing::warn!(slot = slot_name(slot), "found and destroyed: {reason}");
            }
        }
    }

    fn tell_lost(&mut self, slot: SlotIndex, attached: &Attached, reason: String) {
        let epoch = attached.epoch;
        let lost = Happening::Lost { reason };
        self.events.push(lost, Some(slot), Some(&attached.holder));
        self.journal.note(record::Record::Detached { slot, epoch });
    }

    /// The connections ended with the daemon, and processes may have since.
    fn end_leases(&mut self) {
        for slot in self.pool.attached_slots().collect::<Vec<_>>() {
            let holder = self.pool.holder(slot).expect("it is attached");
            let lives_on = match (holder.lease, holder.process) {
                (Lease::Explicit, _) => true,
                (Lease::Connection, _) | (Lease::Pid, None) => false,
                (Lease::Pid, Some(process)) => self.lives_with(slot, process),
            };
            if !lives_on {
                self.feed(Event::Detach(slot), None);
            }
        }
    }

    fn lives_with(&mut self, slot: SlotIndex, leased_to: Process) -> bool {
        match process::reopen(leased_to) {
            Ok(pidfd) => match self.process_leases.grant(slot, pidfd) {
                Ok(()) => true,
                Err(errno) => {
                    // Better an attachment too many than a container without its network.
                    tracing::error!(
                        slot = slot_name(slot),
                        "watch process {}: {errno}",
                        leased_to.pid
                    );
                    true
                }
            },
            Err(gone) => {
                tracing::info!(slot = slot_name(slot), "the lease has ended: {gone}");
                false
            }
        }
    }
}

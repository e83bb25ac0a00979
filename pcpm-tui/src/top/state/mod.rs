//! What the dashboard knows and how it is looked at. Frames and actions change it, views are made of it; nothing here
//! knows of terminals, sockets or files.

pub(crate) mod columns;
pub(crate) mod events;
pub(crate) mod filter;
pub(crate) mod history;
pub(crate) mod input;
pub(crate) mod locks;
pub(crate) mod overlay;
pub(crate) mod slots;
pub(crate) mod table;
pub(crate) mod tenants;
pub(crate) mod times;
pub(crate) mod warnings;

mod update;

use pcpm_api::types::{LockWaits, SlotCounts, SlotState, Status, TenantQuota, WatchFrame};

use self::{
    events::{Line, Log},
    history::{History, Range, Sample},
    locks::Locks,
    overlay::Overlay,
    slots::Slots,
    table::Table,
    tenants::{Dropped, Tenant},
    times::{Spread, Step},
};
use super::action::View;
use super::keys::When;

pub(crate) use update::Effect;

/// Lengths of time that fit the screen, in seconds.
const WINDOWS_S: [u64; 6] = [30, 60, 120, 300, 600, 900];

/// What the daemon said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// The daemon's clock in the last frame, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    pub(crate) counts: SlotCounts,
    pub(crate) figures: Option<Status>,
    figures_ms: u64,
    pub(crate) history: History,
    /// Times since the daemon started.
    pub(crate) totals: [Spread; Step::ALL.len()],
    pub(crate) slots: Slots,
    pub(crate) quotas: Vec<TenantQuota>,
    pub(crate) dropped: Dropped,
    pub(crate) log: Log,
    pub(crate) locks: Locks,
}

impl Model {
    /// Takes a frame.
    pub(crate) fn take(&mut self, frame: WatchFrame) {
        self.now_ms = frame.time_ms;
        self.counts = frame.counts;
        self.slots.update(frame.slots, frame.full, frame.time_ms);
        if let Some(figures) = frame.figures {
            self.take_figures(figures, frame.full, &frame.steps.unwrap_or_default());
        }
        if let Some(quotas) = frame.tenants {
            self.quotas = quotas;
        }
        self.log.take(frame.events);
        self.log.lost = self.log.lost.saturating_add(frame.events_lost);
        if let Some(usage) = frame.usage {
            self.slots.used(&usage, frame.time_ms);
        }
        if let Some(dropped) = frame.dropped {
            // The first frame tells of what was before, and after a reconnection again.
            if !frame.full {
                self.dropped.add(&dropped);
                for record in &dropped {
                    self.log.push(record.into());
                }
            }
        }
        for wait in frame
            .locks
            .iter()
            .flatten()
            .flat_map(|second| &second.long_waits)
        {
            self.log.push(wait.into());
        }
        self.locks.take(frame.locks.unwrap_or_default());
        self.locks.unavailable = frame.locks_unavailable;
    }

    fn take_figures(&mut self, now: Status, full: bool, steps: &[pcpm_api::types::StepTimes]) {
        let same_life = self.figures.as_ref().is_some_and(|before| {
            let seconds = self.now_ms.saturating_sub(self.figures_ms) / 1000;
            before.version == now.version
                && now.uptime_s.saturating_add(2) >= before.uptime_s.saturating_add(seconds)
        });
        if full {
            self.totals = Default::default();
            if !same_life {
                self.log.another_life();
            }
        }
        for (total, step) in self.totals.iter_mut().zip(Step::ALL) {
            let told = steps.iter().find(|told| told.step == step.name());
            if let Some(told) = told {
                total.add(&times::Times::new(&told.times));
            }
        }
        let before = self.figures.as_ref().filter(|_| same_life && !full);
        let before = before.map(|before| (self.figures_ms, before));
        // In the first frame times are those since the daemon started: none of this second.
        let steps = if full { &[] } else { steps };
        self.history
            .push(Sample::new(self.now_ms, &now, before, steps));
        (self.figures, self.figures_ms) = (Some(now), self.now_ms);
    }

    pub(crate) fn tenants(&self) -> Vec<Tenant> {
        tenants::tenants(self.slots.rows(), &self.quotas, &self.dropped)
    }

    /// Before a recording is replayed from another place.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Link {
    /// None came yet.
    Connecting,
    Live,
    /// The connection is gone since, is tried again then, by the clock of this machine.
    Lost {
        reason: String,
        since_ms: u64,
        retry_ms: u64,
    },
    Replay(Replay),
}

/// How far a recording was replayed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Replay {
    pub(crate) position_ms: u64,
    pub(crate) length_ms: u64,
    pub(crate) speed: f64,
    pub(crate) ended: bool,
}

/// What cannot be changed while the dashboard runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    pub(crate) read_only: bool,
}

/// See the module's documentation.
pub(crate) struct State {
    live: Model,
    /// What was known when time was stopped, and when, by the clock of this machine.
    frozen: Option<(Box<Model>, u64)>,
    pub(crate) link: Link,
    pub(crate) mode: Mode,
    /// The clock of this machine.
    pub(crate) clock_ms: u64,
    pub(crate) view: View,
    window: usize,
    /// How far the screen ends before the last frame.
    back_ms: u64,
    /// Rows that a screen of the table has.
    pub(crate) page: usize,
    pub(crate) slots: Table,
    pub(crate) tenants: Table,
    pub(crate) events: Table,
    pub(crate) waiters: Table,
    pub(crate) step: usize,
    /// Name and kind of the lock whose waits are drawn, unless it is the one that matters most.
    lock: Option<(String, String)>,
    /// The time that later ones are compared with.
    pub(crate) compared: Option<[Spread; Step::ALL.len()]>,
    pub(crate) overlay: Option<Overlay>,
    /// Something to say for a while, and until when by the clock of this machine.
    notice: Option<(String, u64)>,
    pub(crate) mouse: bool,
}

impl State {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            live: Model::default(),
            frozen: None,
            link: Link::Connecting,
            mode,
            clock_ms: 0,
            view: View::Overview,
            window: 2,
            back_ms: 0,
            page: 10,
            slots: Table::default(),
            tenants: Table::sorted_by(3, true),
            events: Table::sorted_by(0, true),
            waiters: Table::sorted_by(5, true),
            step: 0,
            lock: None,
            compared: None,
            overlay: None,
            notice: None,
            mouse: true,
        }
    }

    /// What is on the screen.
    pub(crate) fn model(&self) -> &Model {
        self.frozen.as_ref().map_or(&self.live, |(model, _)| model)
    }

    /// Whether the waits for this lock are drawn.
    pub(crate) fn is_chosen(&self, lock: &LockWaits) -> bool {
        match &self.lock {
            Some((name, kind)) => lock.lock == *name && lock.kind == *kind,
            None => lock.lock == locks::RTNL,
        }
    }

    /// The name of the lock whose waits are drawn.
    pub(crate) fn lock(&self) -> &str {
        self.lock.as_ref().map_or(locks::RTNL, |(name, _)| name)
    }

    /// The time on the screen.
    pub(crate) fn range(&self) -> Range {
        Range {
            end_ms: self.model().now_ms.saturating_sub(self.back_ms),
            span_ms: self.window_s() * 1000,
        }
    }

    pub(crate) fn window_s(&self) -> u64 {
        WINDOWS_S[self.window]
    }

    /// Takes a frame; a frame is a sign of life.
    pub(crate) fn take(&mut self, frame: WatchFrame) {
        if !matches!(self.link, Link::Live | Link::Replay(_)) {
            if matches!(self.link, Link::Lost { .. }) {
                let line = Line::own(frame.time_ms, "connected", "to pcpmd again".to_owned());
                self.live.log.push(line);
            }
            self.link = Link::Live;
        }
        self.live.take(frame);
    }

    /// The connection is gone; what was known stays.
    pub(crate) fn lost(&mut self, reason: String, retry_ms: u64) {
        let since_ms = if let Link::Lost { since_ms, .. } = &self.link {
            *since_ms
        } else {
            let line = Line::own(self.live.now_ms, "disconnected", reason.clone());
            self.live.log.push(line);
            self.clock_ms
        };
        self.link = Link::Lost {
            reason,
            since_ms,
            retry_ms,
        };
    }

    /// A replay goes on from another place, with nothing known.
    pub(crate) fn restart(&mut self) {
        self.live.forget();
    }

    /// For how long what is shown has been old, if it is paused.
    pub(crate) fn paused_for_ms(&self) -> Option<u64> {
        let (_, since_ms) = self.frozen.as_ref()?;
        Some(self.clock_ms.saturating_sub(*since_ms) + self.back_ms)
    }

    pub(crate) fn back_ms(&self) -> u64 {
        self.back_ms
    }

    pub(crate) fn notice(&self) -> Option<&str> {
        let (text, _) = self.notice.as_ref()?;
        Some(text)
    }

    /// Says something for a while.
    pub(crate) fn notify(&mut self, text: String) {
        const SHOWN_MS: u64 = 6_000;
        self.notice = Some((text, self.clock_ms + SHOWN_MS));
    }

    /// The clock went on. Returns whether something on the screen is about that.
    pub(crate) fn tick(&mut self, clock_ms: u64) -> bool {
        self.clock_ms = clock_ms;
        let expired = self
            .notice
            .as_ref()
            .is_some_and(|(_, until_ms)| *until_ms <= clock_ms);
        if expired {
            self.notice = None;
        }
        expired || self.frozen.is_some() || !matches!(self.link, Link::Live)
    }

    /// Whether what is bound to `when` makes sense now.
    pub(crate) fn can(&self, when: When) -> bool {
        let is_writable = !self.mode.read_only && !matches!(self.link, Link::Replay(_));
        let covered = self.overlay.is_some();
        match when {
            When::Always => true,
            When::Overlay => covered,
            When::Table => self.view != View::Overview || covered,
            When::Filterable => !covered && self.has_filter(),
            When::Row => !covered && self.has_details(),
            When::Filtered => {
                !covered && self.has_filter() && self.filter().is_some_and(|f| !f.is_empty())
            }
            When::Latency => !covered && self.view == View::Latency,
            When::Locks => !covered && self.view == View::Locks,
            When::AttachedSlot => {
                !covered && is_writable && self.selected_slot().is_some_and(slots::Row::is_attached)
            }
            When::ReadySlot => {
                !covered
                    && is_writable
                    && self.selected_slot().is_some_and(|row| {
                        matches!(row.slot.state, SlotState::Ready | SlotState::Kept)
                    })
            }
            When::Writable => !covered && is_writable,
            When::Replay => matches!(self.link, Link::Replay(_)),
        }
    }

    fn has_filter(&self) -> bool {
        matches!(
            self.view,
            View::Slots | View::Tenants | View::Events | View::Locks
        )
    }

    fn has_details(&self) -> bool {
        match self.view {
            View::Overview => !warnings::warnings(self.model()).is_empty(),
            View::Slots => self.selected_slot().is_some(),
            View::Locks => !self.model().locks.waits(self.range()).long.is_empty(),
            View::Events | View::Tenants => true,
            View::Latency => false,
        }
    }

    fn filter(&self) -> Option<&filter::Filter> {
        Some(match self.view {
            View::Slots => &self.slots.filter,
            View::Tenants => &self.tenants.filter,
            View::Events => &self.events.filter,
            View::Locks => &self.waiters.filter,
            View::Overview | View::Latency => return None,
        })
    }

    /// The slot that is selected, where slots are shown.
    pub(crate) fn selected_slot(&self) -> Option<&slots::Row> {
        if self.view != View::Slots {
            return None;
        }
        let model = self.model();
        let selected = self.slots.selected().and_then(|name| model.slots.get(name));
        let is_shown = |row: &&slots::Row| self.slots.filter.lets_through(*row, model.now_ms);
        let first = || self.slots.first(model.slots.rows(), model.now_ms);
        selected.filter(is_shown).or_else(first)
    }
}

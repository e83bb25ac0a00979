//! What actions and typed keys change, and what they want done outside.

use super::{
    State, WINDOWS_S,
    filter::{self, Filter},
    input::{Input, Typed},
    overlay::{Overlay, Request},
    slots,
    table::{Record, Table},
    times::Step,
};
use crate::top::action::{Action, View};

/// Something to be done outside of the state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    Quit,
    Suspend,
    Redraw,
    NextTheme,
    Mouse(bool),
    ExportJson,
    ExportCsv,
    /// Ask the daemon for all about an owner's attachment.
    Details(String),
    Ask(Request),
    /// Replay from a place on, or faster.
    Seek(i64),
    Speed(f64),
    Pause(bool),
}

/// Rows that one turn of the wheel, or a key, moves.
const STEP_OF_SCREEN: u64 = 4;

impl State {
    /// Does what the user wants.
    pub(crate) fn act(&mut self, action: Action) -> Option<Effect> {
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Theme => return Some(Effect::NextTheme),
            Action::ExportJson => return Some(Effect::ExportJson),
            Action::ExportCsv => return Some(Effect::ExportCsv),
            Action::Faster => return self.speed(2.0),
            Action::Slower => return self.speed(0.5),
            Action::Pause => return self.pause(),
            Action::Back => return self.back(),
            Action::Forward => return self.forward(),
            Action::Open => return self.open(),
            Action::Mouse => {
                self.mouse = !self.mouse;
                return Some(Effect::Mouse(self.mouse));
            }
            Action::Show(view) => self.show(view),
            Action::NextView => self.show(self.view.after(1)),
            Action::PreviousView => self.show(self.view.after(View::ALL.len() - 1)),
            Action::ZoomIn => self.window = self.window.saturating_sub(1),
            Action::ZoomOut => self.window = (self.window + 1).min(WINDOWS_S.len() - 1),
            Action::Up => self.go(|at, _| at.saturating_sub(1)),
            Action::Down => self.go(|at, _| at.saturating_add(1)),
            Action::PageUp => self.go(usize::saturating_sub),
            Action::PageDown => self.go(usize::saturating_add),
            Action::First => self.go(|_, _| 0),
            Action::Last => self.go(|_, _| usize::MAX),
            Action::Select(row) => self.go(|_, _| row),
            Action::Lock(row) => self.choose_lock(|_, _| row),
            Action::NextLock => self.choose_lock(|at, locks| (at + 1) % locks),
            Action::PreviousLock => self.choose_lock(|at, locks| (at + locks - 1) % locks),
            Action::Close => self.overlay = None,
            Action::Help => {
                self.overlay = Some(Overlay::Help {
                    search: Input::default(),
                    scroll: 0,
                });
            }
            Action::Filter => self.begin_filter(),
            Action::ClearFilter => self.set_filter("").unwrap_or_default(),
            Action::SortNext => self.sort(|table, columns| table.sort_after(1, columns)),
            Action::SortPrevious => {
                self.sort(|table, columns| table.sort_after(columns - 1, columns));
            }
            Action::Sort(column) => self.sort(|table, _| table.sort_by(column)),
            Action::SortReverse => self.sort(|table, _| table.reverse = !table.reverse),
            Action::Compare => self.compare(),
            Action::Detach | Action::Retire | Action::Drain => self.confirm(action),
            Action::Resize => {
                let target = self.model().counts.target.to_string();
                self.overlay = Some(Overlay::Resize(Input::new(&target)));
            }
        }
        None
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.overlay = None;
    }

    fn speed(&mut self, factor: f64) -> Option<Effect> {
        match &self.link {
            super::Link::Replay(replay) => {
                Some(Effect::Speed((replay.speed * factor).clamp(0.25, 64.0)))
            }
            _ => None,
        }
    }

    /// Stops time on the screen, or lets it go on from now.
    fn pause(&mut self) -> Option<Effect> {
        let paused = self.frozen.is_none();
        self.frozen = paused.then(|| (Box::new(self.live.clone()), self.clock_ms));
        self.back_ms = 0;
        matches!(self.link, super::Link::Replay(_)).then_some(Effect::Pause(paused))
    }

    /// Looks further back, which stops time; a replay itself goes back.
    fn back(&mut self) -> Option<Effect> {
        let step_ms = self.window_s() * 1000 / STEP_OF_SCREEN;
        if matches!(self.link, super::Link::Replay(_)) {
            return Some(Effect::Seek(-i64::try_from(step_ms).unwrap_or(i64::MAX)));
        }
        if self.frozen.is_none() {
            self.pause();
        }
        let oldest = self.model().history.first();
        let furthest = oldest.map_or(0, |oldest| {
            self.model().now_ms.saturating_sub(oldest.time_ms)
        });
        self.back_ms = (self.back_ms + step_ms).min(furthest);
        None
    }

    /// Looks less far back; what is newest goes on.
    fn forward(&mut self) -> Option<Effect> {
        let step_ms = self.window_s() * 1000 / STEP_OF_SCREEN;
        if matches!(self.link, super::Link::Replay(_)) {
            return Some(Effect::Seek(i64::try_from(step_ms).unwrap_or(i64::MAX)));
        }
        if self.back_ms == 0 && self.frozen.is_some() {
            return self.pause();
        }
        self.back_ms = self.back_ms.saturating_sub(step_ms);
        None
    }

    /// Moves the selection: from where it is and the length of a screen to where it shall be.
    fn go(&mut self, to: impl Fn(usize, usize) -> usize) {
        let page = self.page.max(1);
        match &mut self.overlay {
            Some(Overlay::Help { scroll, .. }) => {
                // Where the help ends is known to the view alone.
                *scroll = to(*scroll, page).min(10_000);
                return;
            }
            Some(Overlay::Waits { waits, selected }) => {
                *selected = to(*selected, page).min(waits.len().saturating_sub(1));
                return;
            }
            Some(_) => return,
            None => {}
        }
        let range = self.range();
        let model = self.frozen.as_ref().map_or(&self.live, |(model, _)| model);
        let now_ms = model.now_ms;
        match self.view {
            View::Overview => {}
            View::Latency => self.step = to(self.step, page).min(Step::ALL.len() - 1),
            View::Slots => {
                let rows = self.slots.rows(model.slots.rows(), now_ms);
                let at = to(self.slots.position(&rows), page);
                self.slots.select(&rows, at);
            }
            View::Tenants => {
                let tenants = model.tenants();
                let rows = self.tenants.rows(tenants.iter(), now_ms);
                let at = to(self.tenants.position(&rows), page);
                self.tenants.select(&rows, at);
            }
            View::Events => {
                let rows = self.events.rows(model.log.lines(), now_ms);
                let at = to(self.events.position(&rows), page);
                self.events.select(&rows, at);
            }
            View::Locks => {
                let waits = model.locks.waits(range);
                let rows = self.waiters.rows(waits.waiters.iter(), now_ms);
                let at = to(self.waiters.position(&rows), page);
                self.waiters.select(&rows, at);
            }
        }
    }

    /// Draws the waits for another lock: from its place and their number to the place of the other one.
    fn choose_lock(&mut self, to: impl Fn(usize, usize) -> usize) {
        let locks = self.model().locks.waits(self.range()).locks;
        if locks.is_empty() {
            return;
        }
        let at = locks.iter().position(|lock| self.is_chosen(lock));
        // One that is not on the screen any more is before the first.
        let at = at.unwrap_or(locks.len() - 1);
        let chosen = to(at, locks.len());
        let chosen = locks.into_iter().nth(chosen);
        self.lock = chosen
            .map(|lock| (lock.lock, lock.kind))
            .or(self.lock.take());
    }

    /// All about what is selected.
    fn open(&mut self) -> Option<Effect> {
        let (overlay, effect) = match self.view {
            View::Overview => (Overlay::Warnings, None),
            View::Latency => return None,
            View::Slots => self.open_slot()?,
            View::Tenants => {
                let (model, tenants) = (self.model(), self.model().tenants());
                let rows = self.tenants.rows(tenants.iter(), model.now_ms);
                let row = rows.get(self.tenants.position(&rows))?;
                (Overlay::Tenant(row.name.clone()), None)
            }
            View::Events => {
                let model = self.model();
                let rows = self.events.rows(model.log.lines(), model.now_ms);
                let line = rows.get(self.events.position(&rows))?;
                (Overlay::Event(Box::new((*line).clone())), None)
            }
            View::Locks => {
                let waits = self.model().locks.waits(self.range()).long;
                (Overlay::Waits { waits, selected: 0 }, None)
            }
        };
        self.overlay = Some(overlay);
        effect
    }

    fn open_slot(&self) -> Option<(Overlay, Option<Effect>)> {
        let row = self.selected_slot()?;
        let overlay = Overlay::Slot {
            name: row.slot.slot.clone(),
            told: None,
        };
        let is_live = !matches!(self.link, super::Link::Replay(_));
        let owner = row.slot.owner.clone().filter(|_| is_live);
        Some((overlay, owner.map(Effect::Details)))
    }

    /// The daemon told all about an owner's attachment.
    pub(crate) fn told(
        &mut self,
        owner: &str,
        reply: Result<Box<pcpm_api::types::GetReply>, String>,
    ) {
        let holds = |name: &str| {
            let row = self.model().slots.get(name);
            row.is_some_and(|row| row.owner() == owner)
        };
        let wanted = match &self.overlay {
            Some(Overlay::Slot { name, .. }) => holds(name),
            _ => false,
        };
        if let Some(Overlay::Slot { told, .. }) = &mut self.overlay
            && wanted
        {
            *told = Some(reply);
        }
    }

    fn compare(&mut self) {
        let before = self.compared.take();
        if before.is_none() {
            let (range, history) = (self.range(), &self.model().history);
            self.compared = Some(Step::ALL.map(|step| history.spread(step, range)));
        }
    }

    /// Asks before something is done.
    fn confirm(&mut self, action: Action) {
        let request = match action {
            Action::Drain => {
                let undo = self
                    .model()
                    .figures
                    .as_ref()
                    .is_some_and(|status| status.draining);
                Request::Drain { undo }
            }
            Action::Retire => {
                let Some(slots::Row { slot, .. }) = self.selected_slot() else {
                    return;
                };
                Request::Retire {
                    slot: slot.slot.clone(),
                }
            }
            _ => {
                let Some(slots::Row { slot, .. }) = self.selected_slot() else {
                    return;
                };
                let Some(owner) = slot.owner.clone() else {
                    return;
                };
                Request::Detach {
                    owner,
                    slot: slot.slot.clone(),
                    epoch: slot.epoch,
                }
            }
        };
        self.overlay = Some(Overlay::Confirm(request));
    }

    fn sort(&mut self, change: impl Fn(&mut Table, usize)) {
        use pcpm_api::types::LockWaiter;
        let (table, columns) = match self.view {
            View::Slots => (&mut self.slots, slots::Row::COLUMNS.len()),
            View::Tenants => (&mut self.tenants, super::Tenant::COLUMNS.len()),
            View::Events => (&mut self.events, super::Line::COLUMNS.len()),
            View::Locks => (&mut self.waiters, LockWaiter::COLUMNS.len()),
            View::Overview | View::Latency => return,
        };
        change(table, columns);
    }

    fn begin_filter(&mut self) {
        let Some(filter) = self.filter() else {
            return;
        };
        let before = filter.text().to_owned();
        self.overlay = Some(Overlay::Filter {
            input: Input::new(&before),
            before,
        });
    }

    fn set_filter(&mut self, text: &str) -> Result<(), String> {
        match self.view {
            View::Slots => self.slots.filter = Filter::parse::<slots::Row>(text)?,
            View::Tenants => self.tenants.filter = Filter::parse::<super::Tenant>(text)?,
            View::Events => self.events.filter = Filter::parse::<super::Line>(text)?,
            View::Locks => {
                self.waiters.filter = Filter::parse::<pcpm_api::types::LockWaiter>(text)?;
            }
            View::Overview | View::Latency => {}
        }
        Ok(())
    }

    /// What may end the filter that is being typed.
    pub(crate) fn completions(&self, text: &str) -> Vec<String> {
        let model = self.model();
        match self.view {
            View::Slots => filter::completions(text, model.slots.rows()),
            View::Tenants => filter::completions(text, model.tenants().iter()),
            View::Events => filter::completions(text, model.log.lines()),
            View::Locks => {
                filter::completions(text, model.locks.waits(self.range()).waiters.iter())
            }
            View::Overview | View::Latency => Vec::new(),
        }
    }

    /// Whether keys are letters now.
    pub(crate) fn is_typing(&self) -> bool {
        matches!(
            self.overlay,
            Some(
                Overlay::Filter { .. }
                    | Overlay::Help { .. }
                    | Overlay::Resize(_)
                    | Overlay::Confirm(_)
            )
        )
    }

    /// A key while something is typed or asked.
    pub(crate) fn typed(&mut self, typed: Typed) -> Option<Effect> {
        match self.overlay.take()? {
            Overlay::Filter { input, before } => self.typed_filter(input, before, typed),
            Overlay::Help { search, scroll } => self.typed_help(search, scroll, typed),
            Overlay::Resize(input) => self.typed_size(input, typed),
            Overlay::Confirm(request) => return self.answered(request, typed),
            other => self.overlay = Some(other),
        }
        None
    }

    fn typed_filter(&mut self, mut input: Input, before: String, typed: Typed) {
        match typed {
            Typed::Escape => {
                // It was in force before.
                let _ = self.set_filter(&before);
                return;
            }
            Typed::Enter if input.error.is_none() => return,
            Typed::Tab => {
                if let Some(first) = self.completions(input.text()).first() {
                    let completed = filter::completed(input.text(), first);
                    input.set(completed);
                }
            }
            typed => edit(&mut input, typed),
        }
        input.error = self.set_filter(input.text()).err();
        self.overlay = Some(Overlay::Filter { input, before });
    }

    fn typed_help(&mut self, mut search: Input, scroll: usize, typed: Typed) {
        let scroll = match typed {
            Typed::Escape | Typed::Enter => return,
            Typed::Up => scroll.saturating_sub(1),
            Typed::Down => scroll + 1,
            typed => {
                edit(&mut search, typed);
                0
            }
        };
        self.overlay = Some(Overlay::Help { search, scroll });
    }

    fn typed_size(&mut self, mut input: Input, typed: Typed) {
        let capacity = self.model().counts.capacity;
        match typed {
            Typed::Escape => return,
            Typed::Enter => match input.text().parse() {
                Ok(ready) if ready <= capacity => {
                    self.overlay = Some(Overlay::Confirm(Request::Resize { ready }));
                    return;
                }
                _ => input.error = Some(format!("a number from 0 to {capacity} (the capacity)")),
            },
            typed => {
                edit(&mut input, typed);
                input.error = None;
            }
        }
        self.overlay = Some(Overlay::Resize(input));
    }

    /// Only a clear yes is one.
    fn answered(&mut self, request: Request, typed: Typed) -> Option<Effect> {
        match typed {
            Typed::Letter('y' | 'Y') => return Some(Effect::Ask(request)),
            Typed::Letter('n' | 'N' | 'q') | Typed::Escape => {}
            _ => self.overlay = Some(Overlay::Confirm(request)),
        }
        None
    }
}

fn edit(input: &mut Input, typed: Typed) {
    match typed {
        Typed::Letter(letter) => input.push(letter),
        Typed::Backspace => input.pop(),
        Typed::Word => input.pop_word(),
        Typed::Line => input.clear(),
        Typed::Tab | Typed::Enter | Typed::Escape | Typed::Up | Typed::Down => {}
    }
}

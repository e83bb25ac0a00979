//! What covers a view: help, details, questions.

use pcpm_api::types::{GetReply, LongWait};
use ratatui::layout::Rect;

use super::{
    canvas::{Canvas, below, row},
    grid, help, locks, overview,
    text::wrap,
    theme::Role,
};
use crate::{
    render::humanise,
    top::{
        action::Action,
        keys::Keys,
        num::cells,
        state::{
            State,
            events::Line,
            input::Input,
            overlay::Overlay,
            slots::Row,
            warnings::{Level, warnings},
        },
    },
};

/// A name and what it is.
type Fact = (String, String);

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, footer: Rect, state: &State, keys: &Keys) {
    let Some(overlay) = &state.overlay else {
        return;
    };
    if let Overlay::Filter { input, .. } = overlay {
        return filter(canvas, area, footer, state, input);
    }
    canvas.hits.clear();
    canvas.dim(area);
    match overlay {
        Overlay::Filter { .. } => {}
        Overlay::Help { search, scroll } => {
            let window = window(canvas, area, 90, area.height);
            help::draw(canvas, window, state, keys, search, *scroll);
        }
        Overlay::Slot { name, told } => slot(canvas, area, state, name, told.as_ref()),
        Overlay::Event(line) => event(canvas, area, line),
        Overlay::Tenant(name) => tenant(canvas, area, state, name),
        Overlay::Waits { waits, selected } => stacks(canvas, area, waits, *selected),
        Overlay::Warnings => all_warnings(canvas, area, state),
        Overlay::Confirm(request) => {
            let question = [request.question(), String::new(), "y yes   n no".to_owned()];
            words(canvas, area, "Are you sure?", &question);
        }
        Overlay::Resize(input) => {
            let error = input.error.clone().unwrap_or_default();
            let text = [
                format!("Slots kept ready: {}_", input.text()),
                error,
                "Enter on   Esc no".to_owned(),
            ];
            words(canvas, area, "Resize", &text);
        }
    }
}

/// An emptied place in the middle.
fn window(canvas: &mut Canvas<'_>, area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width - 2), height.min(area.height));
    let window = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    canvas.clear(window);
    window
}

/// A few lines in the middle.
fn words(canvas: &mut Canvas<'_>, area: Rect, title: &str, texts: &[String]) {
    let width = 64.min(area.width - 2);
    let lines: Vec<_> = texts
        .iter()
        .flat_map(|text| wrap(text, usize::from(width) - 4))
        .collect();
    let window = window(canvas, area, width, cells(lines.len()) + 2);
    let inside = canvas.panel(window, title, &[]);
    for (y, line) in (0..inside.height).zip(&lines) {
        canvas.line(row(inside, y), 0, &[(Role::Text, " "), (Role::Text, line)]);
    }
}

/// The line that is typed stands where the footer was; what is wrong, or possible, above it.
fn filter(canvas: &mut Canvas<'_>, area: Rect, footer: Rect, state: &State, input: &Input) {
    canvas.clear(footer);
    canvas.line(
        footer,
        0,
        &[
            (Role::Accent, " / "),
            (Role::Text, input.text()),
            (Role::Accent, "_"),
        ],
    );
    canvas.line_right(
        footer,
        0,
        &[(Role::Dim, "Tab completes  Enter keeps  Esc undoes ")],
    );
    let above = row(area, area.height - 1);
    canvas.clear(above);
    match &input.error {
        Some(error) => canvas.line(above, 0, &[(Role::Bad, " "), (Role::Bad, error)]),
        None if input.text().is_empty() => canvas.line(above, 0, &[(Role::Dim, " words, key:value*, key>number, -not, /regex/, all together: state:attached lat>5ms tenant:a*")]),
        None => {
            let completions = state.completions(input.text()).join("  ");
            canvas.line(above, 0, &[(Role::Dim, " "), (Role::Accent, &completions)])
        }
    };
}

/// Names and what they are, in a window as high as they need.
fn facts(canvas: &mut Canvas<'_>, area: Rect, title: &str, facts: &[Fact]) -> Rect {
    let width = 96.min(area.width - 2);
    let name_width = facts
        .iter()
        .map(|(name, _)| super::text::width(name))
        .max()
        .unwrap_or(0)
        + 2;
    let room = usize::from(width).saturating_sub(name_width + 4).max(8);
    let lines: Vec<_> = facts
        .iter()
        .flat_map(|(name, text)| {
            let wrapped = wrap(&super::text::clean(text), room);
            wrapped
                .into_iter()
                .enumerate()
                .map(move |(number, line)| (if number == 0 { name.as_str() } else { "" }, line))
        })
        .collect();
    let window = window(canvas, area, width, cells(lines.len()) + 2);
    let inside = canvas.panel(window, title, &[(Role::Dim, "Esc: close")]);
    for (y, (name, line)) in (0..inside.height).zip(&lines) {
        let name = format!(" {name:<name_width$}");
        canvas.line(row(inside, y), 0, &[(Role::Dim, &name), (Role::Text, line)]);
    }
    inside
}

fn fact(name: &str, text: impl Into<String>) -> Fact {
    (name.to_owned(), text.into())
}

fn slot(
    canvas: &mut Canvas<'_>,
    area: Rect,
    state: &State,
    name: &str,
    told: Option<&Result<Box<GetReply>, String>>,
) {
    let model = state.model();
    let Some(found) = model.slots.get(name) else {
        words(canvas, area, name, &["vacant now".to_owned()]);
        return;
    };
    let mut all = slot_facts(found, model.now_ms);
    match told {
        Some(Ok(reply)) => all.extend(policy_facts(reply)),
        Some(Err(reason)) => all.push(fact("policy", reason)),
        None => {}
    }
    let room = usize::from(area.height).saturating_sub(all.len() + 3);
    let history = model
        .log
        .lines()
        .rev()
        .filter(|line| line.slot.as_deref() == Some(name));
    for (number, line) in history.take(room.min(8)).enumerate() {
        let label = if number == 0 { "lately" } else { "" };
        let text = format!(
            "{} {} {}",
            grid::time_of_day(line.time_ms),
            line.kind,
            line.message
        );
        all.push(fact(label, text));
    }
    let waits = model
        .log
        .lines()
        .rev()
        .filter(|line| line.kind == "long-wait" && line.message.contains(name));
    for line in waits.take(2) {
        all.push(fact("waited", line.message.clone()));
    }
    facts(canvas, area, name, &all);
}

fn slot_facts(row: &Row, now_ms: u64) -> Vec<Fact> {
    let slot = &row.slot;
    let mut all = vec![
        fact(
            "state",
            format!("{} for {}", slot.state, humanise::age(row.since_ms, now_ms)),
        ),
        fact("epoch", slot.epoch.to_string()),
        fact("addresses", slot.addresses.join(", ")),
    ];
    if let Some(owner) = &slot.owner {
        let tenant = slot.tenant.as_deref().unwrap_or("-");
        all.insert(0, fact("owner", format!("{owner}, tenant {tenant}")));
    }
    if let Some(us) = slot.took_us {
        all.push(fact(
            "attach took",
            format!("{}, {}", humanise::micros(us), row.source()),
        ));
    }
    if row.is_attached() {
        let (traffic, flows) = (&row.traffic, &row.flows);
        let way = |bytes: u64, packets: u64, rate: u64| {
            format!(
                "{} in {} packets, {}/s now",
                humanise::bytes(bytes),
                humanise::count(packets),
                humanise::bytes(rate)
            )
        };
        all.push(fact(
            "sent",
            way(traffic.sent_bytes, traffic.sent_packets, row.sends),
        ));
        all.push(fact(
            "received",
            way(
                traffic.received_bytes,
                traffic.received_packets,
                row.receives,
            ),
        ));
        all.push(fact(
            "dropped",
            format!(
                "{} packets, {}/s now",
                humanise::count(traffic.dropped_packets),
                row.drops
            ),
        ));
        all.push(fact(
            "flows",
            format!(
                "{} of {}, {} opened, {} refused",
                flows.used, flows.limit, flows.opened, flows.refused
            ),
        ));
    }
    if let Some(reason) = &slot.reason {
        all.push(fact("failed", reason.clone()));
    }
    all
}

/// What only the daemon knows of an attachment.
fn policy_facts(reply: &GetReply) -> Vec<Fact> {
    let attachment = &reply.attachment;
    let list = |texts: Vec<String>| {
        if texts.is_empty() {
            "-".to_owned()
        } else {
            texts.join(", ")
        }
    };
    let ports = attachment.publish.iter().map(|port| {
        let address = port
            .host_address
            .as_deref()
            .map_or_else(String::new, |address| format!("{address}:"));
        format!(
            "{} {address}{} to {}",
            port.protocol, port.host_port, port.port
        )
    });
    let rate = |bits: Option<u64>| {
        bits.map_or_else(
            || "unlimited".to_owned(),
            |bits| format!("{} bit/s", humanise::count(bits)),
        )
    };
    vec![
        fact("publish", list(ports.collect())),
        fact("allow", list(attachment.allow.clone())),
        fact("deny", list(attachment.deny.clone())),
        fact(
            "rates",
            format!(
                "up {}, down {}",
                rate(attachment.rate_up),
                rate(attachment.rate_down)
            ),
        ),
        fact(
            "lease",
            attachment.lease_pid.map_or_else(
                || attachment.lease.to_string(),
                |pid| format!("process {pid}"),
            ),
        ),
        fact(
            "labels",
            list(
                attachment
                    .labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect(),
            ),
        ),
        fact("netns", attachment.netns.clone()),
    ]
}

fn event(canvas: &mut Canvas<'_>, area: Rect, line: &Line) {
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let all = [
        fact("time", humanise::moment(line.time_ms)),
        fact("kind", format!("{}, {}", line.kind, line.weight.name())),
        fact("slot", optional(&line.slot)),
        fact("owner", optional(&line.owner)),
        fact("tenant", optional(&line.tenant)),
        fact("message", line.message.clone()),
    ];
    facts(canvas, area, "Event", &all);
}

fn tenant(canvas: &mut Canvas<'_>, area: Rect, state: &State, name: &str) {
    let tenants = state.model().tenants();
    let Some(tenant) = tenants.iter().find(|tenant| tenant.name == name) else {
        words(canvas, area, name, &["holds nothing now".to_owned()]);
        return;
    };
    let quota = tenant
        .limit
        .map_or_else(|| "no quota".to_owned(), |limit| format!("quota {limit}"));
    let mut all = vec![
        fact("attachments", format!("{}, {quota}", tenant.attachments)),
        fact("sends", format!("{}/s", humanise::bytes(tenant.sends))),
        fact(
            "receives",
            format!("{}/s", humanise::bytes(tenant.receives)),
        ),
        fact(
            "so far",
            format!(
                "{} in {} packets",
                humanise::bytes(tenant.bytes),
                humanise::count(tenant.packets)
            ),
        ),
        fact(
            "flows",
            format!(
                "{} now, {} opened",
                tenant.flows,
                humanise::count(tenant.opened)
            ),
        ),
        fact(
            "dropped",
            format!("{} packets", humanise::count(tenant.dropped)),
        ),
    ];
    let reasons = tenant.reasons.iter().enumerate();
    all.extend(reasons.map(|(number, (reason, packets))| {
        fact(
            if number == 0 { "why, lately" } else { "" },
            format!("{reason}: {packets}"),
        )
    }));
    facts(canvas, area, name, &all);
}

/// Rows around a stack: that of the holder, of its title, and an empty one.
const AROUND_STACK: u16 = 3;

fn stacks(canvas: &mut Canvas<'_>, area: Rect, waits: &[LongWait], selected: usize) {
    let room = area.height - 2;
    let deepest = waits.iter().map(|wait| wait.stack.len()).max().unwrap_or(0);
    let below_list = cells(deepest.max(1)) + AROUND_STACK;
    let list_height = cells(waits.len()).min(room.saturating_sub(below_list).max(room / 2));
    let height = (list_height + below_list).min(room) + 2;
    let window = window(canvas, area, area.width - 4, height);
    let title = format!("Longest waits, {} of {}", selected + 1, waits.len());
    let inside = canvas.panel(window, &title, &[(Role::Dim, "Esc: close")]);
    let list = Rect {
        height: list_height.min(inside.height),
        ..inside
    };
    let first = grid::first_row(selected, waits.len(), usize::from(list.height));
    for (y, (number, wait)) in (0..list.height).zip(waits.iter().enumerate().skip(first)) {
        let line = row(list, y);
        locks::long_line(canvas, line, wait);
        if number == selected {
            let style = canvas.theme.selected();
            canvas.highlight(line, style);
        }
        canvas.hit(line, Action::Select(number));
    }
    if let Some(wait) = waits.get(selected) {
        stack(canvas, below(inside, list.height), wait);
    }
}

/// One wait: for which lock, behind whom, and where in the kernel.
fn stack(canvas: &mut Canvas<'_>, area: Rect, wait: &LongWait) {
    let number = |tid: Option<u32>| tid.map_or_else(String::new, |tid| format!("({tid})"));
    let holder = wait.holder.as_deref().map_or_else(
        || "; it is not known who held it".to_owned(),
        |holder| format!("; held by {holder}{}", number(wait.holder_tid)),
    );
    let caller = wait.holder_caller.as_deref();
    let caller = caller.map_or_else(String::new, |caller| format!(" in {caller}"));
    let waiter = format!(" {}({}) for ", wait.thread, wait.tid);
    let spans = [
        (Role::Dim, &*waiter),
        (Role::Text, &wait.lock),
        (Role::Dim, &holder),
        (Role::Dim, &caller),
    ];
    canvas.line(row(area, 1), 0, &spans);
    let title = " the waiter's stack in the kernel, innermost first";
    canvas.line(row(area, 2), 0, &[(Role::Dim, title)]);
    for (y, frame) in (AROUND_STACK..area.height).zip(&wait.stack) {
        let spans = [(Role::Text, "   "), (Role::Text, frame)];
        canvas.line(row(area, y), 0, &spans);
    }
    if wait.stack.is_empty() {
        canvas.line(row(area, AROUND_STACK), 0, &[(Role::Dim, "   not told")]);
    }
}

fn all_warnings(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let model = state.model();
    let found = warnings(model);
    let width = usize::from(96.min(area.width - 2)) - 6;
    let mut lines = Vec::new();
    for warning in &found {
        let role = match warning.level {
            Level::Bad => Role::Bad,
            Level::Warning => Role::Warning,
        };
        let since = warning.since_ms.map_or_else(String::new, |since_ms| {
            format!(", for {}", humanise::age(since_ms, model.now_ms))
        });
        let sign = overview::sign(canvas.theme.ascii, warning.level);
        let what = wrap(
            &super::text::clean(&format!("{}{since}", warning.what)),
            width,
        );
        lines.extend(
            what.into_iter()
                .enumerate()
                .map(|(number, line)| (role, if number == 0 { sign } else { "   " }, line)),
        );
        lines.extend(
            wrap(&warning.advice, width)
                .into_iter()
                .map(|line| (Role::Text, "   ", line)),
        );
        lines.push((Role::Text, "", String::new()));
    }
    if lines.is_empty() {
        lines.push((Role::Good, " ", "all is well".to_owned()));
    }
    let window = window(canvas, area, 96, cells(lines.len()) + 2);
    let inside = canvas.panel(window, "Warnings", &[(Role::Dim, "Esc: close")]);
    for (y, (role, sign, line)) in (0..inside.height).zip(&lines) {
        canvas.line(row(inside, y), 0, &[(*role, *sign), (*role, line)]);
    }
}

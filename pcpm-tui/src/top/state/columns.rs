//! The columns of every table.

use std::borrow::Cow;

use pcpm_api::types::LockWaiter;

use super::{
    events::Line,
    slots::Row,
    table::{Column, Record, Unit, Value},
    tenants::Tenant,
};

/// Wider than any screen: not drawn, but there to filter and to sort by, and in files.
const FILTER_ONLY: u16 = 1000;

/// A column of text.
const fn text<R>(
    title: &'static str,
    key: &'static str,
    width: u16,
    rank: u8,
    value: for<'a> fn(&'a R) -> Value<'a>,
) -> Column<R> {
    number(title, key, Unit::Text, width, rank, value)
}

/// Any column.
const fn number<R>(
    title: &'static str,
    key: &'static str,
    unit: Unit,
    width: u16,
    rank: u8,
    value: for<'a> fn(&'a R) -> Value<'a>,
) -> Column<R> {
    Column {
        title,
        key,
        unit,
        width,
        rank,
        value,
    }
}

fn optional(text: Option<&str>) -> Value<'_> {
    Value::text(text.unwrap_or_default())
}

/// Numbers of attachments mean nothing where there is none.
fn held(row: &Row, number: u64) -> Value<'_> {
    Value::number(row.is_attached().then_some(number))
}

impl Record for Row {
    const COLUMNS: &'static [Column<Self>] = &[
        text("SLOT", "slot", 6, 0, |row| Value::text(&row.slot.slot)),
        text("STATE", "state", 10, 0, |row| {
            Value::text(row.slot.state.as_str())
        }),
        text("OWNER", "owner", 12, 0, |row| Value::text(row.owner())),
        text("TENANT", "tenant", 8, 2, |row| Value::text(row.tenant())),
        text("ADDRESS", "address", 12, 4, |row| {
            optional(row.slot.addresses.first().map(String::as_str))
        }),
        number("AGE", "age", Unit::Age, 6, 1, |row| {
            Value::Number(row.since_ms)
        }),
        number("EPOCH", "epoch", Unit::Count, 5, 8, |row| {
            Value::Number(row.slot.epoch.into())
        }),
        number("TX/s", "tx", Unit::Rate, 8, 1, |row| held(row, row.sends)),
        number("", "sent", Unit::Past, 10, 5, |row| {
            past(row, row.sent.iter())
        }),
        number("RX/s", "rx", Unit::Rate, 8, 1, |row| {
            held(row, row.receives)
        }),
        number("", "received", Unit::Past, 10, 6, |row| {
            past(row, row.received.iter())
        }),
        number("DROPS", "drops", Unit::Count, 6, 2, |row| {
            held(row, row.traffic.dropped_packets)
        }),
        number("FLOWS", "flows", Unit::Count, 5, 3, |row| {
            held(row, row.flows.used.into())
        }),
        number("LAT", "lat", Unit::Micros, 7, 3, |row| {
            Value::number(row.slot.took_us)
        }),
        text("FROM", "from", 4, 7, |row| Value::text(row.source())),
        text("REASON", "reason", 6, 9, |row| {
            optional(row.slot.reason.as_deref())
        }),
    ];

    fn id(&self) -> Cow<'_, str> {
        self.slot.slot.as_str().into()
    }
}

fn past<'a>(row: &Row, past: impl Iterator<Item = &'a u32>) -> Value<'static> {
    if row.is_attached() {
        Value::Past(past.map(|&rate| rate.into()).collect())
    } else {
        Value::Missing
    }
}

impl Record for Tenant {
    const COLUMNS: &'static [Column<Self>] = &[
        text("TENANT", "tenant", 12, 0, |tenant| {
            Value::text(&tenant.name)
        }),
        number("SLOTS", "slots", Unit::Count, 6, 0, |tenant| {
            Value::Number(tenant.attachments)
        }),
        number("QUOTA", "quota", Unit::Count, 6, 1, |tenant| {
            Value::number(tenant.limit.map(Into::into))
        }),
        number("TX/s", "tx", Unit::Rate, 9, 0, |tenant| {
            Value::Number(tenant.sends)
        }),
        number("RX/s", "rx", Unit::Rate, 9, 0, |tenant| {
            Value::Number(tenant.receives)
        }),
        number("", "traffic", Unit::Past, 20, 3, |tenant| {
            Value::Past(tenant.traffic.clone())
        }),
        number("BYTES", "bytes", Unit::Bytes, 9, 2, |tenant| {
            Value::Number(tenant.bytes)
        }),
        number("PACKETS", "packets", Unit::Count, 8, 5, |tenant| {
            Value::Number(tenant.packets)
        }),
        number("FLOWS", "flows", Unit::Count, 6, 2, |tenant| {
            Value::Number(tenant.flows)
        }),
        number("OPENED", "opened", Unit::Count, 7, 4, |tenant| {
            Value::Number(tenant.opened)
        }),
        number("DROPS", "drops", Unit::Count, 6, 1, |tenant| {
            Value::Number(tenant.dropped)
        }),
        text("WHY", "why", 14, 6, |tenant| {
            let reasons = tenant.reasons.iter().take(3);
            let reasons: Vec<_> = reasons.map(|(reason, n)| format!("{reason} {n}")).collect();
            if reasons.is_empty() {
                Value::Missing
            } else {
                Value::Text(reasons.join(", ").into())
            }
        }),
    ];

    fn id(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }
}

impl Record for Line {
    const COLUMNS: &'static [Column<Self>] = &[
        number("TIME", "time", Unit::Moment, 12, 0, |line| {
            Value::Number(line.time_ms)
        }),
        text("KIND", "kind", 12, 0, |line| Value::text(&line.kind)),
        text("LEVEL", "level", FILTER_ONLY, 6, |line| {
            Value::text(line.weight.name())
        }),
        text("SLOT", "slot", 6, 2, |line| optional(line.slot.as_deref())),
        text("OWNER", "owner", 14, 1, |line| {
            optional(line.owner.as_deref())
        }),
        text("TENANT", "tenant", 10, 4, |line| {
            optional(line.tenant.as_deref())
        }),
        text("MESSAGE", "message", 28, 0, |line| {
            Value::text(&line.message)
        }),
    ];

    fn id(&self) -> Cow<'_, str> {
        let slot = self.slot.as_deref().unwrap_or_default();
        format!("{} {} {slot} {}", self.time_ms, self.kind, self.message).into()
    }
}

impl Record for LockWaiter {
    const COLUMNS: &'static [Column<Self>] = &[
        text("LOCK", "lock", 14, 1, |waiter| Value::text(&waiter.lock)),
        text("WAITER", "waiter", 16, 0, |waiter| {
            Value::text(&waiter.thread)
        }),
        text("OPERATION", "operation", 14, 2, |waiter| {
            optional(waiter.operation.as_deref())
        }),
        text("IN", "in", 18, 3, |waiter| Value::text(&waiter.caller)),
        number("WAITS", "waits", Unit::Count, 7, 0, |waiter| {
            Value::Number(waiter.waits)
        }),
        number("TOTAL", "total", Unit::Micros, 8, 0, |waiter| {
            Value::Number(waiter.total_us)
        }),
        number("MAX", "max", Unit::Micros, 8, 1, |waiter| {
            Value::Number(waiter.max_us)
        }),
    ];

    fn id(&self) -> Cow<'_, str> {
        let operation = self.operation.as_deref().unwrap_or_default();
        format!("{} {} {} {operation}", self.lock, self.caller, self.thread).into()
    }
}

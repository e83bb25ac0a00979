//! Measurements as `OpenMetrics` text. Labels come from bounded sets: never a series for each slot.

use std::fmt;

use pcpm_api::types::Status;
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
        text::encode,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    engine::{Measurements, Times},
    locks::{LockHistory, LockTotals},
};

/// What every name begins with.
const PREFIX: &str = "pcpm";
const US_PER_S: f64 = 1e6;
const NS_PER_S: f64 = 1e9;

/// The text for `GET /metrics`.
///
/// # Errors
/// None that are known: a string takes everything that is written to it.
pub(super) fn text(measurements: Measurements, locks: &LockHistory) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Exposition {
        measurements,
        locks: locks.totals(),
        lock_insight: locks.why_unavailable().is_none(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The same in the older format of Prometheus (text, version 0.0.4), which names counters with their suffix and
/// knows neither units nor an end.
pub(super) fn classic(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let counter = |line: &str| {
            let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
            Some(name.to_owned())
        };
        let next = lines.peek().copied().unwrap_or_default();
        match counter(line).or_else(|| counter(next)) {
            Some(name) if line.starts_with('#') => {
                let suffixed = format!("{name}_total");
                classic.push_str(&line.replacen(&name, &suffixed, 1));
            }
            _ => classic.push_str(line),
        }
        classic.push('\n');
    }
    classic
}

#[derive(Debug)]
struct Exposition {
    measurements: Measurements,
    locks: LockTotals,
    lock_insight: bool,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let Measurements {
            status,
            steps,
            tenants,
            other_tenants,
            journal_works,
        } = &self.measurements;
        let mut out = Families(encoder);
        daemon(&mut out, status, *journal_works)?;
        pool(&mut out, status)?;
        out.gauges(
            ("tenant_attachments", "Attachments of each tenant"),
            "tenant",
            tenants.iter().map(|(tenant, n)| (tenant.as_str(), *n)),
        )?;
        let about = "Attachments of the tenants that are not told by name";
        out.gauge("other_tenant_attachments", about, *other_tenants)?;
        times(&mut out, steps)?;
        traffic(&mut out, status)?;
        waits(&mut out, &self.locks, self.lock_insight)
    }
}

fn daemon(out: &mut Families, status: &Status, journal_works: bool) -> fmt::Result {
    // As a gauge, since the format of Prometheus knows no other.
    let version = [(status.version.as_str(), 1_u32)];
    out.gauges(("build_info", "The daemon's version"), "version", version)?;
    out.gauge(
        "uptime_seconds",
        "Time since the daemon started",
        status.uptime_s,
    )?;
    out.gauge("clients", "Connections of clients", status.clients)?;
    let memory = status.memory.daemon_rss_bytes;
    out.gauge("resident_memory_bytes", "Memory of the daemon", memory)?;
    let about = "Whether the daemon can write its journal; if not it refuses attaches";
    out.gauge("journal_writable", about, u32::from(journal_works))?;
    let warnings = status.warnings.len() as u64;
    out.gauge("warnings", "Warnings that pcpm status shows", warnings)
}

fn pool(out: &mut Families, status: &Status) -> fmt::Result {
    let slots = &status.slots;
    out.gauges(
        ("slots", "Slots in each state"),
        "state",
        [
            ("ready", slots.ready),
            ("attached", slots.attached),
            ("creating", slots.creating),
            ("retiring", slots.retiring),
            ("failed", slots.failed),
            ("vacant", slots.vacant),
        ],
    )?;
    out.gauge("slots_capacity", "Slots that there may be", slots.capacity)?;
    let about = "Slots that the daemon aims to keep ready";
    out.gauge("slots_target", about, slots.target)?;
    out.gauge(
        "waiting_requests",
        "Requests that wait for a slot",
        slots.waiting,
    )?;
    let about = "Whether no new attachments are taken";
    out.gauge("draining", about, u32::from(status.draining))?;
    let attach = &status.attach;
    out.counters(
        (
            "attaches",
            "Attach requests that got a slot, by where it came from",
        ),
        "source",
        [("warm", attach.warm), ("cold", attach.cold)],
    )?;
    out.counters(
        ("attaches_refused", "Attach requests that got none"),
        "reason",
        [("exhausted", attach.exhausted), ("other", attach.refused)],
    )?;
    out.counter("detaches", "Attachments that ended", attach.detached)?;
    let refill = &status.refill;
    out.counter("slots_created", "Slots made", refill.created)?;
    out.counter("slots_retired", "Slots destroyed", refill.retired)?;
    out.counter(
        "slots_failed",
        "Slots that could not be made",
        refill.failed,
    )?;
    let recycled = status.recycle.recycled;
    out.counter(
        "slots_recycled",
        "Used slots that were as good as new",
        recycled,
    )?;
    let unclean = status.recycle.unclean.iter();
    out.counters(
        (
            "slots_unclean",
            "Used slots that were not, by what was not as it was made",
        ),
        "what",
        unclean.map(|unclean| (unclean.what.as_str(), unclean.slots)),
    )
}

/// The steps are of three kinds: what a client waits for, what the refill does, and what the shims tell.
fn times(out: &mut Families, steps: &[(&'static str, Times)]) -> fmt::Result {
    let is_attach = |step: &str| step == "warm" || step == "cold";
    let phase = |step: &'static str| step.strip_prefix("start/");
    out.histograms(
        (
            "attach_duration",
            "From a request to its reply, by where the slot came from",
        ),
        "source",
        named(steps).filter(|(step, _)| is_attach(step)),
    )?;
    out.histograms(
        (
            "slot_step_duration",
            "Steps of making, judging and destroying a slot",
        ),
        "step",
        named(steps).filter(|(step, _)| !is_attach(step) && phase(step).is_none()),
    )?;
    out.histograms(
        (
            "container_start_duration",
            "Phases of the starts of containers, as the engine shims tell",
        ),
        "phase",
        named(steps).filter_map(|(step, times)| Some((phase(step)?, times))),
    )
}

fn named<'a>(
    steps: &'a [(&'static str, Times)],
) -> impl Iterator<Item = (&'static str, &'a Times)> {
    steps.iter().map(|(step, times)| (*step, times))
}

fn traffic(out: &mut Families, status: &Status) -> fmt::Result {
    let uplinks = status.uplinks.len() as u64;
    out.gauge("uplinks", "Interfaces that lead to the world", uplinks)?;
    let ports = status.published_ports;
    out.gauge(
        "published_ports",
        "Ports of the host that lead to slots",
        ports,
    )?;
    out.counters(
        (
            "dropped_packets",
            "Packets dropped, by reason (docs/drops.md)",
        ),
        "reason",
        status
            .drops
            .iter()
            .map(|drop| (drop.reason.as_str(), drop.packets)),
    )?;
    let flows = &status.flows;
    out.gauge("flows", "Entries of the flow table in use", flows.used)?;
    out.gauge(
        "flows_capacity",
        "Entries of the flow table",
        flows.capacity,
    )?;
    out.counter(
        "flows_opened",
        "Entries of the flow table made",
        flows.opened,
    )?;
    let about = "Entries of the flow table that were dead and collected";
    out.counter("flows_collected", about, flows.collected)?;
    out.counters(
        ("flows_refused", "Packets that were refused a flow"),
        "reason",
        [
            ("limit", flows.refused_limit),
            ("full", flows.refused_full),
            ("ports", flows.refused_ports),
        ],
    )
}

fn waits(out: &mut Families, locks: &LockTotals, available: bool) -> fmt::Result {
    let about = "Whether waits for the kernel's locks are seen";
    out.gauge("lock_insight", about, u32::from(available))?;
    out.counters(
        (
            "lock_waits",
            "Waits for locks of the kernel, of all threads of the host",
        ),
        "lock",
        locks.iter().map(|(lock, waits)| (lock, waits.count)),
    )?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds with a fraction are told"
    )]
    let seconds = |ns: u64| ns as f64 / NS_PER_S;
    out.counters(
        (
            "lock_wait_seconds",
            "Time spent in waits for locks of the kernel",
        ),
        "lock",
        locks
            .iter()
            .map(|(lock, waits)| (lock, seconds(waits.total_ns))),
    )
}

/// Writes metrics, family by family.
struct Families<'a>(DescriptorEncoder<'a>);

/// Name and description.
type About<'a> = (&'a str, &'a str);

impl Families<'_> {
    fn family<'s>(
        &'s mut self,
        (name, about): About<'s>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, about, None, kind)
    }

    fn gauge<V>(&mut self, name: &str, about: &str, value: V) -> fmt::Result
    where
        V: EncodeGaugeValue + Copy,
    {
        let mut family = self.family((name, about), MetricType::Gauge)?;
        family.encode_gauge(&value)
    }

    fn gauges<'l, V: EncodeGaugeValue>(
        &mut self,
        (name, about): About,
        label: &str,
        values: impl IntoIterator<Item = (&'l str, V)>,
    ) -> fmt::Result {
        let mut family = self.family((name, about), MetricType::Gauge)?;
        values
            .into_iter()
            .try_for_each(|(of, value)| family.encode_family(&[(label, of)])?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, about: &str, value: u64) -> fmt::Result {
        let mut family = self.family((name, about), MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<'l, V: EncodeCounterValue>(
        &mut self,
        (name, about): About,
        label: &str,
        values: impl IntoIterator<Item = (&'l str, V)>,
    ) -> fmt::Result {
        let mut family = self.family((name, about), MetricType::Counter)?;
        values.into_iter().try_for_each(|(of, value)| {
            let label = [(label, of)];
            let mut series = family.encode_family(&label)?;
            series.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds with a fraction are told"
    )]
    fn histograms<'l>(
        &mut self,
        (name, about): About,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, &'l Times)>,
    ) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        let mut family = self
            .0
            .encode_descriptor(name, about, unit, MetricType::Histogram)?;
        values.into_iter().try_for_each(|(of, times)| {
            let below = times.below_us.iter();
            let mut buckets: Vec<_> = below.map(|&(us, n)| (us as f64 / US_PER_S, n)).collect();
            let told: u64 = buckets.iter().map(|(_, n)| n).sum();
            buckets.push((f64::MAX, times.count - told));
            let label = [(label, of)];
            let mut series = family.encode_family(&label)?;
            let total = times.total.as_secs_f64();
            series.encode_histogram::<NoLabelSet>(total, times.count, &buckets, None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_with_their_suffix() {
        let text = "# HELP pcpm_a Things of pcpm_a\n# TYPE pcpm_a counter\npcpm_a_total 1\n\
                    # HELP pcpm_b_seconds B\n# TYPE pcpm_b_seconds histogram\n\
                    # UNIT pcpm_b_seconds seconds\npcpm_b_seconds_sum 0.0\n# EOF\n";
        let expected = "# HELP pcpm_a_total Things of pcpm_a\n# TYPE pcpm_a_total counter\npcpm_a_total 1\n\
                        # HELP pcpm_b_seconds B\n# TYPE pcpm_b_seconds histogram\npcpm_b_seconds_sum 0.0\n";
        assert_eq!(classic(text), expected);
    }
}

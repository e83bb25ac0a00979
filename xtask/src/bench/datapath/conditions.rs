//! Under what conditions `bench datapath` measured: the machine, the command, and the links at the ends
//! of every path, which have to be alike for figures to compare.

use anyhow::{Context, Result};
use pcpm_tests::Place;
use serde::Serialize;

use super::paths::{Kind, Path, RULES_PER_SLOT};

/// Offloads that decide how long a packet is on its way through a path, and what a link does at
/// reception: a veth with GRO polls (NAPI), one without hands packets on at once.
const FEATURES: [&str; 6] = [
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "tx-udp-segmentation",
    "generic-segmentation-offload",
    "generic-receive-offload",
];

#[derive(Debug, Serialize)]
pub(super) struct Conditions {
    pub(super) rounds: u32,
    pub(super) seconds: f64,
    rules_per_slot: u32,
    ends: Vec<End>,
}

/// The link of a client or server.
#[derive(Debug, Serialize)]
struct End {
    path: Kind,
    whose: &'static str,
    link: Link,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Link {
    mtu: u64,
    qdisc: String,
    queue_length: u64,
    gso_max_size: u64,
    gso_max_segments: u64,
    gro_max_size: u64,
    /// Of [`FEATURES`], those that are on.
    features: Vec<&'static str>,
}

impl Conditions {
    /// Reads them of the machine, and of each end of `paths`.
    ///
    /// # Errors
    /// When `ip` or `ethtool` fails.
    pub(super) fn read(paths: &[Path], rounds: u32, seconds: f64) -> Result<Self> {
        let ends = paths.iter().flat_map(|path| {
            let ends = path.ends().into_iter();
            ends.map(|(whose, place)| End::read(path.kind, whose, place))
        });
        Ok(Self {
            rounds,
            seconds,
            rules_per_slot: RULES_PER_SLOT,
            ends: ends.collect::<Result<_>>()?,
        })
    }

    /// What is compared, and what is not alike.
    pub(super) fn text(&self) -> String {
        let what = format!(
            "Medians of {} interleaved rounds of {} s and half of what lies between the quartiles; within a round \
             the median round trip, the median connection, the median 5 ms of throughput and packets. Everywhere the same \
             code as client and server; both on one CPU for round trips and connections, on two for throughput \
             and packets. (c) and (d) see bridged packets as well (bridge-nf-call-iptables), and let known \
             connections pass first; (d) has {} rules a slot.",
            self.rounds, self.seconds, self.rules_per_slot,
        );
        let lines = [what, String::new()].into_iter().chain(self.differences());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The links of all ends in one line, as far as they are alike.
    fn differences(&self) -> Vec<String> {
        let Some(first) = self.ends.first() else {
            return Vec::new();
        };
        let others = self.ends.iter().filter(|end| end.link != first.link);
        let others = others.map(|end| {
            let (path, link) = (end.path.name(), end.link.text());
            format!("- other: {path}, {}: {link}", end.whose)
        });
        let all = format!("The ends' links: {}.  ", first.link.text());
        [all].into_iter().chain(others).collect()
    }
}

impl End {
    fn read(path: Kind, whose: &'static str, place: &Place) -> Result<Self> {
        let link = Link::read(place);
        let link = link.with_context(|| format!("the link of {whose}, {}", path.name()))?;
        Ok(Self { path, whose, link })
    }
}

impl Link {
    fn read(place: &Place) -> Result<Self> {
        let links = place.tool("ip -d -j link show eth0").json()?;
        let link = &links[0];
        let number = |name: &str| link[name].as_u64().with_context(|| format!("no {name}"));
        let offloads = place.tool("ethtool -k eth0").run()?;
        let is_on = |feature: &&str| offloads.contains(&format!("{feature}: on"));
        Ok(Self {
            mtu: number("mtu")?,
            qdisc: link["qdisc"].as_str().unwrap_or_default().to_owned(),
            queue_length: number("txqlen")?,
            gso_max_size: number("gso_max_size")?,
            gso_max_segments: number("gso_max_segs")?,
            gro_max_size: number("gro_max_size")?,
            features: FEATURES.into_iter().filter(is_on).collect(),
        })
    }

    fn text(&self) -> String {
        format!(
            "MTU {}, qdisc {}, queue {}, GSO up to {} bytes and {} segments, GRO up to {} bytes; on: {}",
            self.mtu,
            self.qdisc,
            self.queue_length,
            self.gso_max_size,
            self.gso_max_segments,
            self.gro_max_size,
            self.features.join(", ")
        )
    }
}

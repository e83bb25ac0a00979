//! Medians, ratios and plots of `bench attach`.

use anyhow::Result;
use serde::Serialize;

use super::QUEUE;
use crate::bench::chart::{Line, Lines, Point};
use crate::bench::findings::{Findings, Ratio, Rows};
use crate::bench::spread::Spread as Quartiles;
use crate::report::{Spread, time};

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) slots: u32,
    pub(super) request_bytes: usize,
    pub(super) reply_bytes: usize,
    pub(super) clients: Vec<AtOnce>,
    pub(super) idle: IdleEffect,
    pub(super) sizes: Vec<OfSize>,
}

/// Times of one client and of the echo's, who took turns, in each round.
#[derive(Debug, Default, Serialize)]
pub(super) struct InTurn {
    pub(super) attach: Vec<Spread>,
    pub(super) echo: Vec<Spread>,
}

/// One client and a pool of one size.
#[derive(Debug, Serialize)]
pub(super) struct OfSize {
    pub(super) slots: u32,
    #[serde(flatten)]
    pub(super) times: InTurn,
}

/// Times at one number of clients, in each round.
#[derive(Debug, Serialize)]
pub(super) struct AtOnce {
    pub(super) clients: usize,
    pub(super) attach: Vec<Spread>,
    /// Until the last of those that asked in one moment was answered.
    pub(super) all_attached_us: Vec<f64>,
    pub(super) echo: Vec<Spread>,
    pub(super) on_demand: Vec<Spread>,
    /// Out of a queue inside the asking process; none where it was not measured.
    pub(super) queue: Vec<Spread>,
}

/// One client, alone and beside clients of the daemon that do nothing.
#[derive(Debug, Serialize)]
pub(super) struct IdleEffect {
    pub(super) idle_clients: usize,
    pub(super) alone: InTurn,
    pub(super) beside_idle: InTurn,
}

impl Figures {
    pub(super) fn findings(&self) -> Result<Findings> {
        let findings = Findings::new("Attach: from request to answer", self)?
            .text(format!(
                "Clients that ask in the same moment, on the CPU of the server: for an attach, of an echo on the same kind of socket \
                 with requests of {} bytes and answers of {} (the floor), and for networks made on demand by plain netlink, \
                 the fastest there is without a pool. {} slots. And threads of one process that take networks out of a queue in it, as \
                 E2B's orchestrator does: {QUEUE} of them with five iptables rules each are kept ready by one thread, so that no socket is \
                 in between, and the queue runs dry.",
                self.request_bytes, self.reply_bytes, self.slots
            ))
            .table(self.rows()?)
            .chart("attach-clients", self.chart()?)
            .text("One client, and pools of several sizes:")
            .table(self.size_rows()?)
            .chart("attach-sizes", self.size_chart()?)
            .text(self.idle.line()?)
            .ratios(self.ratios()?);
        Ok(findings)
    }

    /// Of what was measured.
    fn ratios(&self) -> Result<Vec<Ratio>> {
        let mut ratios = Vec::new();
        let (one, hundred) = (self.at(1), self.at(100));
        if let Some(one) = one {
            ratios.push(Ratio::lower(
                "one-over-echo",
                "one client: attach / echo",
                over(&one.attach, &one.echo),
            )?);
        }
        if let Some(hundred) = hundred {
            ratios.extend(hundred.ratios_of_hundred()?);
        }
        if let (Some(one), Some(hundred)) = (one, hundred) {
            // The median says little: who shares a processor with the server reads most answers when the last one is given.
            let what = "100 clients: until all are attached / 100 in turn, each as one alone is";
            let pairs = hundred.all_attached_us.iter().zip(&one.attach);
            let turns = pairs.map(|(all_us, one)| all_us / (100.0 * one.p50_us));
            ratios.push(Ratio::lower("hundred-over-turns", what, turns)?.aim(1.2));
        }
        ratios.extend(self.size_ratio()?);
        ratios.push(self.idle.ratio()?);
        Ok(ratios)
    }

    fn at(&self, count: usize) -> Option<&AtOnce> {
        self.clients.iter().find(|row| row.clients == count)
    }

    /// The largest pool beside the smallest.
    fn size_ratio(&self) -> Result<Option<Ratio>> {
        let [small, .., large] = self.sizes.as_slice() else {
            return Ok(None);
        };
        let pairs = large.times.over_echo().zip(small.times.over_echo());
        let what = format!(
            "attach / echo: pool of {} / pool of {}",
            large.slots, small.slots
        );
        let ratio = Ratio::lower("large-pool-over-small", &what, pairs.map(|(l, s)| l / s))?;
        Ok(Some(ratio.aim(1.2)))
    }

    fn size_rows(&self) -> Result<Rows> {
        let heading = "slots|attach p50|quartiles|p99|echo p50|quartiles|p99";
        let mut rows = vec![heading.split('|').map(str::to_owned).collect()];
        for size in &self.sizes {
            let mut row = vec![size.slots.to_string()];
            for rounds in [&size.times.attach, &size.times.echo] {
                row.extend(cells(rounds)?);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn size_chart(&self) -> Result<Lines> {
        let line = |name: &str, of: fn(&OfSize) -> &[Spread]| {
            let points = self.sizes.iter().map(|size| {
                Ok(Point {
                    x: f64::from(size.slots),
                    y: p50(of(size))?,
                })
            });
            Ok::<_, anyhow::Error>(Line {
                name: name.to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        };
        Ok(Lines {
            title: "One client, and the size of the pool".to_owned(),
            x_title: "slots".to_owned(),
            y_title: "us, median".to_owned(),
            x_logarithmic: true,
            series: vec![
                line("attach", |size| &size.times.attach)?,
                line("echo (floor)", |size| &size.times.echo)?,
            ],
            ..Lines::default()
        })
    }

    fn rows(&self) -> Result<Rows> {
        let heading = "clients|attach p50|quartiles|p99|echo p50|quartiles|p99|on demand p50|quartiles|p99|\
                       queue p50|quartiles|p99";
        let mut rows = vec![heading.split('|').map(str::to_owned).collect()];
        for at_once in &self.clients {
            let mut row = vec![at_once.clients.to_string()];
            for (_, of) in SERIES {
                match of(at_once) {
                    [] => row.extend(["-"; 3].map(str::to_owned)),
                    rounds => row.extend(cells(rounds)?),
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Lines> {
        let series = SERIES.map(|(name, of)| {
            let measured = self
                .clients
                .iter()
                .filter(|at_once| !of(at_once).is_empty());
            let points = measured.map(|at_once| at_once.point(of));
            Ok(Line {
                name: name.to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        });
        Ok(Lines {
            title: "From request to answer, all clients at once".to_owned(),
            x_title: "clients at once".to_owned(),
            y_title: "us, median".to_owned(),
            x_logarithmic: true,
            y_logarithmic: true,
            series: series.into_iter().collect::<Result<_>>()?,
            ..Lines::default()
        })
    }
}

/// What is asked for, by name.
type Series = (&'static str, fn(&AtOnce) -> &[Spread]);

const SERIES: [Series; 4] = [
    ("attach", |at_once| &at_once.attach),
    ("echo (floor)", |at_once| &at_once.echo),
    ("network on demand", |at_once| &at_once.on_demand),
    ("queue in the process", |at_once| &at_once.queue),
];

impl AtOnce {
    fn ratios_of_hundred(&self) -> Result<[Ratio; 3]> {
        let tails = self.queue.iter().zip(&self.attach);
        Ok([
            Ratio::lower(
                "hundred-over-echo",
                "100 clients: attach / echo",
                over(&self.attach, &self.echo),
            )?,
            Ratio::higher(
                "hundred-on-demand-over-attach",
                "100 at once: network on demand / attach",
                over(&self.on_demand, &self.attach),
            )?,
            Ratio::higher(
                "hundred-queue-over-attach",
                &format!("100 at once: p99 out of a queue of {QUEUE} / p99 of an attach"),
                tails.map(|(queue, attach)| queue.p99_us / attach.p99_us),
            )?,
        ])
    }

    #[expect(clippy::cast_precision_loss, reason = "a thousand clients")]
    fn point(&self, of: fn(&Self) -> &[Spread]) -> Result<Point> {
        Ok(Point {
            x: self.clients as f64,
            y: p50(of(self))?,
        })
    }
}

/// The median with the quartiles of the rounds, and p99, as cells of a table.
fn cells(rounds: &[Spread]) -> Result<[String; 3]> {
    let [median, quartiles] = p50(rounds)?.time_cells();
    let p99 = Quartiles::of(rounds.iter().map(|round| round.p99_us))?.median;
    Ok([median, quartiles, time(p99)])
}

/// The medians of all rounds.
fn p50(rounds: &[Spread]) -> Result<Quartiles> {
    Quartiles::of(rounds.iter().map(|round| round.p50_us))
}

/// The medians of one in those of another, round by round.
fn over<'a>(one: &'a [Spread], other: &'a [Spread]) -> impl Iterator<Item = f64> + 'a {
    let pairs = one.iter().zip(other);
    pairs.map(|(one, other)| one.p50_us / other.p50_us)
}

impl InTurn {
    fn over_echo(&self) -> impl Iterator<Item = f64> + '_ {
        over(&self.attach, &self.echo)
    }
}

impl IdleEffect {
    fn ratio(&self) -> Result<Ratio> {
        let pairs = self.beside_idle.over_echo().zip(self.alone.over_echo());
        Ratio::lower(
            "beside-idle-over-alone",
            "attach / echo: one client beside 1,000 idle ones / alone",
            pairs.map(|(beside, alone)| beside / alone),
        )
    }

    fn line(&self) -> Result<String> {
        Ok(format!(
            "The median of a client alone is {:.1} us, and {:.1} us of the echo in the same milliseconds; beside {} idle clients of the daemon \
             {:.1} us and {:.1} us.",
            p50(&self.alone.attach)?.median,
            p50(&self.alone.echo)?.median,
            self.idle_clients,
            p50(&self.beside_idle.attach)?.median,
            p50(&self.beside_idle.echo)?.median,
        ))
    }
}

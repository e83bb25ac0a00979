//! The same traffic through the product and through Linux's own translation (nftables `masquerade` and
//! `dnat`): slot and world must see the same. Where they do not on purpose, `rules` says why.
#![expect(
    clippy::unwrap_used,
    reason = "all of this is a test: what cannot be fails it"
)]

mod packet;
mod rules;
mod traffic;
mod twin;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::packet::{TCP, UDP};
use crate::traffic::{Episode, Flow, Random, Step, from_world, protocol_of};
use crate::twin::{PUBLISHED, Seen, Twin};

const SEED: u64 = 0x5043_504d;
const EPISODES: u16 = 300;
const PEERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 77),
    Ipv4Addr::new(203, 0, 113, 200),
];
/// Differences shown of many.
const SHOWN: usize = 3;

type MakeFlow = fn(u8, u16, &mut Random) -> Flow;
type Scenario = fn(&mut Random) -> Vec<Step>;

#[test]
fn tcp_connections_look_as_they_do_behind_netfilter() -> Result<()> {
    let outcomes = compare(traffic::tcp_connection)?;
    assert!(
        !outcomes.intended.contains_key(rules::OUT_OF_STATE),
        "{outcomes:?}"
    );
    Ok(())
}

#[test]
fn odd_tcp_looks_as_it_does_behind_netfilter() -> Result<()> {
    compare(traffic::tcp_oddity)?;
    Ok(())
}

#[test]
fn datagrams_look_as_they_do_behind_netfilter() -> Result<()> {
    compare(traffic::udp_exchange)?;
    Ok(())
}

#[test]
fn echoes_look_as_they_do_behind_netfilter() -> Result<()> {
    compare(traffic::echo_exchange)?;
    Ok(())
}

#[test]
fn icmp_errors_look_as_they_do_behind_netfilter() -> Result<()> {
    compare(traffic::errors)?;
    Ok(())
}

#[test]
fn fragments_look_as_they_do_behind_netfilter() -> Result<()> {
    compare(traffic::fragments)?;
    Ok(())
}

#[test]
fn unsolicited_packets_meet_what_they_meet_behind_netfilter() -> Result<()> {
    compare(traffic::unsolicited)?;
    Ok(())
}

#[test]
fn connections_to_published_ports_look_as_they_do_behind_netfilter() -> Result<()> {
    compare_inbound(|random| from_world(traffic::tcp_connection(random)))
}

#[test]
fn datagrams_to_published_ports_look_as_they_do_behind_netfilter() -> Result<()> {
    compare_inbound(|random| from_world(traffic::udp_exchange(random)))
}

#[test]
fn fragments_to_published_ports_look_as_they_do_behind_netfilter() -> Result<()> {
    compare_inbound(|random| from_world(traffic::fragments(random)))
}

#[test]
fn errors_about_published_ports_look_as_they_do_behind_netfilter() -> Result<()> {
    compare_inbound(|random| from_world(traffic::errors_about_ports(random)))
}

/// Plays episodes of `scenario` to both twins.
fn compare(scenario: Scenario) -> Result<Outcomes> {
    compare_flows(scenario, outbound)
}

/// The same with conversations that the world opens through a published port.
fn compare_inbound(scenario: Scenario) -> Result<()> {
    compare_flows(scenario, inbound)?;
    Ok(())
}

fn compare_flows(scenario: Scenario, flow: MakeFlow) -> Result<Outcomes> {
    stay_on_one_cpu()?;
    let (mut ours, mut theirs) = (Twin::ours()?, Twin::netfilters()?);
    let mut random = Random(SEED);
    let mut outcomes = Outcomes::default();
    for number in 0..EPISODES {
        let steps = scenario(&mut random);
        let flow = flow(protocol_of(&steps), number, &mut random);
        let episode = Episode { flow, steps };
        play(&mut ours, &mut theirs, &episode, &mut outcomes)?;
    }
    outcomes.judge();
    Ok(outcomes)
}

fn outbound(protocol: u8, number: u16, random: &mut Random) -> Flow {
    Flow {
        protocol,
        slot_port: 2000 + number,
        peer: random.pick(&PEERS),
        peer_port: match protocol {
            TCP => random.pick(&[80, 443, 8080]),
            UDP => random.pick(&[53, 443, 4500]),
            _ => 0,
        },
        published_port: None,
    }
}

fn inbound(protocol: u8, number: u16, random: &mut Random) -> Flow {
    let (outside, inside) = PUBLISHED;
    Flow {
        protocol,
        slot_port: inside,
        peer: random.pick(&PEERS),
        peer_port: 2000 + number,
        published_port: Some(outside),
    }
}

/// Until the first difference: what comes after it follows from it.
fn play(ours: &mut Twin, theirs: &mut Twin, episode: &Episode, out: &mut Outcomes) -> Result<()> {
    ours.begin(episode.flow);
    theirs.begin(episode.flow);
    for (index, step) in episode.steps.iter().enumerate() {
        let (left, mut right) = (ours.play(step)?, theirs.play(step)?);
        rules::forget_hop_to_slot(step, &mut right);
        if left == right {
            out.same += left.at_slot.len() + left.at_world.len();
            continue;
        }
        match rules::intended(step, &left, &right) {
            Some(reason) => *out.intended.entry(reason).or_default() += 1,
            None => out.faults.push(describe(episode, index, &left, &right)),
        }
        break;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Outcomes {
    /// Packets that both twins delivered alike.
    same: usize,
    intended: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}

impl Outcomes {
    fn judge(&self) {
        println!("{} packets alike; intended: {:?}", self.same, self.intended);
        let shown: Vec<_> = self.faults.iter().take(SHOWN).map(String::as_str).collect();
        assert!(
            self.faults.is_empty(),
            "{} differences, among them:\n{}",
            self.faults.len(),
            shown.join("\n\n")
        );
        assert!(self.same >= usize::from(EPISODES) / 2, "{self:?}");
    }
}

fn describe(episode: &Episode, index: usize, ours: &Seen, theirs: &Seen) -> String {
    let before = episode.steps[..index]
        .iter()
        .map(|step| (step.from, step.what));
    let before: Vec<_> = before.collect();
    format!(
        "{:?}\nafter {before:?}\n{:?}\nleads to\n{ours:#?}\nand behind netfilter to\n{theirs:#?}",
        episode.flow, episode.steps[index]
    )
}

/// So that no packet overtakes another on its way through the kernel.
fn stay_on_one_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

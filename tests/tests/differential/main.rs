//! The same traffic through the product and through Linux's own translation (nftables `masquerade` and
//! `dnat`), of both versions of IP: slot and world must see the same. Where they do not on purpose,
//! `rules` says why.
#![expect(
    clippy::unwrap_used,
    reason = "all of this is a test: what cannot be fails it"
)]

mod conversation;
mod packet;
mod rules;
mod sight;
mod traffic;
mod twin;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::packet::{TCP, UDP, Version};
use crate::sight::Seen;
use crate::traffic::{Episode, Flow, Random, Step, from_world, protocol_of};
use crate::twin::{PUBLISHED, Twin};

const SEED: u64 = 0x5043_504d;
const EPISODES: u16 = 300;
const PEERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 77),
    Ipv4Addr::new(203, 0, 113, 200),
];
const PEERS6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x77),
    Ipv6Addr::new(0x2001, 0xdb8, 0xff, 3, 2, 1, 0, 0xfffe),
];
/// Differences shown of many.
const SHOWN: usize = 3;

type MakeFlow = fn(u8, u16, Version, &mut Random) -> Flow;
type Scenario = fn(&mut Random, Version) -> Vec<Step>;

/// A test with each version of IP.
macro_rules! in_both {
    ($($name:ident, $name6:ident: $compare:expr;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            $compare(Version::V4)
        }

        #[test]
        fn $name6() -> Result<()> {
            $compare(Version::V6)
        }
    )*};
}

in_both! {
    tcp_connections_look_as_they_do_behind_netfilter,
    tcp_connections_over_ipv6_look_as_they_do_behind_netfilter: tcp_connections;

    odd_tcp_looks_as_it_does_behind_netfilter,
    odd_tcp_over_ipv6_looks_as_it_does_behind_netfilter:
        |version| compare(traffic::tcp_oddity, version);

    datagrams_look_as_they_do_behind_netfilter,
    datagrams_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare(traffic::udp_exchange, version);

    echoes_look_as_they_do_behind_netfilter,
    echoes_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare(traffic::echo_exchange, version);

    icmp_errors_look_as_they_do_behind_netfilter,
    icmp_errors_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare(traffic::errors, version);

    fragments_look_as_they_do_behind_netfilter,
    fragments_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare(traffic::fragments, version);

    unsolicited_packets_meet_what_they_meet_behind_netfilter,
    unsolicited_packets_over_ipv6_meet_what_they_meet_behind_netfilter:
        |version| compare(traffic::unsolicited, version);

    connections_to_published_ports_look_as_they_do_behind_netfilter,
    connections_to_published_ports_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare_inbound(|r, v| from_world(traffic::tcp_connection(r, v)), version);

    datagrams_to_published_ports_look_as_they_do_behind_netfilter,
    datagrams_to_published_ports_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare_inbound(|r, v| from_world(traffic::udp_exchange(r, v)), version);

    fragments_to_published_ports_look_as_they_do_behind_netfilter,
    fragments_to_published_ports_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare_inbound(|r, v| from_world(traffic::fragments(r, v)), version);

    errors_about_published_ports_look_as_they_do_behind_netfilter,
    errors_about_published_ports_over_ipv6_look_as_they_do_behind_netfilter:
        |version| compare_inbound(|r, v| from_world(traffic::errors_about_ports(r, v)), version);
}

/// Of regular connections none is a difference of states.
fn tcp_connections(version: Version) -> Result<()> {
    let outcomes = compare_flows(traffic::tcp_connection, outbound, version)?;
    let out_of_state = outcomes.intended.contains_key(rules::OUT_OF_STATE);
    assert!(!out_of_state, "{outcomes:?}");
    Ok(())
}

/// Plays episodes of `scenario` to both twins.
fn compare(scenario: Scenario, version: Version) -> Result<()> {
    compare_flows(scenario, outbound, version).map(drop)
}

/// The same with conversations that the world opens through a published port.
fn compare_inbound(scenario: Scenario, version: Version) -> Result<()> {
    compare_flows(scenario, inbound, version).map(drop)
}

fn compare_flows(scenario: Scenario, flow: MakeFlow, version: Version) -> Result<Outcomes> {
    stay_on_one_cpu()?;
    let (mut ours, mut theirs) = (Twin::ours()?, Twin::netfilters()?);
    let mut random = Random(SEED);
    let mut outcomes = Outcomes::default();
    for number in 0..EPISODES {
        let steps = scenario(&mut random, version);
        let flow = flow(protocol_of(&steps), number, version, &mut random);
        let episode = Episode { flow, steps };
        play(&mut ours, &mut theirs, &episode, &mut outcomes)?;
    }
    outcomes.judge();
    Ok(outcomes)
}

fn peer(version: Version, random: &mut Random) -> IpAddr {
    match version {
        Version::V4 => random.pick(&PEERS).into(),
        Version::V6 => random.pick(&PEERS6).into(),
    }
}

fn outbound(protocol: u8, number: u16, version: Version, random: &mut Random) -> Flow {
    Flow {
        protocol,
        slot_port: 2000 + number,
        peer: peer(version, random),
        // TCP and UDP have no port in common: where a quote names the wrong protocol, the host's port, which
        // is chosen at random, must not happen to be that of an earlier connection.
        peer_port: match protocol {
            TCP => random.pick(&[80, 443, 8080]),
            UDP => random.pick(&[53, 853, 4500]),
            _ => 0,
        },
        published_port: None,
    }
}

fn inbound(protocol: u8, number: u16, version: Version, random: &mut Random) -> Flow {
    let (outside, inside) = PUBLISHED;
    Flow {
        protocol,
        slot_port: inside,
        peer: peer(version, random),
        peer_port: 2000 + number,
        published_port: Some(outside),
    }
}

/// Until the first difference: what comes after it follows from it.
fn play(ours: &mut Twin, theirs: &mut Twin, episode: &Episode, out: &mut Outcomes) -> Result<()> {
    ours.begin(episode.flow);
    theirs.begin(episode.flow);
    for (index, step) in episode.steps.iter().enumerate() {
        let (mut left, mut right) = (ours.play(step)?, theirs.play(step)?);
        rules::forget_hop_to_slot(step, &mut right);
        rules::forget_gateway(step, &mut left);
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

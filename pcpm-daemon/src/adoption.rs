//! Whether this life can go on with what an earlier one left: what the programs were told then is compared
//! with the settings of now. Pure; who looks and who acts is `host_world`.

use std::net::{IpAddr, Ipv4Addr};

use pcpm_ebpf::{abi, address::Address};

/// What an earlier life left in the datapath.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<'a> {
    /// What its programs were told.
    pub(crate) config: abi::Config,
    /// The slots that somebody holds, in ascending order.
    pub(crate) attached: &'a [u32],
}

/// Whether its slots are adopted. If they cannot be and somebody holds one, the start is refused: the
/// reason names the setting and what to do.
pub(crate) fn can_adopt(left: Left<'_>, now: &abi::Config) -> Result<bool, String> {
    let then = &left.config;
    if then.host_netns != now.host_netns {
        return Err(
            "bpffs: the pins there belong to another network namespace; give each daemon its own \
             --bpffs, or remove what is left of the other with `pcpmd --cleanup`"
                .to_owned(),
        );
    }
    if let Some(change) = change_of_addresses(then, now) {
        return match left.attached {
            [] => Ok(false),
            held => Err(format!("{change}, and {}; {ADVICE}", who_holds(held))),
        };
    }
    let beyond = left.attached.partition_point(|slot| *slot < now.capacity);
    match &left.attached[beyond..] {
        [] => Ok(true),
        held => Err(format!(
            "max_capacity: {} is too few: {}; {ADVICE}",
            now.capacity,
            who_holds(held)
        )),
    }
}

const ADVICE: &str = "start with the old setting and detach them, or remove all networks and attachments with \
     `pcpmd --cleanup`";

/// How many slots are named.
const NAMED: usize = 3;

fn who_holds(held: &[u32]) -> String {
    let names = held
        .iter()
        .take(NAMED)
        .map(|slot| crate::net::slot_name(*slot));
    let names = names.collect::<Vec<_>>().join(", ");
    let more = match held.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{names}{more} are attached")
}

/// What is said of slots' addresses that are not what they were. A longer or shorter prefix alone is no
/// change: slot `i` has the `i`-th address.
fn change_of_addresses(then: &abi::Config, now: &abi::Config) -> Option<String> {
    if then.pool_base != now.pool_base {
        let then = Ipv4Addr::from_bits(then.pool_base);
        return Some(format!("pool_cidr: slots have addresses from {then} on"));
    }
    if then.pool6 != now.pool6 || then.pool6_mask != now.pool6_mask {
        if then.pool6 == Address::ANY {
            return Some("pool_cidr6: slots have no IPv6 addresses".to_owned());
        }
        let base = IpAddr::from(then.pool6);
        return Some(format!("pool_cidr6: slots have addresses from {base} on"));
    }
    change_inside(then, now)
}

/// What is said of addresses inside that are not what they were.
fn change_inside(then: &abi::Config, now: &abi::Config) -> Option<String> {
    if then.is_clone() != now.is_clone() {
        let had = if then.is_clone() {
            "all slots have the same inner address"
        } else {
            "slots have their own addresses inside"
        };
        return Some(format!("address_mode: {had}"));
    }
    let keys = [
        ("clone.inner", then.inner, now.inner),
        ("clone.inner6", then.inner6, now.inner6),
    ];
    let changed = keys.into_iter().find(|(_, then, now)| then != now);
    changed.map(|(key, then, _)| format!("{key}: slots have {} inside", IpAddr::from(then)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut abi::Config)) -> abi::Config {
        let mut config = abi::Config {
            pool_base: 0x0ad5_0000,
            pool_mask: 0xffff_0000,
            capacity: 64,
            host_netns: 7,
            ..abi::Config::default()
        };
        change(&mut config);
        config
    }

    fn decide(change: impl FnOnce(&mut abi::Config), attached: &[u32]) -> Result<bool, String> {
        let left = Left {
            config: config(|_| {}),
            attached,
        };
        can_adopt(left, &config(change))
    }

    #[test]
    fn slots_are_adopted_while_their_addresses_stay() {
        assert_eq!(decide(|_| {}, &[3]), Ok(true));
        assert_eq!(decide(|c| c.capacity = 4000, &[3]), Ok(true));
        assert_eq!(decide(|c| c.capacity = 4, &[3]), Ok(true));
        assert_eq!(decide(|c| c.pool_mask = 0xfffc_0000, &[3]), Ok(true));
        assert_eq!(decide(|c| c.world_is_closed = 1, &[3]), Ok(true));
    }

    #[test]
    fn other_addresses_retire_slots_that_nobody_holds() {
        assert_eq!(decide(|c| c.pool_base = 0x0ad6_0000, &[]), Ok(false));
        assert_eq!(decide(|c| c.pool6 = Address([1; 4]), &[]), Ok(false));
        assert_eq!(decide(|c| c.slots_are_clones = 1, &[]), Ok(false));
    }

    #[test]
    fn a_start_that_would_cut_attachments_off_is_refused_by_the_name_of_the_setting() {
        let refusals = [
            (
                decide(|c| c.pool_base = 1, &[3, 9]),
                "pool_cidr: ",
                "s0003, s0009 are attached",
            ),
            (
                decide(|c| c.pool6 = Address([1; 4]), &[3]),
                "pool_cidr6: ",
                "no IPv6",
            ),
            (
                decide(|c| c.slots_are_clones = 1, &[3]),
                "address_mode: ",
                "their own addresses inside",
            ),
            (
                decide(|c| c.inner = Address::v4(1), &[3]),
                "clone.inner: ",
                "inside, and s0003 are attached",
            ),
            (
                decide(|c| c.inner6 = Address([1; 4]), &[3]),
                "clone.inner6: ",
                "inside",
            ),
            (
                decide(|c| c.capacity = 2, &[1, 2, 3, 4, 5]),
                "max_capacity: ",
                "s0002, s0003, s0004 and 1 more",
            ),
            (
                decide(|c| c.host_netns = 8, &[]),
                "bpffs: ",
                "another network namespace",
            ),
        ];
        for (refused, key, reason) in refusals {
            let told = refused.unwrap_err();
            assert!(told.starts_with(key) && told.contains(reason), "{told}");
            assert!(told.contains("--cleanup"), "{told}");
        }
    }
}

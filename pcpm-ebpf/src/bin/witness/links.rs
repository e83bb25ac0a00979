//! What the links of a namespace are like, read where the kernel keeps it: over netlink some of it is told
//! only after a walk over all namespaces of the machine, some only under the rtnl lock.
//!
//! What is repeated is a function that the kernel repeats: written out, the verifier would take minutes.
#![expect(
    unsafe_code,
    reason = "calls a helper with callbacks; map values are reached through raw pointers"
)]

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use pcpm_ebpf::witness::{KernelLayout, LINKS, NEIGHBOURS, Neighbour, PARAMETER_WORDS};

use crate::{
    maps,
    probe::{own_namespace, read},
};

/// Neighbours of a link and version of IP that are looked at, the kernel's own with them.
const MOST_NEIGHBOURS: u32 = 64;

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// Where a walk over links has got to.
struct Links {
    /// Where it began, and has to end.
    list: u64,
    entry: u64,
    seen: u32,
    is_whole: u32,
}

/// Where a walk over neighbours has got to.
struct Walk {
    entry: u64,
    /// The link's place among those seen, and its index.
    number: u32,
    link: u32,
    /// Version of IP: 0 or 1.
    version: u32,
    count: u32,
    failed: u32,
    _padding: u32,
}

/// Notes the state of each link of the task's namespace, and returns how many there are; 0 where not all
/// could be looked at.
#[inline(always)]
pub(crate) fn see_all() -> u32 {
    try_see_all().unwrap_or(0)
}

#[inline(always)]
fn try_see_all() -> Option<u32> {
    let layout = maps::kernel_layout()?;
    let net = own_namespace(layout)?;
    let list = net.wrapping_add(u64::from(layout.net_links));
    let mut links = Links {
        list,
        entry: read(list, 0)?,
        seen: 0,
        is_whole: 0,
    };
    repeat(LINKS as u32 + 1, &mut links, see_next_link);
    (links.is_whole != 0).then_some(links.seen)
}

extern "C" fn see_next_link(_: u64, links: *mut c_void) -> i64 {
    // SAFETY: what `try_see_all` passed.
    let links = unsafe { &mut *links.cast::<Links>() };
    if links.entry == links.list {
        links.is_whole = 1;
        return STOP;
    }
    match see_link(links.entry, links.seen) {
        Some(next) => {
            links.entry = next;
            links.seen += 1;
            CONTINUE
        }
        None => STOP,
    }
}

/// Notes the state of the link with this entry in the list, and returns the next entry.
#[inline(always)]
fn see_link(entry: u64, number: u32) -> Option<u64> {
    let layout = maps::kernel_layout()?;
    let link = entry.wrapping_sub(u64::from(layout.link_entry));
    // SAFETY: the element is valid until the program ends; only one thread of the daemon has it run.
    let state = unsafe { &mut *maps::link_state(number)? };
    state.index = read(link, layout.link_index)?;
    state.queues = [
        read(link, layout.link_receive_queues)?,
        read(link, layout.link_send_queues)?,
    ];
    state.features = read(link, layout.link_features)?;
    state.hardware_features = read(link, layout.link_hardware_features)?;
    state.wanted_features = read(link, layout.link_wanted_features)?;
    let ingress: u64 = read(link, layout.link_tcx_ingress)?;
    let egress: u64 = read(link, layout.link_tcx_egress)?;
    state.programs = u32::from(ingress != 0) | u32::from(egress != 0) << 1;
    let [v4, v6] = &mut state.neighbours;
    v4.parameters = parameters(
        layout,
        read(link, layout.link_ipv4)?,
        layout.ipv4_parameters,
    )?;
    v6.parameters = parameters(
        layout,
        read(link, layout.link_ipv6)?,
        layout.ipv6_parameters,
    )?;
    let index = state.index;
    see_neighbours(layout, link, number, index, 0)?;
    see_neighbours(layout, link, number, index, 1)?;
    read(entry, 0)
}

/// A link without that version of IP has none.
#[inline(always)]
fn parameters(
    layout: &KernelLayout,
    of_link: u64,
    of_version: u32,
) -> Option<[u64; PARAMETER_WORDS]> {
    if of_link == 0 {
        return Some([0; PARAMETER_WORDS]);
    }
    let parameters: u64 = read(of_link, of_version)?;
    read(parameters, layout.parameters)
}

#[inline(always)]
fn see_neighbours(
    layout: &KernelLayout,
    at: u64,
    number: u32,
    link: u32,
    version: u32,
) -> Option<()> {
    let mut walk = Walk {
        entry: 0,
        number,
        link,
        version,
        count: 0,
        failed: 0,
        _padding: 0,
    };
    if layout.link_neighbours != 0 {
        walk.entry = read(at, layout.link_neighbours + version * 8)?;
        repeat(MOST_NEIGHBOURS, &mut walk, see_next_neighbour);
    }
    // SAFETY: as in `see_link`.
    let state = unsafe { &mut *maps::link_state(number)? };
    let neighbours = &mut state.neighbours[(version & 1) as usize];
    neighbours.count = walk.count;
    neighbours.is_cut_off = u32::from(walk.entry != 0 || walk.count > NEIGHBOURS as u32);
    (walk.failed == 0).then_some(())
}

extern "C" fn see_next_neighbour(_: u64, walk: *mut c_void) -> i64 {
    // SAFETY: what `see_neighbours` passed.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.entry == 0 {
        return STOP;
    }
    match see_neighbour(walk) {
        Some(next) => {
            walk.entry = next;
            CONTINUE
        }
        None => {
            walk.failed = 1;
            STOP
        }
    }
}

/// Notes a neighbour unless it is the kernel's, and returns the next one's entry.
#[inline(always)]
fn see_neighbour(walk: &mut Walk) -> Option<u64> {
    let layout = maps::kernel_layout()?;
    let at = walk.entry.wrapping_sub(u64::from(layout.neighbour_entry));
    let is_v6 = walk.version != 0;
    let seen = neighbour(layout, at, is_v6)?;
    if !seen.is_of_the_kernel(walk.link, is_v6) {
        let place = walk.count;
        walk.count += 1;
        if place < NEIGHBOURS as u32 {
            // SAFETY: as in `see_link`.
            let state = unsafe { &mut *maps::link_state(walk.number)? };
            let version = &mut state.neighbours[(walk.version & 1) as usize];
            version.first[place as usize & (NEIGHBOURS - 1)] = seen;
        }
    }
    read(walk.entry, 0)
}

#[inline(always)]
fn neighbour(layout: &KernelLayout, at: u64, is_v6: bool) -> Option<Neighbour> {
    let mut seen = Neighbour::default();
    if is_v6 {
        seen.address = read(at, layout.neighbour_key)?;
    } else {
        let [a, b, c, d]: [u8; 4] = read(at, layout.neighbour_key)?;
        [
            seen.address[0],
            seen.address[1],
            seen.address[2],
            seen.address[3],
        ] = [a, b, c, d];
    }
    seen.hardware = read(at, layout.neighbour_hardware)?;
    seen.state = read(at, layout.neighbour_state)?;
    seen.kind = read(at, layout.neighbour_kind)?;
    seen.flags = read(at, layout.neighbour_flags)?;
    let protocol: u8 = read(at, layout.neighbour_protocol)?;
    seen.protocol = u32::from(protocol);
    Some(seen)
}

/// Has the kernel call `step` with the same context until it stops, at most that often.
#[inline(always)]
fn repeat<T>(most: u32, context: &mut T, step: extern "C" fn(u64, *mut c_void) -> i64) {
    let context = (&raw mut *context).cast();
    // SAFETY: `step` has the signature that the helper calls, and the context outlives it.
    unsafe { bpf_loop(most, step as *mut c_void, context, 0) };
}

//! The calls of bpf(2) that aya does not make: reading and emptying a table piece by piece, and running a
//! program that the calling thread does not own.
#![expect(unsafe_code, reason = "calls bpf(2)")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

/// Commands of bpf(2), `include/uapi/linux/bpf.h`.
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// `bpf_attr.batch`.
#[derive(Default)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `bpf_attr.test`.
#[derive(Default)]
#[repr(C)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// How far a table was read: the next bucket of a hash table, the last index of an array. The kernel keeps the
/// order of buckets, so what is in the table all the time is read once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place(Option<u32>);

/// Reads entries of a table from `place` on, `each` of `values` to a key, and says how many were read and where to go on;
/// nowhere when that was all. In a table per CPU a key has a value for every possible processor, one after the other,
/// which is a multiple of eight bytes.
///
/// # Errors
/// What the kernel said; `ENOSPC` if the buffers have no room for one bucket of a hash table.
pub(super) fn read_batch<K, V>(
    map: BorrowedFd<'_>,
    place: Place,
    keys: &mut [K],
    values: &mut [V],
    each: usize,
) -> io::Result<(usize, Option<Place>)> {
    let room = keys.len().min(values.len() / each);
    let mut next = 0_u32;
    let mut attr = BatchAttr {
        in_batch: place.0.as_ref().map_or(0, address),
        out_batch: address_mut(&mut next),
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map_fd: number(map),
        ..BatchAttr::default()
    };
    // SAFETY: the buffers have room for so many keys and their values, which the caller says are those of the map; the
    // others are single words.
    let read = unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    let count = attr.count as usize;
    match read {
        Ok(()) => Ok((count, Some(Place(Some(next))))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((count, None)),
        Err(error) => Err(error),
    }
}

/// Removes entries of a hash table.
///
/// # Errors
/// What the kernel said, `ENOENT` of the first key that is not there; those behind it stay.
pub(super) fn remove_batch<K>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map_fd: number(map),
        ..BatchAttr::default()
    };
    // SAFETY: there are so many keys, which the caller says are those of the map; they are only read.
    unsafe { call(BPF_MAP_DELETE_BATCH, &mut attr) }
}

/// Runs a tc program once with `packet`, and returns what it returned.
pub(super) fn run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attr = TestRunAttr {
        prog_fd: number(program),
        data_size_in: u32::try_from(packet.len()).unwrap_or(u32::MAX),
        data_in: packet.as_ptr() as u64,
        ..TestRunAttr::default()
    };
    // SAFETY: the packet has the size that is said; nothing is written but the attributes.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.retval)
}

/// # Safety
/// `attr` is what `command` expects, and what it points to is as long as it says.
unsafe fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<T>()) };
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(place: &T) -> u64 {
    ptr::from_ref(place) as u64
}

fn address_mut<T>(place: &mut T) -> u64 {
    ptr::from_mut(place) as u64
}

//! The `bpf(2)` commands that aya has no safe wrapper for: elements of maps whose layout is only known
//! at run time, and the program of a link.
#![expect(unsafe_code, reason = "calls bpf(2)")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info};
use nix::errno::Errno;

/// The key behind `key`, or the first one. False: there is none.
pub(super) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let mut attr = element(map, key.unwrap_or_default());
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    // SAFETY: key and next key have the size that the map's keys have, as the callers made them.
    found(unsafe { bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) })
}

/// Reads the element of `key`. False: there is none.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    // SAFETY: as in `next_key`; the value has room for what the map holds, on all CPUs.
    found(unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) })
}

/// Writes the element of `key`; `flags` as of `BPF_MAP_UPDATE_ELEM`.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    attr.__bindgen_anon_2.flags = flags;
    // SAFETY: as in `lookup`.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }
}

/// Has a link run `program` from now on; every packet meets the old program or the new one.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = nothing();
    attr.link_update.link_fd = number(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = number(program);
    // SAFETY: the command takes descriptors only.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }
}

/// What a link does.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    /// The number of the program that it runs.
    pub(super) program: u32,
    /// What it is attached to: the interface of a tcx link, the lower half of a control group's number. 0
    /// when that is gone, or somebody detached it.
    pub(super) target: u32,
}

/// Looks at a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: all fields are numbers.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = nothing();
    attr.info.bpf_fd = number(link);
    attr.info.info_len = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    attr.info.info = &raw mut info as u64;
    // SAFETY: the kernel writes at most `info_len` bytes.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(LinkInfo {
        program: info.prog_id,
        // SAFETY: this is what was written of a tcx link; of others it is a number all the same.
        target: unsafe { info.__bindgen_anon_1.tcx.ifindex },
    })
}

/// Opens what is pinned at `path`, if anything is.
pub(super) fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = nothing();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path is a C string that outlives the call.
    match unsafe { bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) } {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
        opened => opened.map(Some),
    }
}

fn nothing() -> bpf_attr {
    // SAFETY: all fields of all of its variants are numbers.
    unsafe { std::mem::zeroed() }
}

/// No key is null, which asks for the first one.
fn element(map: BorrowedFd<'_>, key: &[u8]) -> bpf_attr {
    let mut attr = nothing();
    attr.__bindgen_anon_2.map_fd = number(map);
    attr.__bindgen_anon_2.key = if key.is_empty() {
        0
    } else {
        key.as_ptr() as u64
    };
    attr
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn found(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// # Safety
/// As [`bpf`], of a command that returns a file descriptor.
unsafe fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promised.
    let fd = unsafe { call(command, attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// What `attr` points to must be as large as `command` takes it to be.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: as the caller promised.
    unsafe { call(command, attr) }.map(drop)
}

/// # Safety
/// As [`bpf`].
unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: as the caller promised.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    Errno::result(status).map_err(Into::into)
}

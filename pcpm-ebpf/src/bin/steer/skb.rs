//! The packet as the kernel shows it to a tc program: its metadata, its bytes, the redirects.
#![expect(unsafe_code, reason = "calls kernel helpers on the context pointer")]

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, bpf_redir_neigh},
    helpers::generated::{
        bpf_csum_diff, bpf_csum_update, bpf_get_socket_cookie, bpf_l3_csum_replace,
        bpf_l4_csum_replace, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use pcpm_ebpf::{
    abi::{NAME_BYTES, Name},
    address::Address,
    dns::NameSource,
    drop_reason::DropReason,
    icmp_error::{Quote, quoted_header},
    packet::{Frame, IpHeader, PacketFields, Transport},
    rewrite::{Field, PacketEditor},
};

use crate::{global, host::Hop, maps, verdict::Verdict};

const PACKET_HOST: u32 = 0;

/// A packet in the hands of a program.
#[derive(Clone, Copy)]
pub(crate) struct Skb {
    raw: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self {
            raw: ctx.as_ptr().cast(),
        }
    }

    /// The context itself, for a global function.
    #[inline(always)]
    pub(crate) fn raw(self) -> *mut __sk_buff {
        self.raw
    }

    /// What a global function was given.
    #[inline(always)]
    pub(crate) fn of_raw(raw: *mut __sk_buff) -> Self {
        Self { raw }
    }

    /// For helpers that take the context.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// The link it came in on (ingress) or goes out on (egress).
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context; the verifier checks the access.
        unsafe { (*self.raw).ifindex }
    }

    /// The link it was received on, 0 for a packet that this namespace's own stack made.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).ingress_ifindex }
    }

    /// Length with link header.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).len }
    }

    /// Packets on the wire: a GSO packet is many.
    #[inline(always)]
    pub(crate) fn segments(&self) -> u64 {
        // SAFETY: as in `ifindex`.
        u64::from(unsafe { (*self.raw).gso_segs }.max(1))
    }

    /// Whether it is addressed to the hardware address of the link it came in on.
    #[inline(always)]
    pub(crate) fn is_for_this_host(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).pkt_type == PACKET_HOST }
    }

    /// Whether it came with a VLAN tag. The kernel moves the tag out of the frame before any tc
    /// program runs, and puts it back when the packet leaves.
    #[inline(always)]
    pub(crate) fn has_vlan_tag(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).vlan_present != 0 }
    }

    /// The epoch an earlier hop authorised it for, see `decision::check_mark`.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).mark }
    }

    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: as in `ifindex`; the mark is writable.
        unsafe { (*self.raw).mark = mark };
    }

    /// The socket of this namespace that sent it, 0 for none.
    #[inline(always)]
    pub(crate) fn socket_cookie(&self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_socket_cookie(self.raw.cast()) }
    }

    /// Reads the bytes from `offset` on as a `T`, which is plain data, and says whether there are enough.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(&self, offset: u32, place: &mut T) -> bool {
        let (place, size) = ((&raw mut *place).cast(), size_of::<T>() as u32);
        // SAFETY: the helper writes exactly `size` bytes, or fails.
        unsafe { bpf_skb_load_bytes(self.raw.cast(), offset, place, size) == 0 }
    }

    /// Its headers.
    ///
    /// # Errors
    /// As [`Frame::parse`].
    #[inline(always)]
    pub(crate) fn frame(&self) -> Result<&'static mut Frame, DropReason> {
        let place = maps::frame()?;
        global::read_frame(*self, place)?;
        Ok(place)
    }

    /// The transport header of `frame`.
    ///
    /// # Errors
    /// As [`Transport::parse`].
    #[inline(always)]
    pub(crate) fn transport(&self, frame: &Frame) -> Result<&'static Transport, DropReason> {
        let place = maps::transport()?;
        global::read_transport(*self, frame, place)?;
        Ok(place)
    }

    /// What the ICMP error in `frame` quotes.
    ///
    /// # Errors
    /// As [`Quote::parse`].
    #[inline(always)]
    pub(crate) fn quote(&self, frame: &Frame) -> Result<&'static Quote, DropReason> {
        let place = maps::quote()?;
        global::read_quote(*self, frame, place)?;
        Ok(place)
    }

    /// The IP header that the ICMP error in `frame` quotes.
    ///
    /// # Errors
    /// As [`quoted_header`].
    #[inline(always)]
    pub(crate) fn quoted_header(&self, frame: &Frame) -> Result<&'static IpHeader, DropReason> {
        let place = maps::quoted_header()?;
        global::read_quoted_header(*self, frame, place)?;
        Ok(place)
    }

    /// Delivers to the peer of `ifindex`, in the peer's namespace.
    #[inline(always)]
    pub(crate) fn redirect_peer(&self, ifindex: u32) -> Verdict {
        // SAFETY: scalars only.
        Verdict::Redirect(unsafe { bpf_redirect_peer(ifindex, 0) } as i32)
    }

    /// Sends to the neighbour at `hop`, whose hardware address the kernel looks up.
    #[inline(never)]
    pub(crate) fn redirect_neighbour(&self, hop: Hop) -> i32 {
        let mut neighbour = hop.neighbour();
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: `neighbour` is initialised and of the given size.
        unsafe { bpf_redirect_neigh(hop.ifindex(), &raw mut neighbour, size, 0) as i32 }
    }
}

/// Reads the headers of a packet.
#[inline(always)]
pub(crate) fn read_frame(skb: Skb, place: &mut Frame) -> Result<(), DropReason> {
    *place = Frame::parse(&skb)?;
    Ok(())
}

/// Reads the transport header of `frame`.
#[inline(always)]
pub(crate) fn read_transport(
    skb: Skb,
    frame: &Frame,
    place: &mut Transport,
) -> Result<(), DropReason> {
    *place = Transport::parse(&skb, frame)?;
    Ok(())
}

/// Reads what the ICMP error in `frame` quotes.
#[inline(always)]
pub(crate) fn read_quote(skb: Skb, frame: &Frame, place: &mut Quote) -> Result<(), DropReason> {
    *place = Quote::behind(&skb, frame, skb.quoted_header(frame)?)?;
    Ok(())
}

/// Reads the IP header that the ICMP error in `frame` quotes.
#[inline(always)]
pub(crate) fn read_quoted_header(
    skb: Skb,
    frame: &Frame,
    place: &mut IpHeader,
) -> Result<(), DropReason> {
    *place = quoted_header(&skb, frame)?;
    Ok(())
}

impl PacketEditor for Skb {
    #[inline(always)]
    fn store<T: Field>(&self, offset: u32, value: &T) -> Result<(), DropReason> {
        let from = ptr::from_ref(value).cast();
        // SAFETY: `from` points to `size_of::<T>()` readable bytes.
        done(unsafe { bpf_skb_store_bytes(self.raw, offset, from, size_of::<T>() as u32, 0) })
    }

    #[inline(always)]
    fn store_summed<T: Field>(&self, offset: u32, value: &T) -> Result<(), DropReason> {
        let (from, size) = (ptr::from_ref(value).cast(), size_of::<T>() as u32);
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: `from` points to `size` readable bytes.
        done(unsafe { bpf_skb_store_bytes(self.raw, offset, from, size, flags) })
    }

    #[inline(always)]
    fn difference(&self, from: &Address, to: &Address) -> u64 {
        let (mut from, mut to) = (*from, *to);
        let size = size_of::<Address>() as u32;
        let (old, new) = ((&raw mut from).cast(), (&raw mut to).cast());
        // SAFETY: both point to `size` readable bytes.
        unsafe { bpf_csum_diff(old, size, new, size, 0) as u64 }
    }

    /// The helper for transport checksums takes it that the IP header makes up for addresses, which that
    /// of IPv6 does not: there the change of the address does (Linux 6.16 has a flag for it).
    #[inline(always)]
    fn keep_received_sum(&self, difference: u64) {
        // SAFETY: scalars only besides the context. It fails where the device computed nothing.
        unsafe { bpf_csum_update(self.raw, difference as u32) };
    }

    #[inline(always)]
    fn replace_ip_checksum(
        &self,
        offset: u32,
        from: u64,
        to: u64,
        size: u64,
    ) -> Result<(), DropReason> {
        // SAFETY: scalars only besides the context.
        done(unsafe { bpf_l3_csum_replace(self.raw, offset, from, to, size) })
    }

    #[inline(always)]
    fn replace_transport_checksum(
        &self,
        offset: u32,
        from: u64,
        to: u64,
        flags: u64,
    ) -> Result<(), DropReason> {
        // SAFETY: scalars only besides the context.
        done(unsafe { bpf_l4_csum_replace(self.raw, offset, from, to, flags) })
    }
}

impl NameSource for Skb {
    #[inline(always)]
    fn load_name(&self, offset: u32, length: u32, name: &mut Name) -> bool {
        // A mask is what the verifier understands; lengths that it changes do not occur.
        const { assert!(NAME_BYTES.is_power_of_two()) };
        let length = (length.wrapping_sub(1) & (NAME_BYTES as u32 - 1)) + 1;
        let place = (&raw mut *name).cast();
        // SAFETY: the helper writes exactly `length` bytes, for which `name` has room, or fails.
        unsafe { bpf_skb_load_bytes(self.raw.cast(), offset, place, length) == 0 }
    }
}

impl PacketFields for Skb {
    #[inline(always)]
    fn raw_fields<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        let mut fields = MaybeUninit::<[u16; N]>::uninit();
        let (place, size) = (fields.as_mut_ptr().cast(), size_of::<[u16; N]>() as u32);
        // SAFETY: the helper writes exactly `size` bytes, or fails.
        let status = unsafe { bpf_skb_load_bytes(self.raw.cast(), offset, place, size) };
        // SAFETY: the helper succeeded.
        (status == 0).then(|| unsafe { fields.assume_init() })
    }

    #[inline(always)]
    fn raw_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        let (place, size) = (words.as_mut_ptr().cast(), size_of::<[u32; N]>() as u32);
        // SAFETY: the helper writes exactly `size` bytes, or fails.
        let status = unsafe { bpf_skb_load_bytes(self.raw.cast(), offset, place, size) };
        // SAFETY: the helper succeeded.
        (status == 0).then(|| unsafe { words.assume_init() })
    }
}

#[inline(always)]
fn done(status: i64) -> Result<(), DropReason> {
    if status == 0 {
        Ok(())
    } else {
        Err(DropReason::Rewrite)
    }
}

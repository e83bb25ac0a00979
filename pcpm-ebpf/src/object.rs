//! The compiled kernel programs, as committed in `prebuilt/`.

/// `include_bytes!` promises no alignment; whoever reads the object wants that of an ELF header.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static STEER: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/steer.o"));
static LOCKS: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/locks.o"));
static WITNESS: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/witness.o"));

/// The object with the five steering programs and their maps, see [`crate::abi::names`].
pub static STEER_OBJECT: &[u8] = &STEER.0;

/// The object with the lock tracer and its maps, see [`crate::locks::names`].
pub static LOCKS_OBJECT: &[u8] = &LOCKS.0;

/// The object with the witnesses of slots and their maps, see [`crate::witness::names`].
pub static WITNESS_OBJECT: &[u8] = &WITNESS.0;

//! What the holder of a slot may do.
#![expect(unsafe_code, reason = "settings change while they are read")]

use pcpm_ebpf::{
    abi::{AttachmentWord, Config, RateLimit, Settings, settings_flag},
    policy,
};

use crate::maps;

/// What one attachment is granted, as far as it has settings: plain data, read once.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Granted {
    policy: u32,
    flags: u32,
}

impl Granted {
    /// What the holder of `slot` is granted.
    #[inline(always)]
    pub(crate) fn to(slot: u32, word: AttachmentWord) -> Self {
        let [policy, flags] = read(slot, word, [0; 2], |place| {
            // SAFETY: see `read`.
            unsafe {
                [
                    (&raw const (*place).policy).read_volatile(),
                    (&raw const (*place).flags).read_volatile(),
                ]
            }
        });
        Self { policy, flags }
    }

    /// The rules that count, 0 for none.
    #[inline(always)]
    pub(crate) fn policy(self) -> u32 {
        self.policy
    }

    /// Whether there is a limit for what it sends.
    #[inline(always)]
    pub(crate) fn is_limited_up(self) -> bool {
        self.flags & settings_flag::LIMIT_UP != 0
    }

    /// Whether there is a limit for what is sent to it.
    #[inline(always)]
    pub(crate) fn is_limited_down(self) -> bool {
        self.flags & settings_flag::LIMIT_DOWN != 0
    }

    /// Whether the world is closed to it where no rule says.
    #[inline(always)]
    pub(crate) fn world_is_closed(self, config: &Config) -> bool {
        policy::world_is_closed(config, self.flags)
    }

    /// Whether its DNS answers teach addresses.
    #[inline(always)]
    pub(crate) fn learns_names(self) -> bool {
        self.flags & settings_flag::LEARN_NAMES != 0
    }
}

/// What the holder of `slot` may send.
#[inline(always)]
pub(crate) fn up(slot: u32, word: AttachmentWord) -> RateLimit {
    read(slot, word, RateLimit::default(), |place| {
        // SAFETY: see `read`.
        unsafe { (&raw const (*place).up).read_volatile() }
    })
}

/// What may be sent to the holder of `slot`.
#[inline(always)]
pub(crate) fn down(slot: u32, word: AttachmentWord) -> RateLimit {
    read(slot, word, RateLimit::default(), |place| {
        // SAFETY: see `read`.
        unsafe { (&raw const (*place).down).read_volatile() }
    })
}

/// A field of the settings, if they are those of the attachment. Array elements are aligned and live as
/// long as the map. The daemon writes whole fields at any time, so each is read once.
#[inline(always)]
fn read<T>(
    slot: u32,
    word: AttachmentWord,
    otherwise: T,
    field: impl Fn(*const Settings) -> T,
) -> T {
    // SAFETY: as above.
    let is_own = |place: &*const Settings| unsafe {
        (&raw const (**place).epoch).read_volatile() == word.epoch()
    };
    maps::settings(slot).filter(is_own).map_or(otherwise, field)
}

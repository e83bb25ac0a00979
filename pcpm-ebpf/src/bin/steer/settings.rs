//! What the holder of a slot may do.
#![expect(unsafe_code, reason = "settings change while they are read")]

use pcpm_ebpf::abi::{AttachmentWord, RateLimit, Settings, settings_flag};

use crate::maps;

/// The settings of one attachment, as far as it has any.
#[derive(Clone, Copy)]
pub(crate) struct Granted(Option<*const Settings>);

impl Granted {
    /// Those of the holder of `slot`.
    #[inline(always)]
    pub(crate) fn to(slot: u32, word: AttachmentWord) -> Self {
        let settings = maps::settings(slot);
        // SAFETY: see `read`.
        let is_own = |place: &*const Settings| unsafe {
            (&raw const (**place).epoch).read_volatile() == word.epoch()
        };
        Self(settings.filter(is_own))
    }

    /// The rules that count, 0 for none.
    #[inline(always)]
    pub(crate) fn policy(self) -> u32 {
        // SAFETY: see `read`.
        self.read(0, |place| unsafe {
            (&raw const (*place).policy).read_volatile()
        })
    }

    /// Whether its DNS answers teach addresses.
    #[inline(always)]
    pub(crate) fn learns_names(self) -> bool {
        // SAFETY: see `read`.
        let flags = self.read(0, |place| unsafe {
            (&raw const (*place).flags).read_volatile()
        });
        flags & settings_flag::LEARN_NAMES != 0
    }

    /// What the slot may send.
    #[inline(always)]
    pub(crate) fn up(self) -> RateLimit {
        // SAFETY: see `read`.
        self.read(RateLimit::default(), |place| unsafe {
            (&raw const (*place).up).read_volatile()
        })
    }

    /// What may be sent to the slot.
    #[inline(always)]
    pub(crate) fn down(self) -> RateLimit {
        // SAFETY: see `read`.
        self.read(RateLimit::default(), |place| unsafe {
            (&raw const (*place).down).read_volatile()
        })
    }

    /// Array elements are aligned and live as long as the map. The daemon writes whole fields at any
    /// time, so each is read once.
    #[inline(always)]
    fn read<T>(self, otherwise: T, field: impl Fn(*const Settings) -> T) -> T {
        self.0.map_or(otherwise, field)
    }
}

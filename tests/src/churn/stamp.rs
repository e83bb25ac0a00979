//! What every payload says about itself, so that its receiver knows whether it is the right one.

/// Bytes of a stamp.
pub(super) const LENGTH: usize = 40;
const MAGIC: u64 = 0x5043_504d_6368_7572;

/// The world, as a sender or receiver.
pub(super) const WORLD: u64 = u64::MAX;

/// Who sent a payload to whom. Attachments have serial numbers that no other one gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) tenant: u64,
    /// 1 when the sender had been detached before it sent.
    pub(super) too_late: u64,
}

impl Stamp {
    pub(super) fn bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let fields = [MAGIC, self.from, self.to, self.tenant, self.too_late];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    /// `None` for what is no stamp.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let mut fields = [0; LENGTH / 8];
        for (field, place) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
            *field = u64::from_be_bytes(place.try_into().ok()?);
        }
        let [magic, from, to, tenant, too_late] = fields;
        let stamp = Self {
            from,
            to,
            tenant,
            too_late,
        };
        (magic == MAGIC).then_some(stamp)
    }

    /// Back to where it came from.
    pub(super) fn answer(self, from: u64) -> Self {
        Self {
            from,
            to: self.from,
            ..self
        }
    }
}

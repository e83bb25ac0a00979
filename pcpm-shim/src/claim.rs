//! Attachments made for an engine carry labels that say so. An engine never ends one that somebody else made
//! under the same name.

use std::collections::BTreeMap;

use pcpm_api::client::{Client, ClientError};
use pcpm_api::error::PoolError;
use pcpm_api::types::Attachment;

/// The label that says which of the two programs attached.
pub const BY: &str = "io.pcpm.by";

/// The labels by which a program knows its own attachments again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim(BTreeMap<String, String>);

impl Claim {
    /// What `program` attaches, told further apart by `labels`.
    pub fn of(program: &str, labels: &[(&str, &str)]) -> Self {
        let by = [(BY, program)];
        let all = by.iter().chain(labels);
        Self(
            all.map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        )
    }

    /// The labels, for a request.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether `attachment` was made under this claim.
    pub fn covers(&self, attachment: &Attachment) -> bool {
        let mut own = self.0.iter();
        own.all(|(key, value)| attachment.labels.get(key) == Some(value))
    }

    /// Gives back what `owner` holds under this claim. Nothing, or what somebody else attached under that name,
    /// is no error: there is nothing of ours left, which is all that was asked for.
    ///
    /// # Errors
    /// When the daemon cannot be asked, or refuses.
    pub fn release(&self, client: &mut Client, owner: &str) -> Result<(), ClientError> {
        let Some(reply) = unless_missing(client.get(owner))? else {
            return Ok(());
        };
        if self.covers(&reply.attachment) {
            unless_missing(client.detach_only(owner, &reply.attachment.id))?;
        }
        Ok(())
    }
}

/// `None` where there is no such attachment.
///
/// # Errors
/// Any other failure.
pub fn unless_missing<T>(result: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ClientError::Pool(PoolError::NoSuchAttachment { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

//! The checks, in the order an operator would go through them.

use pcpm_api::types::Check;

use super::HostFacts;
use crate::config::Config;

/// Checks the host for `config`. A failed check means that the daemon cannot run; a warning, that
/// something will be missing.
pub(crate) fn checks(_config: &Config, _host: &dyn HostFacts) -> Vec<Check> {
    Vec::new()
}

//! Limits of the interface, checked by the daemon and worth checking before a call.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::PoolError;
use crate::types::PhaseTime;

/// Longest message in either direction of a call, in bytes.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// Longest owner.
pub const OWNER_BYTES: usize = 128;
/// Longest tenant.
pub const TENANT_BYTES: usize = 64;
/// Longest name of a class.
pub const CLASS_BYTES: usize = 64;
/// Most labels of an attachment.
pub const LABELS: usize = 32;
/// Longest key of a label.
pub const LABEL_KEY_BYTES: usize = 63;
/// Longest value of a label.
pub const LABEL_VALUE_BYTES: usize = 255;
/// Longest text that says what is published, allowed or denied: a domain name with ports fits.
pub const TEXT_BYTES: usize = 300;
/// Longest phase of a container's start that can be told, in microseconds.
pub const PHASE_US: u64 = 600_000_000;
/// The tenant of an attachment made without naming one.
pub const DEFAULT_TENANT: &str = "default";
/// The class of an attachment made without naming one: what the settings at top level are about.
pub const DEFAULT_CLASS: &str = "default";

/// Checks an owner: 1 to [`OWNER_BYTES`] of letters, digits and `. _ - : / @ +`, the first one a
/// letter or digit. Container ids, systemd units and pod names fit.
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `owner`.
///
/// ```
/// use pcpm_api::limits::check_owner;
/// assert!(check_owner("sandbox-7f3a").is_ok());
/// assert!(check_owner("").is_err());
/// assert!(check_owner("a\u{1b}[31m").is_err());
/// ```
pub fn check_owner(owner: &str) -> Result<(), PoolError> {
    check_name("owner", owner, OWNER_BYTES)
}

/// Checks a tenant; same characters as an owner, up to [`TENANT_BYTES`].
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `tenant`.
pub fn check_tenant(tenant: &str) -> Result<(), PoolError> {
    check_name("tenant", tenant, TENANT_BYTES)
}

/// Checks the name of a class of slots: same characters as an owner, up to [`CLASS_BYTES`].
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `class`.
pub fn check_class(class: &str) -> Result<(), PoolError> {
    check_name("class", class, CLASS_BYTES)
}

/// Checks labels: at most [`LABELS`], keys like an owner's name up to [`LABEL_KEY_BYTES`], values of
/// printable characters up to [`LABEL_VALUE_BYTES`].
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `labels` or the label.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), PoolError> {
    if labels.len() > LABELS {
        return Err(PoolError::invalid(
            "labels",
            format!("{} labels, at most {LABELS} are allowed", labels.len()),
        ));
    }
    for (key, value) in labels {
        check_name("key of labels", key, LABEL_KEY_BYTES)?;
        let field = format!("labels.{key}");
        if value.len() > LABEL_VALUE_BYTES {
            return Err(PoolError::invalid(
                &field,
                too_long(value, LABEL_VALUE_BYTES),
            ));
        }
        if let Some(bad) = value.chars().find(|c| c.is_control()) {
            return Err(PoolError::invalid(
                &field,
                format!("character {bad:?} is not allowed"),
            ));
        }
    }
    Ok(())
}

/// Checks what is told of a container's start: each phase at most once, none longer than [`PHASE_US`].
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `phases` or the phase.
pub fn check_phases(phases: &[PhaseTime]) -> Result<(), PoolError> {
    if phases.is_empty() {
        return Err(PoolError::invalid("phases", "must not be empty"));
    }
    for (number, told) in phases.iter().enumerate() {
        let field = format!("phases.{}", told.phase);
        if told.took_us > PHASE_US {
            let reason = format!("took_us must be at most {PHASE_US}");
            return Err(PoolError::invalid(&field, reason));
        }
        if phases[..number]
            .iter()
            .any(|other| other.phase == told.phase)
        {
            return Err(PoolError::invalid(&field, "is told twice"));
        }
    }
    Ok(())
}

/// Reads one of the texts of parameter `field`.
pub(crate) fn parse_text<T: FromStr<Err = String>>(
    field: &str,
    text: &str,
) -> Result<T, PoolError> {
    if text.len() > TEXT_BYTES {
        return Err(PoolError::invalid(field, too_long(text, TEXT_BYTES)));
    }
    text.parse()
        .map_err(|reason| PoolError::invalid(field, format!("{text:?}: {reason}")))
}

fn check_name(field: &str, name: &str, longest: usize) -> Result<(), PoolError> {
    if name.is_empty() {
        return Err(PoolError::invalid(field, "must not be empty"));
    }
    if name.len() > longest {
        return Err(PoolError::invalid(field, too_long(name, longest)));
    }
    if let Some(bad) = name.chars().find(|&c| !allowed(c)) {
        return Err(PoolError::invalid(
            field,
            format!("character {bad:?} is not allowed (letters, digits and . _ - : / @ + are)"),
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(PoolError::invalid(
            field,
            "must start with a letter or a digit",
        ));
    }
    Ok(())
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-:/@+".contains(c)
}

fn too_long(text: &str, longest: usize) -> String {
    format!("{} bytes long, at most {longest} are allowed", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::StartPhase;

    #[test]
    fn names_are_refused_with_the_field_and_the_reason() {
        for (owner, reason) in [
            ("", "empty"),
            ("-x", "start"),
            ("a b", "' '"),
            ("a\nb", "'\\n'"),
            ("ä", "'ä'"),
            (&"x".repeat(OWNER_BYTES + 1), "at most 128"),
        ] {
            let text = check_owner(owner).unwrap_err().to_string();
            assert!(
                text.starts_with("owner: ") && text.contains(reason),
                "{owner:?}: {text}"
            );
        }
    }

    #[test]
    fn names_of_containers_units_and_pods_are_accepted() {
        let id = "f".repeat(64);
        for owner in [&id, "k8s.io/default/web-0", "user@1000.service", "a:1", "0"] {
            check_owner(owner).unwrap();
        }
    }

    #[test]
    fn each_phase_of_a_start_is_told_once_and_is_bounded() {
        let told = |phase, took_us| PhaseTime { phase, took_us };
        let (attach, create) = (StartPhase::Attach, StartPhase::Create);
        check_phases(&[told(attach, 0), told(create, PHASE_US)]).unwrap();
        for (phases, reason) in [
            (vec![], "phases: must not be empty"),
            (
                vec![told(attach, 1), told(create, u64::MAX)],
                "phases.create: took_us must be at most 600000000",
            ),
            (
                vec![told(create, 1), told(attach, 1), told(create, 1)],
                "phases.create: is told twice",
            ),
        ] {
            assert_eq!(check_phases(&phases).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn a_bad_label_is_named() {
        let labels = BTreeMap::from([("app".to_owned(), "a\u{7}".to_owned())]);
        assert!(
            check_labels(&labels)
                .unwrap_err()
                .to_string()
                .starts_with("labels.app: ")
        );
        let many = (0..=LABELS)
            .map(|i| (format!("k{i}"), String::new()))
            .collect();
        assert!(
            check_labels(&many)
                .unwrap_err()
                .to_string()
                .contains("at most 32")
        );
    }
}

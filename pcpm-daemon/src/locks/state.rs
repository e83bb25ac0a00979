//! What the insight knows about itself, and the check that tells it: which lock is the rtnl lock and how sure that is,
//! what of this kernel cannot be seen, or why nothing can and what would change that.

use std::fs;

use pcpm_api::types::{Check, CheckStatus};

const NAME: &str = "lock-insight";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Waits that were made to happen, by threads of ours that ask for the rtnl lock and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForcedWaits {
    pub(super) waits: u64,
    /// The function of the kernel that asked.
    pub(super) caller: String,
}

/// How the rtnl lock is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rtnl {
    /// By its symbol, and forced waits were for that one.
    Confirmed(ForcedWaits),
    /// By its symbol. No wait could be forced.
    Symbol,
    /// By its symbol, while forced waits were for another one.
    Doubtful(ForcedWaits),
    /// By forced waits: the kernel does not show symbols of data.
    Forced(ForcedWaits),
    /// Not by its address, but whenever one of its usual functions asks for it.
    Callers,
}

/// What is known of a kernel that lets itself be traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) rtnl: Rtnl,
    /// Functions have names.
    pub(super) callers: bool,
    /// Why holders of locks are not known.
    pub(super) no_holders: Option<String>,
}

/// Nothing is seen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    pub(crate) reason: String,
    advice: String,
}

impl Unavailable {
    /// It was not wanted.
    pub(crate) fn off() -> Self {
        Self {
            reason: "off by configuration (locks.enabled)".to_owned(),
            advice: "set locks.enabled = true and start pcpmd again".to_owned(),
        }
    }

    /// The kernel does not let itself be traced.
    pub(super) fn refused(reason: String) -> Self {
        let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
        let advice = if lockdown.contains("[confidentiality]") {
            "the kernel is locked down for confidentiality; lockdown=integrity allows it"
        } else {
            "it takes CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), and a kernel with CONFIG_BPF_EVENTS and the \
             tracepoints lock:contention_begin and contention_end (Linux 5.19)"
        };
        Self {
            reason,
            advice: advice.to_owned(),
        }
    }
}

impl Known {
    fn detail(&self) -> String {
        let rtnl = match &self.rtnl {
            Rtnl::Confirmed(forced) => format!("found by its symbol, confirmed by {forced}"),
            Rtnl::Symbol => "found by its symbol".to_owned(),
            Rtnl::Doubtful(forced) => {
                format!("found by its symbol, but {forced} were for another lock")
            }
            Rtnl::Forced(forced) => format!("found by {forced}"),
            Rtnl::Callers => {
                "known by the functions that ask for it: no wait could be forced".to_owned()
            }
        };
        let mut detail = format!("rtnl_mutex {rtnl}");
        if let Some(reason) = &self.no_holders {
            detail += "; who holds locks is not known: ";
            detail += reason;
        }
        if !self.callers {
            detail += "; functions have no names: /proc/kallsyms shows no addresses";
        }
        detail
    }

    fn advice(&self) -> Option<&'static str> {
        if self.no_holders.is_some() {
            return Some("use a kernel that describes its types (CONFIG_DEBUG_INFO_BTF)");
        }
        if !self.callers {
            return Some("set kernel.kptr_restrict to 0 or 1 and start pcpmd again");
        }
        matches!(self.rtnl, Rtnl::Doubtful(_))
            .then_some("report it with the version of the kernel; waits may have the wrong name")
    }
}

impl std::fmt::Display for ForcedWaits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { waits, caller } = self;
        write!(f, "{waits} waits of our own in {caller}")
    }
}

/// The check of an insight that knows this much by now.
pub(super) fn check(known: Option<&Known>, unavailable: Option<&Unavailable>) -> Check {
    if let Some(Unavailable { reason, advice }) = unavailable {
        return verdict(format!("none: {reason}"), Some(advice));
    }
    let Some(known) = known else {
        return verdict("it is just beginning".to_owned(), None);
    };
    verdict(known.detail(), known.advice())
}

/// All is well where there is nothing to advise. It never keeps the pool from running.
fn verdict(detail: String, advice: Option<&str>) -> Check {
    Check {
        name: NAME.to_owned(),
        status: match advice {
            Some(_) => CheckStatus::Warning,
            None => CheckStatus::Ok,
        },
        detail,
        advice: advice.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forced() -> ForcedWaits {
        ForcedWaits {
            waits: 12,
            caller: "dev_ioctl".into(),
        }
    }

    fn known(rtnl: Rtnl) -> Known {
        Known {
            rtnl,
            callers: true,
            no_holders: None,
        }
    }

    #[test]
    fn it_says_how_the_lock_was_found_and_how_sure_that_is() {
        for (rtnl, says, status) in [
            (
                Rtnl::Confirmed(forced()),
                "by its symbol, confirmed by 12 waits of our own in dev_ioctl",
                CheckStatus::Ok,
            ),
            (Rtnl::Symbol, "by its symbol", CheckStatus::Ok),
            (
                Rtnl::Forced(forced()),
                "found by 12 waits of our own in dev_ioctl",
                CheckStatus::Ok,
            ),
            (
                Rtnl::Callers,
                "by the functions that ask for it",
                CheckStatus::Ok,
            ),
            (
                Rtnl::Doubtful(forced()),
                "were for another lock",
                CheckStatus::Warning,
            ),
        ] {
            let check = check(Some(&known(rtnl)), None);
            assert!(check.detail.contains(says), "{check:?}");
            assert_eq!(check.status, status, "{check:?}");
        }
    }

    #[test]
    fn what_is_not_seen_comes_with_what_would_change_that() {
        let blind = Known {
            no_holders: Some("no BTF".into()),
            ..known(Rtnl::Symbol)
        };
        let nameless = Known {
            callers: false,
            ..known(Rtnl::Forced(forced()))
        };
        let off = Unavailable::off();
        for (check, detail, advice) in [
            (
                check(Some(&blind), None),
                "not known: no BTF",
                "CONFIG_DEBUG_INFO_BTF",
            ),
            (
                check(Some(&nameless), None),
                "have no names",
                "kptr_restrict",
            ),
            (
                check(None, Some(&off)),
                "off by configuration",
                "locks.enabled = true",
            ),
            (
                check(None, Some(&Unavailable::refused("attach: EPERM".into()))),
                "attach: EPERM",
                "CAP_PERFMON",
            ),
        ] {
            assert_eq!(check.status, CheckStatus::Warning);
            assert!(check.detail.contains(detail), "{check:?}");
            assert!(
                check.advice.as_ref().is_some_and(|a| a.contains(advice)),
                "{check:?}"
            );
        }
    }

    #[test]
    fn one_that_is_just_beginning_is_not_in_trouble() {
        assert_eq!(check(None, None).status, CheckStatus::Ok);
    }
}

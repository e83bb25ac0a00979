//! The table of nftables: one rule that translates what slots send to the world, for all of them, and what keeps
//! the host from becoming a router for others by it.
//!
//! Spoken through the program `nft`, which understands the kernel it came with. Of the crates that speak
//! netlink themselves the one that is kept well is under the GPL, and the others know too little; what
//! is written here is what `nft list table inet pcpm` shows.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use super::super::error::{During as _, NetError};
use super::Masquerade;
use super::forwarding::Opened;

const TABLE: &str = "inet pcpm";
/// The longest comment that the kernel keeps (`NFT_USERDATA_MAXLEN`) has twice as many.
const COMMENT_BYTES: usize = 120;

/// Our table, which carries our mark.
#[derive(Debug)]
pub(super) struct Table {
    comment: String,
    /// What was written last, and how the kernel shows it.
    written: Option<Written>,
}

#[derive(Debug, PartialEq, Eq)]
struct Written {
    script: String,
    shown: String,
}

impl Table {
    /// The one with this mark.
    pub(super) fn of(mark: &str) -> Self {
        Self {
            comment: comment(mark),
            written: None,
        }
    }

    /// Writes the table, in one step, unless it is as it was written. Returns what was repaired by that.
    pub(super) fn ensure(
        &mut self,
        masquerade: Masquerade,
        opened: &Opened,
    ) -> Result<Option<String>, NetError> {
        let script = self.script(masquerade, opened);
        let shown = self.shown()?;
        let before = self
            .written
            .take_if(|written| written.script != script || Some(&written.shown) != shown.as_ref());
        if self.written.is_some() {
            return Ok(None);
        }
        run("write table", &["--file", "-"], &script)?;
        let is_repair = before.is_some_and(|before| before.script == script);
        let shown = self.shown()?.unwrap_or_default();
        self.written = Some(Written { script, shown });
        Ok(is_repair.then(|| format!("write table {TABLE}, which somebody changed or removed")))
    }

    /// Asks whether the kernel would take it.
    pub(super) fn check(&self, masquerade: Masquerade) -> Result<(), NetError> {
        self.shown()?;
        let script = self.script(masquerade, &Opened::default());
        run("check table", &["--check", "--file", "-"], &script).map(drop)
    }

    /// Removes the table; fine if there is none.
    pub(super) fn remove(&self) -> Result<(), NetError> {
        match self.shown()? {
            Some(_) => run("remove table", &["delete", "table", "inet", "pcpm"], "").map(drop),
            None => Ok(()),
        }
    }

    /// How the kernel shows it, if it is there; an error if it is somebody else's.
    fn shown(&self) -> Result<Option<String>, NetError> {
        let listed = try_run("list table", &["list", "table", "inet", "pcpm"], "")?;
        if !listed.status.success() {
            let words = String::from_utf8_lossy(&listed.stderr);
            return if words.contains("No such file or directory") {
                Ok(None)
            } else {
                Err(refused("list table", &words))
            };
        }
        let shown = String::from_utf8_lossy(&listed.stdout).into_owned();
        if !shown.contains(&self.comment) {
            let cause = format!("there is one without our comment: {}", self.comment);
            return Err(NetError::new(format!("use table {TABLE}"), cause));
        }
        Ok(Some(shown))
    }

    /// Replaces whatever is there. The chain of translation comes before those of others at the usual place: they
    /// would not know which ports are ours. Answers pass to slots as part of what conntrack knows; whether the slot's
    /// present holder opened it is for the kernel programs to say.
    fn script(&self, masquerade: Masquerade, opened: &Opened) -> String {
        let Masquerade {
            first_port,
            last_port,
            translates_ipv6,
            ..
        } = masquerade;
        let family = if translates_ipv6 {
            ""
        } else {
            "meta nfproto ipv4 "
        };
        let closed = closed(opened);
        format!(
            "table {TABLE}
delete table {TABLE}
table {TABLE} {{
  {comment}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 1
    {family}iifname \"pcpm*\" oifname != \"pcpm*\" meta l4proto {{ tcp, udp, icmp, icmpv6 }} masquerade to \
             :{first_port}-{last_port}
  }}
  chain forward {{
    type filter hook forward priority filter
    oifname \"pcpm*\" ct state {{ new, invalid, untracked }} drop
{closed}  }}
}}
",
            comment = self.comment,
        )
    }
}

/// Rules for uplinks that forward for slots alone.
fn closed(opened: &Opened) -> String {
    let mut rules = String::new();
    for (family, uplinks) in [("ipv4", &opened.ipv4), ("ipv6", &opened.ipv6)] {
        for uplink in uplinks {
            let rule = format!("meta nfproto {family} iif {uplink} oifname != \"pcpm*\" drop");
            writeln!(rules, "    {rule}").expect("text takes all that is written");
        }
    }
    rules
}

fn comment(mark: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "/._- ".contains(c) {
            c
        } else {
            '_'
        }
    };
    let text: String = mark.chars().map(plain).take(COMMENT_BYTES).collect();
    format!("comment \"{text}\"")
}

/// Runs `nft`, which has to succeed.
fn run(what: &str, args: &[&str], input: &str) -> Result<Output, NetError> {
    let output = try_run(what, args, input)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(refused(what, &String::from_utf8_lossy(&output.stderr)))
}

fn refused(what: &str, words: &str) -> NetError {
    let words = words.lines().next().unwrap_or("no reason given");
    NetError::new(format!("{what} {TABLE}"), format!("nft: {words}"))
}

fn try_run(what: &str, args: &[&str], input: &str) -> Result<Output, NetError> {
    let talk = || -> io::Result<Output> {
        let mut child = nft(args).spawn()?;
        let mut stdin = child.stdin.take().expect("it was piped");
        // One that ends before it has read all says why.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output()
    };
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("there is no program nft"),
        _ => error,
    };
    talk().map_err(missing).during(|| format!("{what} {TABLE}"))
}

/// Found like any program, or where administrators' programs are.
fn nft(args: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("nft");
    command
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masquerade(translates_ipv6: bool) -> Masquerade {
        Masquerade {
            first_port: 16_384,
            last_port: 32_767,
            has_ipv6: true,
            translates_ipv6,
        }
    }

    #[test]
    fn one_rule_translates_what_all_slots_send() {
        let table = Table::of("pcpm /run/pcpm");
        let script = table.script(masquerade(true), &Opened::default());
        assert_eq!(script.matches("masquerade to :16384-32767").count(), 1);
        assert_eq!(script.matches("iif ").count(), 0, "{script}");
        assert!(!script.contains("nfproto"), "{script}");
        let routed = table.script(masquerade(false), &Opened::default());
        assert!(
            routed.contains("meta nfproto ipv4 iifname \"pcpm*\""),
            "{routed}"
        );
    }

    #[test]
    fn uplinks_that_forward_for_slots_alone_forward_to_nobody_else() {
        let opened = Opened {
            ipv4: [2, 7].into(),
            ipv6: [7].into(),
        };
        let script = Table::of("pcpm").script(masquerade(true), &opened);
        for rule in [
            "meta nfproto ipv4 iif 2 oifname != \"pcpm*\" drop",
            "meta nfproto ipv4 iif 7 oifname != \"pcpm*\" drop",
            "meta nfproto ipv6 iif 7 oifname != \"pcpm*\" drop",
        ] {
            assert!(script.contains(rule), "no '{rule}' in {script}");
        }
        assert_eq!(script.matches("iif ").count(), 3);
    }

    #[test]
    fn no_state_directory_writes_rules() {
        let evil = format!("pcpm /run/\"; }} {}", "x".repeat(200));
        let comment = comment(&evil);
        assert_eq!(comment.matches('"').count(), 2, "{comment}");
        assert!(!comment.contains([';', '}']) && comment.len() < 140);
    }
}

//! `run` and `exec` with commands, signals and deaths. They join a network namespace, which takes
//! root: mostly the tests' own one, where nothing changes by it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::fake::{Answer, Daemon, Outcome, Seen, attachment};

fn daemon() -> Daemon {
    daemon_with("/proc/self/ns/net".into())
}

fn daemon_with(netns: PathBuf) -> Daemon {
    Daemon::start(move |method, parameters| {
        let owner = parameters["owner"].as_str().unwrap();
        match method {
            "Attach" => Answer::WithNetns(attachment(owner), netns.clone()),
            "Get" => {
                let mut reply = attachment(owner);
                reply["traffic"] = json!({"sent_packets": 0, "sent_bytes": 0,
                    "received_packets": 0, "received_bytes": 0, "dropped_packets": 0});
                reply["flows"] = json!({"used": 0, "limit": 250, "opened": 0, "refused": 0});
                Answer::WithNetns(reply, netns.clone())
            }
            _ => Answer::Result(json!({})),
        }
    })
}

fn shell(daemon: &Daemon, verb: &[&str], script: &str) -> Command {
    let mut command = daemon.pcpm(verb.iter().copied().chain(["--", "sh", "-c", script]));
    command.stdout(Stdio::piped());
    command
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// Reads lines until `line` comes.
fn await_line(output: &mut impl BufRead, line: &str) {
    let mut lines = output.lines();
    assert!(lines.any(|l| l.unwrap() == line), "no line '{line}'");
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn both_exit_with_the_status_of_the_command() {
    let daemon = daemon();
    for verb in [&["run"][..], &["exec", "web-1"]] {
        for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255)] {
            let outcome = Outcome::of(shell(&daemon, verb, script));
            assert_eq!(
                (outcome.code, outcome.stderr.as_str()),
                (code, ""),
                "{verb:?} {script}"
            );
        }
        let missing = daemon.run(&format!("{} -- /no/such/command", verb.join(" ")));
        assert_eq!(missing.code, 127, "{missing:?}");
        assert!(
            missing
                .stderr
                .starts_with("pcpm: cannot execute /no/such/command\npcpm: No such")
        );
        assert_eq!(
            daemon
                .run(&format!("{} -- /etc/passwd", verb.join(" ")))
                .code,
            126
        );
    }
    let killed = Outcome::of(shell(&daemon, &["run"], "kill -9 $$"));
    assert_eq!(killed.code, 128 + 9);
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn both_tell_the_command_where_it_runs() {
    let daemon = daemon();
    let script = "echo $PCPM_OWNER $PCPM_SLOT $PCPM_ADDRESS $PCPM_NETNS";
    for verb in [&["run", "--name", "web-1"][..], &["exec", "web-1"]] {
        let outcome = Outcome::of(shell(&daemon, verb, script));
        assert_eq!(
            outcome.stdout,
            "web-1 s0007 10.213.0.7 /run/pcpm/netns/s0007\n"
        );
    }
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn both_run_the_command_in_the_namespace_of_the_descriptor() {
    let mut other = Command::new("unshare");
    other.args(["--net", "sh", "-c", "readlink /proc/self/ns/net; exec cat"]);
    let mut other = other
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut expected = String::new();
    BufReader::new(other.stdout.take().unwrap())
        .read_line(&mut expected)
        .unwrap();
    let daemon = daemon_with(format!("/proc/{}/ns/net", other.id()).into());
    for verb in [&["run"][..], &["exec", "web-1"]] {
        let outcome = Outcome::of(shell(&daemon, verb, "readlink /proc/self/ns/net"));
        assert_eq!(outcome.stdout, expected, "{verb:?}");
    }
    drop(other.stdin.take());
    other.wait().unwrap();
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn run_holds_the_slot_by_its_process_and_detaches_at_the_end() {
    let daemon = daemon();
    let words = "run --name web-1 --tenant t --label a=b --on-empty wait --timeout 1s -- true";
    assert_eq!(daemon.run(words).code, 0);
    let asked = json!({"owner": "web-1", "tenant": "t", "labels": {"a": "b"}, "on_empty": "wait",
                       "timeout_ms": 1000, "lease": "pid", "exclusive": true, "pass_fd": true});
    assert_eq!(daemon.next(), Seen::Call("Attach".into(), asked));
    // By its id: whoever holds the name by then keeps its slot.
    let given_back = json!({"owner": "web-1", "id": attachment("web-1")["id"]});
    assert_eq!(daemon.next(), Seen::Call("Detach".into(), given_back));
    assert_eq!(daemon.next(), Seen::Closed);
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn run_detaches_when_the_command_cannot_be_executed() {
    let daemon = daemon();
    assert_eq!(daemon.run("run -- /no/such/command").code, 127);
    assert!(matches!(daemon.next(), Seen::Call(method, _) if method == "Attach"));
    assert!(matches!(daemon.next(), Seen::Call(method, _) if method == "Detach"));
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn every_run_has_an_owner_of_its_own() {
    let daemon = daemon();
    let owner = || Outcome::of(shell(&daemon, &["run"], "echo $PCPM_OWNER")).stdout;
    let (first, second) = (owner(), owner());
    assert!(
        first.starts_with("run-") && first != second,
        "{first} {second}"
    );
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn run_hands_signals_on() {
    let daemon = daemon();
    for sent in ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"] {
        let script =
            format!("trap 'echo got; exit 9' {sent}; echo up; while :; do sleep 0.1; done");
        let mut child = shell(&daemon, &["run"], &script).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        await_line(&mut output, "up");
        signal(&child, format!("SIG{sent}").parse().unwrap());
        await_line(&mut output, "got");
        assert_eq!(child.wait().unwrap().code(), Some(9), "{sent}");
    }
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn a_command_killed_by_a_signal_that_was_handed_on_is_128_and_the_signal() {
    let daemon = daemon();
    // Not a shell: those unblock signals that they find blocked.
    let script = "echo up; exec sleep 1000";
    let mut child = shell(&daemon, &["run"], script).spawn().unwrap();
    await_line(&mut BufReader::new(child.stdout.take().unwrap()), "up");
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn a_command_dies_with_a_killed_run() {
    let daemon = daemon();
    let mut child = shell(&daemon, &["run"], "echo up; exec sleep 1000")
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    await_line(&mut output, "up");
    child.kill().unwrap();
    child.wait().unwrap();
    // The command holds the other end of this pipe: it ends when the command does.
    output.read_to_end(&mut Vec::new()).unwrap();
    assert!(matches!(daemon.next(), Seen::Call(method, _) if method == "Attach"));
    assert_eq!(daemon.next(), Seen::Closed);
}

#[test]
#[ignore = "joins a network namespace: run as root with --include-ignored"]
fn a_namespace_that_cannot_be_joined_is_told() {
    let daemon = daemon();
    for verb in ["run", "exec web-1"] {
        let words: Vec<_> = verb.split(' ').collect();
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_admin", env!("CARGO_BIN_EXE_pcpm")]);
        command
            .args(words)
            .args(["--", "true"])
            .env("PCPM_SOCKET", daemon.socket());
        let outcome = Outcome::of(command);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(
            outcome.stderr.contains("join the slot's namespaces"),
            "{outcome:?}"
        );
        assert!(outcome.stderr.contains("CAP_SYS_ADMIN"), "{outcome:?}");
    }
}

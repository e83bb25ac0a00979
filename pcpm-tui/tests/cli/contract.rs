//! What scripts rely on: exit codes, the shape of JSON, what goes to which stream.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{Answer, Daemon, Outcome, Seen, attachment, counts, pcpm, status};

fn exhausted() -> Answer {
    Answer::Error(
        "PoolExhausted",
        json!({"depth": 0, "capacity": 8, "waiting": 1, "retry_after_ms": 5}),
    )
}

fn without_daemon(words: &str) -> Outcome {
    Outcome::of(pcpm(
        Path::new("/nonexistent/pcpm.sock"),
        words.split_whitespace(),
    ))
}

#[test]
fn attach_prints_one_flat_object() {
    let daemon = Daemon::answering(|| Answer::Result(attachment("web-1")));
    let outcome = daemon.run("--json attach web-1 --tenant default --timeout 2s");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert_eq!(outcome.stdout.lines().count(), 1);
    assert_eq!(outcome.json(), attachment("web-1"));
    let asked = json!({"owner": "web-1", "tenant": "default", "timeout_ms": 2000,
                       "lease": "explicit"});
    assert_eq!(daemon.next(), Seen::Call("Attach".into(), asked));
}

#[test]
fn ls_prints_a_list() {
    let attachments = [attachment("a"), attachment("b")];
    let reply = json!({ "attachments": attachments });
    let daemon = Daemon::answering(move || Answer::Result(reply.clone()));
    assert_eq!(daemon.run("ls --json").json(), json!(attachments));
    let plain = daemon.run("ls");
    let owners: Vec<_> = plain
        .stdout
        .lines()
        .filter_map(|l| l.split('\t').next())
        .collect();
    assert_eq!(owners, ["a", "b"]);
}

#[test]
fn show_prints_the_attachment_its_traffic_and_its_flows() {
    let mut reply = attachment("web-1");
    reply["traffic"] = json!({"sent_packets": 1, "sent_bytes": 2, "received_packets": 3,
                              "received_bytes": 4, "dropped_packets": 5});
    reply["flows"] = json!({"used": 6, "limit": 7, "opened": 8, "refused": 9});
    let expected = reply.clone();
    let daemon = Daemon::answering(move || Answer::Result(reply.clone()));
    assert_eq!(daemon.run("--json show web-1").json(), expected);
}

#[test]
fn status_has_the_promised_fields() {
    let daemon = Daemon::answering(|| Answer::Result(status()));
    let outcome = daemon.run("--json status").json();
    for slots in [
        "ready", "attached", "creating", "retiring", "failed", "capacity",
    ] {
        assert_eq!(outcome["slots"][slots], counts()[slots], "{slots}");
    }
    assert_eq!(
        (&outcome["uptime_s"], &outcome["version"]),
        (&json!(61), &json!("0.1.0"))
    );
    assert!(
        daemon
            .run("status")
            .stdout
            .contains("1 attached, 5 ready (target 6)")
    );
}

#[test]
fn a_refusal_is_exit_1_with_the_reason_on_stderr() {
    let daemon = Daemon::answering(|| {
        Answer::Error(
            "InvalidArgument",
            json!({"field": "owner", "reason": "too\u{1b}long"}),
        )
    });
    let outcome = daemon.run("--json attach x");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert_eq!(outcome.stderr, "pcpm: owner: too\\u{1b}long\n");
}

#[test]
fn an_exhausted_pool_is_exit_4() {
    let daemon = Daemon::answering(exhausted);
    for words in ["attach x --on-empty fail", "run -- true"] {
        let outcome = daemon.run(words);
        assert_eq!(outcome.code, 4, "{outcome:?}");
        assert!(
            outcome
                .stderr
                .starts_with("pcpm: the pool is exhausted: 0 of 8"),
            "{outcome:?}"
        );
    }
}

#[test]
fn an_unreachable_daemon_is_exit_3() {
    for words in [
        "attach x",
        "detach x",
        "ls",
        "show x",
        "status",
        "watch",
        "run -- true",
    ] {
        let outcome = without_daemon(words);
        assert_eq!(outcome.code, 3, "{words}: {outcome:?}");
        assert!(
            outcome.stderr.contains("/nonexistent/pcpm.sock"),
            "{outcome:?}"
        );
        assert!(outcome.stderr.contains("is pcpmd running?"), "{outcome:?}");
    }
}

#[test]
fn a_daemon_that_hangs_up_is_exit_3() {
    let daemon = Daemon::answering(|| Answer::HangUp);
    assert_eq!(daemon.run("status").code, 3);
}

#[test]
fn wrong_usage_is_exit_2() {
    for words in [
        "",
        "staus",
        "attach",
        "attach x --timeout 5",
        "attach x --on-empty maybe",
        "attach x --label novalue",
        "detach",
        "run",
        "run true",
        "exec web-1",
        "status --color sometimes",
    ] {
        let outcome = without_daemon(words);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (2, ""),
            "{words}: {outcome:?}"
        );
    }
    assert!(
        without_daemon("attach x --timeout 5")
            .stderr
            .contains("units are needed")
    );
    assert!(without_daemon("staus").stderr.contains("'status'"));
}

#[test]
fn help_tells_the_exit_codes() {
    let outcome = without_daemon("--help");
    assert_eq!(outcome.code, 0);
    assert!(
        outcome.stdout.contains("4  the pool is exhausted"),
        "{outcome:?}"
    );
}

#[test]
fn detach_goes_on_after_a_refusal_and_tells_it() {
    let daemon = Daemon::start(|_, parameters| {
        if parameters["owner"] == "b" {
            return Answer::Error("NoSuchAttachment", json!({"owner": "b"}));
        }
        Answer::Result(json!({}))
    });
    let outcome = daemon.run("--json detach a b c");
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.json(), json!({"detached": ["a", "c"]}));
    assert_eq!(
        outcome.stderr,
        "pcpm: detach b: owner 'b' has no attachment\n"
    );
}

#[test]
fn attach_by_connection_stays_until_its_input_ends_and_then_detaches() {
    let daemon = lease_daemon();
    let mut command = daemon.pcpm(["--json", "attach", "web-1", "--lease", "connection"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&line).unwrap()["slot"],
        "s0007"
    );
    assert!(matches!(daemon.next(), Seen::Call(method, _) if method == "Attach"));
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(
        daemon.next(),
        Seen::Call("Detach".into(), json!({"owner": "web-1"}))
    );
}

#[test]
fn attach_by_connection_ends_by_a_signal_in_order() {
    let daemon = lease_daemon();
    let mut command = daemon.pcpm(["attach", "web-1", "--lease", "connection"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(matches!(daemon.next(), Seen::Call(method, _) if method == "Attach"));
    wait_until_caught(child.id(), Signal::SIGTERM);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(matches!(daemon.next(), Seen::Call(method, _) if method == "Detach"));
}

#[test]
fn attach_by_connection_fails_when_the_daemon_goes_away() {
    let daemon = Daemon::answering(|| Answer::ResultThenHangUp(attachment("web-1")));
    let mut command = daemon.pcpm(["attach", "web-1", "--lease", "connection"]);
    let (stdin, _held_open) = std::io::pipe().unwrap();
    command.stdin(stdin);
    let outcome = Outcome::of(command);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.stdout.contains("s0007"), "{outcome:?}");
    assert!(outcome.stderr.contains("was lost"), "{outcome:?}");
}

fn lease_daemon() -> Daemon {
    Daemon::start(|method, _| match method {
        "Attach" => Answer::Result(attachment("web-1")),
        _ => Answer::Result(json!({})),
    })
}

/// Returns when the process has blocked `signal`, to read it itself.
fn wait_until_caught(pid: u32, signal: Signal) {
    let bit = 1 << (signal as u32 - 1);
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let blocked = status
            .lines()
            .find_map(|l| l.strip_prefix("SigBlk:"))
            .unwrap();
        if u64::from_str_radix(blocked.trim(), 16).unwrap() & bit != 0 {
            return;
        }
        std::thread::yield_now();
    }
}

fn frames() -> Vec<Value> {
    let event = json!({"sequence": 1, "time_ms": 1500, "kind": "attached", "slot": "s0007",
                       "owner": "web-1", "tenant": "default", "message": "warm"});
    let frame = |full: bool, events: Value| {
        json!({"full": full, "time_ms": 1000, "counts": counts(), "slots": [],
               "events": events, "events_lost": 0})
    };
    vec![frame(true, json!([])), frame(false, json!([event]))]
}

#[test]
fn watch_prints_lines_and_exits_3_when_the_daemon_goes_away() {
    let daemon = Daemon::answering(|| Answer::FramesThenHangUp(frames()));
    let outcome = daemon.run("watch");
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(
        lines[0].contains("\twatching\t") && lines[0].contains("5 ready"),
        "{outcome:?}"
    );
    let expected = "1970-01-01T00:00:01.500Z\tattached\ts0007\tweb-1\tdefault\twarm";
    assert_eq!(lines[1..], [expected]);
    assert_eq!(outcome.code, 3);
    assert!(outcome.stderr.contains("was lost"), "{outcome:?}");
}

#[test]
fn watch_prints_one_json_frame_a_line_and_ends_quietly_with_its_reader() {
    // Then nothing happens any more.
    let one = || {
        Answer::Frames(vec![json!({"full": true, "time_ms": 1, "counts": counts(),
        "slots": [], "events": [], "events_lost": 0})])
    };
    let daemon = Daemon::answering(one);
    let mut command = daemon.pcpm(["--json", "watch"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let frame: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&frame["full"], &frame["counts"]),
        (&json!(true), &counts())
    );
    assert!(matches!(daemon.next(), Seen::Call(..)));
    assert_eq!(daemon.next(), Seen::Closed);
    let outcome = child.wait_with_output().unwrap();
    assert_eq!(
        (outcome.status.code(), outcome.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn doctor_is_exit_1_when_a_check_failed() {
    let check = |status| json!({"name": "kernel", "status": status, "detail": "6.18"});
    for (statuses, code) in [(["ok", "warning"], 0), (["ok", "failed"], 1)] {
        let reply = json!({"checks": statuses.map(check)});
        let expected = reply.clone();
        let daemon = Daemon::answering(move || Answer::Result(reply.clone()));
        let outcome = daemon.run("--json doctor");
        assert_eq!((outcome.code, outcome.json()), (code, expected));
        let lines = daemon.run("doctor").stdout;
        assert!(
            lines.contains(&format!("{}\tkernel\t6.18\n", statuses[1])),
            "{lines}"
        );
    }
}

#[test]
fn doctor_asks_the_pcpmd_in_path_when_none_runs() {
    let directory = TempDir::new().unwrap();
    // A copy, because a pcpmd may have been built beside the real one; made by another process,
    // because a file that this one writes is busy in whatever other tests start meanwhile.
    let copy = directory.path().join("pcpm");
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_pcpm"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let doctor = |pcpmd: &str, words: &[&str]| {
        let path = directory.path().join(pcpmd.replace('/', "-"));
        if !pcpmd.is_empty() && !path.exists() {
            std::fs::create_dir(&path).unwrap();
            symlink(pcpmd, path.join("pcpmd")).unwrap();
        }
        let mut command = Command::new(&copy);
        command
            .args(words)
            .env("PCPM_SOCKET", "/nonexistent")
            .env("PATH", path);
        Outcome::of(command)
    };
    let checked = doctor("/bin/echo", &["doctor"]);
    assert_eq!(
        (checked.code, checked.stdout.as_str()),
        (0, "--check\n"),
        "{checked:?}"
    );
    assert_eq!(
        doctor("/bin/echo", &["--json", "doctor"]).stdout,
        "--check --json\n"
    );
    assert_eq!(doctor("/bin/false", &["doctor"]).code, 1);
    let missing = doctor("", &["doctor"]);
    assert_eq!(missing.code, 3);
    assert!(
        missing.stderr.contains("neither beside pcpm nor in PATH"),
        "{missing:?}"
    );
}

#[test]
fn colours_come_when_asked_for() {
    let daemon = Daemon::answering(|| Answer::Result(status()));
    assert!(!daemon.run("status").stdout.contains('\u{1b}'));
    assert!(
        daemon
            .run("--color always status")
            .stdout
            .contains("\u{1b}[31m1 failed\u{1b}[0m")
    );
}

#[test]
fn completions_are_printed_without_a_daemon() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = without_daemon(&format!("completions {shell}"));
        assert_eq!(outcome.code, 0);
        assert!(outcome.stdout.contains("on-empty"), "{shell}");
    }
}

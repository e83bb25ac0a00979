//! The real dashboard in a real terminal (tmux), against a real daemon under load: keys are pressed, the screen is read.

use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pcpm_tests::{Daemon, PATIENCE, Process, Terminal, World, binary};
use serde_json::{Value, json};

const SLOTS: u32 = 40;

/// Starts the dashboard; what the shell says when it has ended is [`ENDED`].
fn top(terminal: &Terminal<'_>, args: &str) -> Result<()> {
    let pcpm = binary("pcpm")?;
    terminal.run(&format!(
        "clear; {} top {args}; echo ended-$?",
        pcpm.display()
    ))
}

const ENDED: &str = "ended-0";

/// Waits until what tmux knows of the terminal is as `wanted`: whether the other screen is on, the cursor, and the mouse.
fn has_modes(terminal: &Terminal<'_>, wanted: &str) -> Result<()> {
    let asked = "#{alternate_on} #{cursor_flag} #{mouse_any_flag}";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let modes = terminal.tmux(&["display-message", "-p", asked])?;
        if modes.trim() == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{modes}, not {wanted}");
    }
}

/// The other screen, without a cursor, with the mouse.
const TAKEN: &str = "1 0 1";
const GIVEN_BACK: &str = "0 1 0";

/// A pool of which some slots are held and used.
fn loaded(world: &World) -> Result<(Daemon, Process)> {
    let daemon = world.pool_of(SLOTS)?;
    let mut peer = String::new();
    for number in 0..12 {
        let tenant = if number % 2 == 0 { "shop" } else { "search" };
        let attached = daemon.attach(&format!("web-{number}"), tenant)?;
        peer.clone_from(&attached.attachment.addresses[0]);
    }
    let pinging = daemon.get("web-1")?;
    let ping = format!("ping -n -q -i 0.02 {peer}");
    let traffic = world
        .slot(&pinging.attachment.netns)
        .tool(&ping)
        .with(|command| {
            command.stdout(std::process::Stdio::null());
        })
        .spawn()?;
    Ok((daemon, traffic))
}

#[test]
fn every_view_answers_to_its_key() -> Result<()> {
    let world = World::new()?;
    let _load = loaded(&world)?;
    let terminal = Terminal::open(&world)?;
    top(&terminal, "")?;
    terminal.shows(&[
        "● live",
        "Pool",
        "attached 12",
        "Attach latency",
        "rtnl lock",
        "Refill",
    ])?;
    for (key, texts) in [
        ("2", &["SLOT", "web-11", "◆ attached", "10.213.0."][..]),
        ("3", &["Waits for rtnl_mutex", "Who waits", "Longest waits"]),
        (
            "4",
            &["Latency: attach, warm", "Percentiles", "link, filter"],
        ),
        ("5", &["TENANT", "shop", "search"]),
        ("6", &["KIND", "attached", "web-3"]),
        ("?", &["search:", "the next view"]),
    ] {
        terminal.press(key)?;
        terminal.shows(texts)?;
    }
    // What follows Escape at once is a letter with Alt.
    terminal.press("Escape")?;
    terminal.until("the help is closed", |screen| !screen.contains("search:"))?;
    terminal.press("2 Enter")?;
    terminal.shows(&["attach took", "publish", "netns", "/run/pcpm/netns/"])?;
    terminal.press("Escape")?;
    terminal.until("the details are closed", |screen| {
        !screen.contains("attach took")
    })?;
    terminal.press("Space")?;
    terminal.shows(&["paused"])?;
    terminal.press("Space")?;
    terminal.shows(&["● live"])?;
    Ok(())
}

#[test]
fn starts_of_containers_are_seen_as_they_are_told() -> Result<()> {
    let world = World::new()?;
    let (daemon, _traffic) = loaded(&world)?;
    let terminal = Terminal::open(&world)?;
    top(&terminal, "--view latency")?;
    terminal.shows(&["container start"])?;
    let count = |screen: &str, step: &str| -> Option<String> {
        let line = screen.lines().find(|line| line.contains(step))?;
        let (_, counts) = line.split_once(step)?;
        counts.split_whitespace().next().map(str::to_owned)
    };
    let mut pool = daemon.connect()?;
    for phases in [
        json!([{"phase": "attach", "took_us": 90}, {"phase": "create", "took_us": 40_000}]),
        json!([{"phase": "start", "took_us": 900}]),
    ] {
        let told = json!({"owner": "web-1", "phases": phases});
        let _: Value = pool.call("ReportStart", &told)?;
    }
    for step in ["container start", "  create", "  engine"] {
        terminal.until(&format!("{step} is counted"), |screen| {
            count(screen, step).as_deref() == Some("1")
        })?;
    }
    // Down to the first of them, whose times are on the heat map then.
    terminal.press(&["Down"; 9].join(" "))?;
    terminal.shows(&["Latency: container start", "1 time "])?;
    Ok(())
}

#[test]
fn what_is_filtered_and_selected_can_be_detached() -> Result<()> {
    let world = World::new()?;
    let (daemon, _traffic) = loaded(&world)?;
    let terminal = Terminal::open(&world)?;
    top(&terminal, "--view slots")?;
    terminal.shows(&["web-3"])?;
    terminal.press("/")?;
    terminal.type_text("owner:web-3")?;
    terminal.press("Enter")?;
    terminal.until("only web-3 is left", |screen| {
        screen.contains("web-3") && !screen.contains("web-4")
    })?;
    terminal.press("d")?;
    terminal.shows(&["Are you sure?", "'web-3'"])?;
    terminal.press("n d y")?;
    terminal.shows(&["detached 'web-3'"])?;
    assert!(daemon.get("web-3").is_err());
    Ok(())
}

#[test]
fn read_only_offers_nothing_that_changes() -> Result<()> {
    let world = World::new()?;
    let (daemon, _traffic) = loaded(&world)?;
    let terminal = Terminal::open(&world)?;
    top(&terminal, "--view slots --read-only")?;
    let screen = terminal.shows(&["web-3", "Space pause"])?;
    assert!(!screen.contains("d detach"), "{screen}");
    terminal.press("d y D y")?;
    terminal.press("6")?;
    terminal.shows(&["KIND"])?;
    assert_eq!(daemon.status()?.slots.attached, 12);
    Ok(())
}

#[test]
fn a_daemon_that_goes_away_is_waited_for() -> Result<()> {
    let world = World::new()?;
    let (mut daemon, _traffic) = loaded(&world)?;
    let terminal = Terminal::open(&world)?;
    top(&terminal, "")?;
    terminal.shows(&["● live", "attached 12"])?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE)?;
    terminal.shows(&["stale for", "retry in", "attached 12"])?;
    // Whoever does not wait gets the terminal back as ever.
    terminal.press("q")?;
    terminal.shows(&[ENDED])?;
    has_modes(&terminal, GIVEN_BACK)?;
    top(&terminal, "")?;
    terminal.shows(&["no connection to pcpmd"])?;
    let _next = world.spawn_daemon(&["--capacity", &SLOTS.to_string()])?;
    terminal.shows(&["● live", "attached 12"])?;
    Ok(())
}

#[test]
fn the_terminal_is_given_back_however_it_ends() -> Result<()> {
    let world = World::new()?;
    let _load = loaded(&world)?;
    let terminal = Terminal::open(&world)?;
    let pcpm = binary("pcpm")?;
    for end in ["q", "C-c"] {
        top(&terminal, "")?;
        terminal.shows(&["● live"])?;
        has_modes(&terminal, TAKEN)?;
        terminal.press(end)?;
        terminal.shows(&[ENDED])?;
        has_modes(&terminal, GIVEN_BACK)?;
    }
    let noted = "clear; sh -c 'echo $$ > /run/top.pid; exec PCPM top'";
    terminal.run(&noted.replace("PCPM", &pcpm.display().to_string()))?;
    terminal.shows(&["● live"])?;
    let signal = |name: &str| {
        let kill = format!("kill -{name} $(cat /run/top.pid)");
        world.command("sh", ["-c", &kill]).run()
    };
    for from_outside in [false, true] {
        if from_outside {
            signal("TSTP")?;
        } else {
            terminal.press("C-z")?;
        }
        terminal.shows(&["Stopped"])?;
        has_modes(&terminal, GIVEN_BACK)?;
        terminal.run("clear; fg")?;
        terminal.shows(&["● live"])?;
        has_modes(&terminal, TAKEN)?;
    }
    signal("TERM")?;
    let gone = "while kill -0 $(cat /run/top.pid) 2>/dev/null; do sleep 0.01; done";
    world.command("sh", ["-c", gone]).run()?;
    has_modes(&terminal, GIVEN_BACK)?;
    terminal.run("clear; stty -a | grep -c -e ' icanon' -e ' echo '")?;
    terminal.until("input is echoed line by line", |screen| {
        screen.lines().any(|line| matches!(line.trim(), "1" | "2"))
    })?;
    Ok(())
}

#[test]
fn one_frame_needs_no_terminal_and_a_recording_no_daemon() -> Result<()> {
    let world = World::new()?;
    let (mut daemon, _traffic) = loaded(&world)?;
    let once = world.pcpm(["top", "--once", "--size", "120x40"])?.run()?;
    assert!(
        once.contains("Attach latency") && once.contains("attached 12"),
        "{once}"
    );
    let terminal = Terminal::open(&world)?;
    top(&terminal, "--record /run/recording")?;
    terminal.shows(&["● live"])?;
    let attached = daemon.attach("late-1", "shop")?;
    terminal.press("2")?;
    terminal.shows(&["late-1", &attached.attachment.slot])?;
    terminal.press("q")?;
    terminal.shows(&[ENDED])?;
    daemon.stop(PATIENCE)?;
    let replayed = world
        .pcpm([
            "top",
            "--replay",
            "/run/recording",
            "--once",
            "--view",
            "slots",
            "--size",
            "120x60",
        ])?
        .run()?;
    assert!(replayed.contains("late-1"), "{replayed}");
    top(&terminal, "--replay /run/recording --speed 4 --view slots")?;
    terminal.shows(&["replay", "late-1"])?;
    terminal.press("q")?;
    let (_, refused) = world
        .pcpm(["top", "--replay", "/etc/passwd", "--once"])?
        .fails()?;
    assert!(refused.contains("no recording"), "{refused}");
    Ok(())
}

//! What the shims do beyond what an engine does without them, by their system calls: a budget, and what must not be
//! among them because it would not be flat.

use std::fs;

use anyhow::{Context, Result};
use pcpm_tests::{Tool, World, binary};

/// The lines that `strace` writes of a command, of its processes together.
fn calls(
    world: &World,
    name: &str,
    command: impl FnOnce(&[&str]) -> Result<Tool>,
) -> Result<String> {
    let file = format!("/run/{name}.calls");
    command(&["-f", "-qq", "-o", &file])?.run()?;
    Ok(fs::read_to_string(world.path(&file))?)
}

/// How many calls a program makes once it is loaded, without those for memory: the same in every build of it.
fn own_calls(calls: &str) -> usize {
    const MEMORY: [&str; 6] = [
        " brk(",
        " mmap(",
        " munmap(",
        " mprotect(",
        " mremap(",
        " madvise(",
    ];
    let loaded = calls
        .lines()
        .skip_while(|line| !line.contains("rt_sigaction(SIGPIPE"));
    let own = loaded.filter(|line| !MEMORY.iter().any(|memory| line.contains(memory)));
    own.count()
}

fn count(calls: &str, what: &str) -> usize {
    calls.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn an_add_is_a_question_to_the_daemon_and_a_mount() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    world.tool("ip netns add c1").run()?;
    let plugin = binary("pcpm-cni")?;
    let plugin = plugin.to_str().context("no text")?;
    let said = calls(&world, "add", |strace| {
        let words = strace.iter().copied().chain([plugin]);
        let config = r#"{"cniVersion": "1.0.0", "name": "n", "type": "pcpm-cni"}"#;
        Ok(world
            .command("strace", words)
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", "/run/netns/c1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .input(config))
    })?;
    assert_eq!(daemon.status()?.slots.attached, 1);
    assert_eq!(count(&said, " connect("), 1, "{said}");
    assert_eq!(count(&said, " move_mount("), 1, "{said}");
    for never in ["AF_NETLINK", " clone", " fork(", " nanosleep("] {
        assert_eq!(count(&said, never), 0, "{never} in {said}");
    }
    let total = own_calls(&said);
    assert!(total <= 65, "{total} calls:\n{said}");
    Ok(())
}

#[test]
fn a_create_is_a_question_to_the_daemon_and_a_file() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    world.tool("mkdir /run/bundle").run()?;
    world.tool("runc spec --bundle /run/bundle").run()?;
    let wrapper = binary("pcpm-runtime")?;
    let wrapper = wrapper.to_str().context("no text")?;
    let said = calls(&world, "create", |strace| {
        let create = [wrapper, "create", "--bundle", "/run/bundle", "c1"];
        let words = strace.iter().copied().chain(create);
        Ok(world
            .command("strace", words)
            .env("PCPM_RUNTIME", "/bin/true"))
    })?;
    assert_eq!(daemon.status()?.slots.attached, 1);
    // The first process is the wrapper, the other one becomes the runtime.
    let first = said.split_once(' ').context("no line")?.0;
    let own: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with(first))
        .collect();
    let own = own.join("\n");
    assert_eq!(count(&own, " connect("), 1, "{own}");
    for never in ["AF_NETLINK", " nanosleep(", "io.pcpm.Pool.List"] {
        assert_eq!(count(&own, never), 0, "{never} in {own}");
    }
    let total = own_calls(&own);
    assert!(total <= 75, "{total} calls:\n{own}");
    Ok(())
}

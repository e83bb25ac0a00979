//! The interface seen by a client that knows nothing of this project: the `varlink` package of Python.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use pcpm_tests::World;

/// Tests of this file install the package once, one of them at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// A Python with the package, in the build directory.
fn python() -> Result<String> {
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let environment = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("varlink");
    let python = environment.join("bin/python");
    let installed = |python: &std::path::Path| {
        let import = Command::new(python).args(["-c", "import varlink"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    if !installed(&python) {
        let make = Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&environment)
            .output();
        ensure!(
            make?.status.success(),
            "python3 -m venv failed: is python3-venv installed?"
        );
        let pip = ["-m", "pip", "install", "--quiet", "varlink==31.0.0"];
        let pip = Command::new(&python).args(pip).output()?;
        ensure!(
            pip.status.success(),
            "pip: {}",
            String::from_utf8_lossy(&pip.stderr)
        );
    }
    Ok(python
        .to_str()
        .context("the build directory is not named in UTF-8")?
        .to_owned())
}

/// Runs `script` with `pool`, the interface, and `service`, the connection's service, at hand.
fn run(world: &World, script: &str) -> Result<String> {
    let prelude = "import json, varlink\n\
        client = varlink.Client.new_with_address('unix:/run/pcpm/pcpm.sock')\n\
        pool = client.open('io.pcpm.Pool')\n";
    world
        .host()
        .command(python()?, ["-c", &format!("{prelude}{script}")])
        .run()
}

#[test]
fn introspection_is_the_committed_file() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(1)?;
    let script = "print(client.get_interface('io.pcpm.Pool').description, end='')";
    assert_eq!(run(&world, script)?, pcpm_api::INTERFACE);
    Ok(())
}

#[test]
fn the_service_names_itself() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(1)?;
    let info = run(&world, "print(client.get_interfaces())")?;
    assert!(
        info.contains("io.pcpm.Pool") && info.contains("org.varlink.service"),
        "{info}"
    );
    Ok(())
}

#[test]
fn another_client_attaches_and_detaches() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let script = "\
attached = pool.Attach(owner='web', tenant='shop', labels={'a': 'b'})
assert pool.Get(owner='web')['netns'] == attached['netns']
assert [a['owner'] for a in pool.List()['attachments']] == ['web']
assert pool.Status()['slots']['attached'] == 1
pool.Detach(owner='web')
print(attached['netns'])";
    let netns = run(&world, script)?;
    assert!(netns.starts_with("/run/pcpm/netns/s000"), "{netns}");
    daemon.wait_until_ready(2)?;
    Ok(())
}

#[test]
fn another_client_gets_typed_errors() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(1)?;
    let script = "\
def error(call, **arguments):
    try:
        call(**arguments)
    except varlink.VarlinkError as error:
        return error.error(), error.parameters()
name, parameters = error(pool.Detach, owner='nobody')
assert name == 'io.pcpm.Pool.NoSuchAttachment' and parameters['owner'] == 'nobody', name
name, parameters = error(pool.Attach, owner='a b')
assert name == 'io.pcpm.Pool.InvalidArgument' and parameters['field'] == 'owner', name
pool.Attach(owner='one')
name, parameters = error(pool.Attach, owner='two', on_empty='fail')
assert name == 'io.pcpm.Pool.PoolExhausted' and parameters['capacity'] == 1, name
print('ok')";
    assert_eq!(run(&world, script)?.trim(), "ok");
    Ok(())
}

#[test]
fn another_client_watches() -> Result<()> {
    let world = World::new()?;
    let _daemon = world.pool_of(3)?;
    let script = "\
frames = pool.Watch(_more=True, interval_ms=20)
first = next(frames)
assert first['full'] and len(first['slots']) == 3, first
other = varlink.Client.new_with_address('unix:/run/pcpm/pcpm.sock').open('io.pcpm.Pool')
other.Attach(owner='web')
delta = next(frames)
assert not delta['full'], delta
print([slot['owner'] for slot in delta['slots'] if slot['state'] == 'attached'])";
    assert_eq!(run(&world, script)?.trim(), "['web']");
    Ok(())
}

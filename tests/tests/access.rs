//! Who may do what over the socket: users of the host other than root, by their user and groups.

use std::fs;

use anyhow::{Context, Result};
use pcpm_tests::{Daemon, World};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[access]
group = "4000"
viewers = ["@4001"]
users = ["1000", "@4002"]
[quota.tenant]
attachments = 3
[quota.user]
attachments = 2
"#;

/// Users and groups, as `setpriv` is told of them. All but the last are in the socket's group.
const ALICE: &str = "--reuid 1000 --regid 1000 --groups 4000";
const BOB: &str = "--reuid 1001 --regid 1001 --groups 4000,4002";
const VIEWER: &str = "--reuid 1002 --regid 4001 --groups 4000";
const STRANGER: &str = "--reuid 1003 --regid 1003 --groups 4000";
const OUTSIDER: &str = "--reuid 1000 --regid 1000 --clear-groups";

fn shared_pool() -> Result<(World, Daemon)> {
    let world = World::new()?;
    fs::write(world.path("/run/pcpmd.toml"), CONFIG)?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "6"])?;
    daemon.wait_until_ready(6)?;
    Ok((world, daemon))
}

/// What the daemon answers somebody's call, over a socket that only netcat and the daemon know.
fn call(world: &World, who: &str, method: &str, parameters: &Value) -> Result<Value> {
    let call = json!({"method": format!("io.pcpm.Pool.{method}"), "parameters": parameters});
    let line = format!("setpriv {who} nc -N -U /run/pcpm/pcpm.sock");
    let answer = world.tool(&line).input(format!("{call}\0")).run()?;
    serde_json::from_str(answer.trim_end_matches('\0')).with_context(|| format!("{answer:?}"))
}

fn error_of(answer: &Value) -> &str {
    let error = answer["error"].as_str().unwrap_or("none");
    error.trim_start_matches("io.pcpm.Pool.")
}

#[test]
fn the_socket_opens_to_its_group_only() -> Result<()> {
    let (world, _daemon) = shared_pool()?;
    let answer = call(&world, VIEWER, "Status", &json!({}))?;
    assert_eq!(answer["parameters"]["slots"]["ready"], 6, "{answer}");
    let line = format!("setpriv {OUTSIDER} nc -N -U /run/pcpm/pcpm.sock");
    let (_, complaint) = world.tool(&line).fails()?;
    assert!(complaint.contains("Permission denied"), "{complaint}");
    let mode = world
        .tool("stat --format %a:%u:%g /run/pcpm/pcpm.sock")
        .run()?;
    assert_eq!(mode.trim(), "660:0:4000");
    Ok(())
}

#[test]
fn each_role_may_do_what_it_says_and_no_more() -> Result<()> {
    let (world, daemon) = shared_pool()?;
    daemon.attach("roots", "t")?;
    let of_roots = json!({"owner": "roots"});
    let with_fd = json!({"owner": "roots", "pass_fd": true});
    for (who, method, parameters, expected) in [
        (STRANGER, "Status", &json!({}), "PermissionDenied"),
        (STRANGER, "List", &json!({}), "PermissionDenied"),
        (VIEWER, "List", &json!({}), "none"),
        (VIEWER, "Get", &of_roots, "none"),
        (VIEWER, "Get", &with_fd, "PermissionDenied"),
        (VIEWER, "Attach", &json!({"owner": "v"}), "PermissionDenied"),
        (VIEWER, "Detach", &of_roots, "PermissionDenied"),
        (ALICE, "Attach", &json!({"owner": "a"}), "none"),
        (ALICE, "Detach", &of_roots, "PermissionDenied"),
        (ALICE, "Attach", &of_roots, "PermissionDenied"),
        (BOB, "Detach", &json!({"owner": "a"}), "PermissionDenied"),
        (BOB, "Update", &json!({"owner": "a"}), "PermissionDenied"),
        (
            BOB,
            "Get",
            &json!({"owner": "a", "pass_fd": true}),
            "PermissionDenied",
        ),
        (BOB, "Attach", &json!({"owner": "b"}), "none"),
        (ALICE, "Detach", &json!({"owner": "a"}), "none"),
    ] {
        let answer = call(&world, who, method, parameters)?;
        assert_eq!(
            error_of(&answer),
            expected,
            "{method} {parameters} by {who}: {answer}"
        );
    }
    assert_eq!(daemon.get("b")?.attachment.uid, 1001);
    daemon.detach("b")
}

#[test]
fn a_user_and_a_tenant_have_no_more_than_their_quotas() -> Result<()> {
    let (world, daemon) = shared_pool()?;
    let attach = |who, owner: &str, tenant| {
        call(
            &world,
            who,
            "Attach",
            &json!({"owner": owner, "tenant": tenant}),
        )
    };
    for owner in ["a1", "a2"] {
        assert_eq!(error_of(&attach(ALICE, owner, "t")?), "none");
    }
    let refused = attach(ALICE, "a3", "other")?;
    assert_eq!(error_of(&refused), "QuotaExceeded");
    assert_eq!(refused["parameters"]["scope"], "user", "{refused}");
    assert_eq!(error_of(&attach(BOB, "b1", "t")?), "none");
    let refused = attach(BOB, "b2", "t")?;
    assert_eq!(refused["parameters"]["scope"], "tenant", "{refused}");
    assert_eq!(refused["parameters"]["limit"], 3, "{refused}");
    let (code, complaint) = world.pcpm(["attach", "r1", "--tenant", "t"])?.fails()?;
    assert_eq!(code, 1);
    assert!(
        complaint.contains("tenant's quota of 3 attachments"),
        "{complaint}"
    );
    daemon.detach("a1")?;
    assert_eq!(error_of(&attach(BOB, "b2", "t")?), "none");
    Ok(())
}

#[test]
fn a_role_of_a_user_that_does_not_exist_stops_the_start() -> Result<()> {
    let world = World::new()?;
    let config = "[access]\nusers = [\"no-such-user\"]\n";
    fs::write(world.path("/run/pcpmd.toml"), config)?;
    let arguments = ["--config", "/run/pcpmd.toml"];
    let daemon = world
        .host()
        .command(pcpm_tests::binary("pcpmd")?, arguments);
    let (_, error) = daemon.fails()?;
    assert!(
        error.contains("access.users: there is no user 'no-such-user'"),
        "{error}"
    );
    Ok(())
}

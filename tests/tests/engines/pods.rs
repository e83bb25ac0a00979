//! Pods, as a kubelet has them made: over containerd's Container Runtime Interface, with `pcpm-cni`.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pcpm_tests::engines::{
    ContainerState, Containerd, Cri, Engine, Handler, Network, Pod, Pods, SHOW_ADDRESS,
};
use pcpm_tests::{HOST_ADDRESS, INTERNET_ADDRESS, PATIENCE};

use crate::{Host, SERVER};

/// Starts container `main` of a pod, and returns its id.
fn start_container(cri: &Cri, sandbox: &str, pod: &Pod, command: &str) -> Result<String> {
    let container = cri.create_container(sandbox, pod, "main", command)?;
    assert_eq!(cri.container_state(&container)?, ContainerState::Created);
    cri.start_container(&container)?;
    Ok(container)
}

#[test]
fn a_pod_and_its_containers_are_in_one_slot() -> Result<()> {
    let host = Host::new()?;
    let containerd = Containerd::start(&host.world)?;
    let cri = containerd.cri();
    for handler in [Handler::Pooled, Handler::PooledThroughRuntime] {
        let limit =
            |way: &str, rate: &str| (format!("kubernetes.io/{way}-bandwidth"), rate.to_owned());
        let pod = Pod {
            namespace: "shop".into(),
            ports: vec![(8080, 80)],
            annotations: [limit("ingress", "50M"), limit("egress", "60M")].into(),
            ..Pod::new("web", handler.name())
        };
        let sandbox = cri.run_pod(&pod)?;
        let attachment = host.daemon.get(&sandbox)?.attachment;
        assert_eq!(attachment.tenant, "shop");
        assert_eq!(attachment.labels["io.kubernetes.pod.name"], "web");
        let limits = (attachment.rate_down, attachment.rate_up);
        assert_eq!(limits, (Some(50_000_000), Some(60_000_000)));
        let address = host.address()?;
        let status = cri.pod_status(&sandbox)?;
        assert_eq!((status.ready, &status.address), (true, &address));

        let container = start_container(&cri, &sandbox, &pod, SERVER)?;
        assert_eq!(
            host.address()?,
            address,
            "a container takes no slot of its own"
        );
        let shown = cri.exec_sync(&container, SHOW_ADDRESS)?;
        assert!(shown.output.contains(&address), "{shown:?}");
        host.fetch(&format!("http://{address}/"))?;
        let out = format!("/bin/busybox ping -c 1 -W 5 {INTERNET_ADDRESS}");
        assert_eq!(cri.exec_sync(&container, &out)?.code, 0);
        let published = format!("curl -sS -o /dev/null --max-time 10 http://{HOST_ADDRESS}:8080/");
        host.world.internet().tool(&published).run()?;

        // What is started beside it, and again, is in the same network.
        cri.stop_container(&container)?;
        assert!(matches!(
            cri.container_state(&container)?,
            ContainerState::Exited(_)
        ));
        cri.remove_container(&container)?;
        let again = start_container(&cri, &sandbox, &pod, SHOW_ADDRESS)?;
        wait_until("the container ends", || {
            Ok(cri.container_state(&again)? == ContainerState::Exited(0))
        })?;
        let log = fs::read_to_string(host.world.path(pod.log_file("main")))?;
        assert!(log.contains(&address), "{log}");

        // A kubelet says everything again until it knows that it is done.
        for _ in 0..2 {
            cri.stop_pod(&sandbox)?;
            host.daemon
                .wait_until("nothing is attached", |slots| slots.attached == 0)?;
        }
        for _ in 0..2 {
            cri.remove_pod(&sandbox)?;
        }
        assert_eq!(cri.pods()?, [""; 0]);
        host.expect_nothing_left()?;
    }
    Ok(())
}

/// Asks the engine until it is so; it tells nobody by itself.
fn wait_until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "never: {what}");
    }
    Ok(())
}

#[test]
fn pods_reach_those_of_their_namespace_and_no_others() -> Result<()> {
    let host = Host::new()?;
    let containerd = Containerd::start(&host.world)?;
    let cri = containerd.cri();
    let mut pods = Vec::new();
    for (name, namespace) in [("server", "shop"), ("friend", "shop"), ("stranger", "bank")] {
        let pod = Pod {
            namespace: namespace.into(),
            ..Pod::new(name, Handler::Pooled.name())
        };
        let sandbox = cri.run_pod(&pod)?;
        let container = start_container(&cri, &sandbox, &pod, SERVER)?;
        pods.push((container, cri.pod_status(&sandbox)?.address));
    }
    let (_, server) = &pods[0];
    let ping = format!("/bin/busybox ping -c 1 -W 5 {server}");
    let codes = pods[1..]
        .iter()
        .map(|(container, _)| Ok(cri.exec_sync(container, &ping)?.code));
    assert_eq!(codes.collect::<Result<Vec<_>>>()?, [0, 1]);
    for sandbox in cri.pods()? {
        cri.remove_pod(&sandbox)?;
    }
    host.expect_nothing_left()
}

#[test]
fn pods_outlive_their_engine_and_their_sandbox_may_die() -> Result<()> {
    let host = Host::new()?;
    let mut containerd = Containerd::start(&host.world)?;
    let cri = containerd.cri();
    let pods = Pods::of(cri.clone());
    for name in ["a", "b"] {
        pods.start(Network::Pooled, name)?;
    }
    let before = host.addresses()?;
    assert_eq!(before.len(), 2);
    containerd.restart()?;
    assert_eq!(host.addresses()?, before);
    let sandboxes = cri.pods()?;
    for sandbox in &sandboxes {
        let status = cri.pod_status(sandbox)?;
        assert!(
            status.ready && before.contains(&status.address),
            "{status:?}"
        );
    }
    let shown = pods.exec("a", SHOW_ADDRESS)?;
    let its = before.iter().find(|address| shown.contains(*address));
    its.context(shown)?;

    // The process that holds a sandbox is as mortal as others.
    let sandbox = &sandboxes[0];
    containerd
        .ctr(&format!("-n k8s.io task kill -s KILL {sandbox}"))
        .run()?;
    wait_until("the sandbox is known to have ended", || {
        Ok(!cri.pod_status(sandbox)?.ready)
    })?;
    assert_eq!(
        host.addresses()?,
        before,
        "its network is its until it is stopped"
    );
    cri.stop_pod(sandbox)?;
    assert_eq!(host.addresses()?.len(), 1, "the other one's is left");
    for sandbox in &sandboxes {
        cri.stop_pod(sandbox)?;
        cri.remove_pod(sandbox)?;
    }
    host.expect_nothing_left()
}

#[test]
fn many_pods_have_slots_of_their_own() -> Result<()> {
    let host = Host::new()?;
    let containerd = Containerd::start(&host.world)?;
    host.expect_to_serve_many(&Pods::of(containerd.cri()))
}

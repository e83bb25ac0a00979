//! What a kubelet says to an engine: the Container Runtime Interface (`runtime.v1`), as far as pods and their networks go.

mod messages;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use self::messages as wire;
use super::IMAGE;
use super::grpc;

/// Where containers' output goes, a directory for each pod.
const LOGS: &str = "/run/engine/pods";

/// The interface of an engine that listens on a socket.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
}

/// A pod that is to be.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its name, which is its uid and host name too.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// How it is run: a handler of the engine's configuration, that of a `RuntimeClass`.
    pub handler: String,
    /// TCP ports: of the host, of the pod.
    pub ports: Vec<(u16, u16)>,
    /// What is said of it beside that.
    pub annotations: BTreeMap<String, String>,
}

/// What an engine knows of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// Whether its sandbox runs.
    pub ready: bool,
    /// Its first address; empty when it has none.
    pub address: String,
}

/// What came of a command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub output: String,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made and not started.
    Created,
    /// It runs.
    Running,
    /// It ended, with this code.
    Exited(i32),
}

impl Pod {
    /// A pod of the Kubernetes namespace `default`.
    pub fn new(name: impl Into<String>, handler: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: "default".into(),
            handler: handler.into(),
            ..Self::default()
        }
    }

    /// Where the output of its container `name` goes.
    pub fn log_file(&self, name: &str) -> String {
        format!("{}/{name}.log", self.log_directory())
    }

    fn log_directory(&self) -> String {
        format!("{LOGS}/{}", self.name)
    }

    fn config(&self) -> wire::PodSandboxConfig {
        let port = |(host, pod): &(u16, u16)| wire::PortMapping {
            container_port: (*pod).into(),
            host_port: (*host).into(),
        };
        wire::PodSandboxConfig {
            metadata: Some(wire::PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.name.clone(),
                namespace: self.namespace.clone(),
            }),
            hostname: self.name.clone(),
            log_directory: self.log_directory(),
            annotations: self.annotations.clone(),
            port_mappings: self.ports.iter().map(port).collect(),
            linux: Some(wire::LinuxPodSandboxConfig {
                security_context: Some(wire::LinuxSandboxSecurityContext {
                    namespace_options: Some(wire::NamespaceOption { network: wire::POD }),
                }),
            }),
        }
    }
}

impl Cri {
    /// Of the engine at `socket`, a path outside of its world.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The engine's name and version.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn version(&self) -> Result<String> {
        let answer: wire::VersionResponse =
            self.call("Version", &wire::VersionRequest::default())?;
        Ok(format!(
            "{} {}",
            answer.runtime_name, answer.runtime_version
        ))
    }

    /// Whether the engine has the image of all containers.
    pub(crate) fn has_image(&self) -> Result<bool> {
        let question = wire::ImageStatusRequest {
            image: Some(image()),
        };
        let method = "/runtime.v1.ImageService/ImageStatus";
        let answer: wire::ImageStatusResponse = grpc::call(&self.socket, method, &question)?;
        Ok(answer.image.is_some())
    }

    /// Starts the sandbox of `pod`, with its network, and returns its id.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn run_pod(&self, pod: &Pod) -> Result<String> {
        let question = wire::RunPodSandboxRequest {
            config: Some(pod.config()),
            runtime_handler: pod.handler.clone(),
        };
        let answer: wire::Id = self.call("RunPodSandbox", &question)?;
        Ok(answer.id)
    }

    /// How the pod of sandbox `id` is.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod_status(&self, id: &str) -> Result<PodStatus> {
        let answer: wire::PodSandboxStatusResponse = self.call("PodSandboxStatus", &named(id))?;
        let status = answer.status.context("no status")?;
        Ok(PodStatus {
            ready: status.state == wire::SANDBOX_READY,
            address: status.network.unwrap_or_default().ip,
        })
    }

    /// The ids of all sandboxes.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn pods(&self) -> Result<Vec<String>> {
        let answer: wire::ListPodSandboxResponse =
            self.call("ListPodSandbox", &wire::ListPodSandboxRequest::default())?;
        Ok(answer.items.into_iter().map(|pod| pod.id).collect())
    }

    /// Stops the pod of sandbox `id`, all that is in it, and takes its network away. May be repeated.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn stop_pod(&self, id: &str) -> Result<()> {
        self.tell("StopPodSandbox", &named(id))
    }

    /// Removes the pod of sandbox `id`. May be repeated.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        self.tell("RemovePodSandbox", &named(id))
    }

    /// Makes container `name` of the pod of sandbox `id`, which is to run `command`, and returns its id.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn create_container(
        &self,
        id: &str,
        pod: &Pod,
        name: &str,
        command: &str,
    ) -> Result<String> {
        let question = wire::CreateContainerRequest {
            pod_sandbox_id: id.into(),
            config: Some(wire::ContainerConfig {
                metadata: Some(wire::ContainerMetadata { name: name.into() }),
                image: Some(image()),
                command: words(command),
                log_path: format!("{name}.log"),
            }),
            sandbox_config: Some(pod.config()),
        };
        let answer: wire::Id = self.call("CreateContainer", &question)?;
        Ok(answer.id)
    }

    /// Starts container `id`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn start_container(&self, id: &str) -> Result<()> {
        self.tell("StartContainer", &named(id))
    }

    /// Kills container `id`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn stop_container(&self, id: &str) -> Result<()> {
        self.tell("StopContainer", &named(id))
    }

    /// Removes container `id`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        self.tell("RemoveContainer", &named(id))
    }

    /// How container `id` is.
    ///
    /// # Errors
    /// When there is none.
    pub fn container_state(&self, id: &str) -> Result<ContainerState> {
        let answer: wire::ContainerStatusResponse = self.call("ContainerStatus", &named(id))?;
        let status = answer.status.context("no status")?;
        match status.state {
            wire::CONTAINER_CREATED => Ok(ContainerState::Created),
            wire::CONTAINER_RUNNING => Ok(ContainerState::Running),
            wire::CONTAINER_EXITED => Ok(ContainerState::Exited(status.exit_code)),
            state => anyhow::bail!("container {id} is in state {state}"),
        }
    }

    /// Runs `command` in container `id` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec_sync(&self, id: &str, command: &str) -> Result<Executed> {
        let question = wire::ExecSyncRequest {
            container_id: id.into(),
            cmd: words(command),
        };
        let answer: wire::ExecSyncResponse = self.call("ExecSync", &question)?;
        let errors = String::from_utf8_lossy(&answer.stderr);
        ensure!(errors.is_empty(), "{command}: {errors}");
        Ok(Executed {
            code: answer.exit_code,
            output: String::from_utf8_lossy(&answer.stdout).into_owned(),
        })
    }

    fn call<A: prost::Message + Default>(
        &self,
        method: &str,
        question: &impl prost::Message,
    ) -> Result<A> {
        let method = format!("/runtime.v1.RuntimeService/{method}");
        grpc::call(&self.socket, &method, question)
    }

    fn tell(&self, method: &str, question: &impl prost::Message) -> Result<()> {
        self.call::<wire::Nothing>(method, question).map(drop)
    }
}

fn named(id: &str) -> wire::Id {
    wire::Id { id: id.into() }
}

fn image() -> wire::ImageSpec {
    wire::ImageSpec {
        image: IMAGE.into(),
    }
}

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

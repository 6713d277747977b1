//! A container that serves this host for as long as it is wanted, such as a broker. No worker: nothing of init is in it, and no
//! sweep looks at it.

use super::{
    ConnectError, engine,
    error::{is_conflict, is_missing, words},
    image, socket_from_environment,
};
use bollard::{
    Docker,
    container::LogOutput,
    errors::Error,
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig, Mount, MountType, PortBinding},
    query_parameters::{
        CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder,
    },
};
use futures_util::StreamExt;
use std::{collections::HashMap, time::Duration};
use tokio::time::timeout;

/// How long a service may take to end by itself once it is asked to.
const STOP_SECS: u16 = 30;

/// How much of a service's log is told when it fails.
const LOG_LINES: &str = "10";

/// How long reading its log may take.
const LOG_MAX: Duration = Duration::from_secs(5);

/// Where services listen on this host.
const LOOPBACK: &str = "127.0.0.1";

/// What a service is made from.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// The container's name: there is one of it on a host.
    pub name: String,
    /// The image; pulled if it is not there.
    pub image: String,
    /// What the container takes itself for.
    pub hostname: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The volume that keeps its data, and where it is in the container. Stays when the container is removed.
    pub volume: (String, String),
    /// The port on which it listens. On this host it gets any that is free, on the loopback interface alone.
    pub port: u16,
}

/// Why there is no service. For people.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no engine.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The image is not to be had.
    #[error("the image `{image}` is not on this host, and pulling it failed: {why}")]
    Image {
        /// Which.
        image: String,
        /// Why.
        why: String,
    },
    /// The engine refused, or failed.
    #[error("the engine can't start {image}: {why}")]
    Engine {
        /// Which image.
        image: String,
        /// Why.
        why: String,
    },
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    docker: Docker,
    name: String,
    port: u16,
    was_running: bool,
}

impl Service {
    /// Starts it. One that runs already under this name, from the same image and with the same environment, is taken over.
    ///
    /// # Errors
    /// If it can't be started.
    pub async fn start(spec: &ServiceSpec) -> Result<Self, ServiceError> {
        let docker = engine(&socket_from_environment()?).await?;
        let failed = |error: Error| ServiceError::Engine { image: spec.image.clone(), why: words(&error) };
        match docker.inspect_container(&spec.name, None).await {
            Ok(found) if is_as_wanted(&found, spec) => {
                if let Some(port) = host_port(&found, spec) {
                    return Ok(Self { docker, name: spec.name.clone(), port, was_running: true });
                }
            }
            Ok(_) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        remove(&docker, &spec.name).await.map_err(failed)?;
        if let Err(error) = docker.inspect_image(&spec.image).await {
            if !is_missing(&error) {
                return Err(failed(error));
            }
            tracing::warn!(image = spec.image, "pulling an image, which may take a while");
            let pulled = image::pull(&docker, &spec.image).await;
            pulled.map_err(|error| ServiceError::Image { image: spec.image.clone(), why: words(&error) })?;
        }
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        docker.create_container(Some(options), body(spec)).await.map_err(failed)?;
        let started = async {
            docker.start_container(&spec.name, None).await?;
            docker.inspect_container(&spec.name, None).await
        };
        let port = match started.await {
            Ok(found) => {
                host_port(&found, spec).ok_or("it ended at once, or its port is not published".to_owned())
            }
            Err(error) => Err(words(&error)),
        };
        match port {
            Ok(port) => Ok(Self { docker, name: spec.name.clone(), port, was_running: false }),
            Err(why) => {
                // What it said is worth more than what the engine makes of it.
                let why = format!("{why}{}", log(&docker, &spec.name).await);
                let _ = remove(&docker, &spec.name).await;
                Err(ServiceError::Engine { image: spec.image.clone(), why })
            }
        }
    }

    /// Its port on the loopback interface of this host.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it ran before it was wanted here.
    #[must_use]
    pub const fn was_running(&self) -> bool {
        self.was_running
    }

    /// Why it does not run any more, with the end of its log; none if it does, or the engine can't tell.
    pub async fn ended(&self) -> Option<String> {
        let found = self.docker.inspect_container(&self.name, None).await.ok()?;
        let state = found.state?;
        if state.running == Some(true) {
            return None;
        }
        let code = state.exit_code.unwrap_or_default();
        Some(format!("it has ended with exit code {code}{}", log(&self.docker, &self.name).await))
    }

    /// Stops and removes it. Its volume stays.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn stop(self) -> Result<(), String> {
        let options = StopContainerOptionsBuilder::default().t(i32::from(STOP_SECS)).build();
        match self.docker.stop_container(&self.name, Some(options)).await {
            Err(error) if !is_missing(&error) => return Err(words(&error)),
            _ => {}
        }
        remove(&self.docker, &self.name).await.map_err(|error| words(&error))
    }
}

fn body(spec: &ServiceSpec) -> ContainerCreateBody {
    let (volume, place) = &spec.volume;
    let port = format!("{}/tcp", spec.port);
    let anywhere = PortBinding { host_ip: Some(LOOPBACK.to_owned()), host_port: Some(String::new()) };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: Some(spec.hostname.clone()),
        env: Some(spec.env.clone()),
        exposed_ports: Some(vec![port.clone()]),
        host_config: Some(HostConfig {
            mounts: Some(vec![Mount {
                typ: Some(MountType::VOLUME),
                source: Some(volume.clone()),
                target: Some(place.clone()),
                ..Mount::default()
            }]),
            port_bindings: Some(HashMap::from([(port, Some(vec![anywhere]))])),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn is_as_wanted(found: &ContainerInspectResponse, spec: &ServiceSpec) -> bool {
    let Some(config) = &found.config else { return false };
    let env = config.env.as_deref().unwrap_or_default();
    config.image.as_ref() == Some(&spec.image) && spec.env.iter().all(|wanted| env.contains(wanted))
}

/// Its port on this host, if it runs.
fn host_port(found: &ContainerInspectResponse, spec: &ServiceSpec) -> Option<u16> {
    if found.state.as_ref()?.running != Some(true) {
        return None;
    }
    let ports = found.network_settings.as_ref()?.ports.as_ref()?;
    let bindings = ports.get(&format!("{}/tcp", spec.port))?.as_ref()?;
    bindings.iter().find_map(|binding| binding.host_port.as_ref()?.parse().ok())
}

async fn remove(docker: &Docker, name: &str) -> Result<(), Error> {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    match docker.remove_container(name, Some(options)).await {
        Err(error) if !is_missing(&error) && !is_conflict(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The end of its log, on lines of its own.
async fn log(docker: &Docker, name: &str) -> String {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(LOG_LINES).build();
    let reading = async {
        let mut log = String::new();
        let mut lines = docker.logs(name, Some(options));
        while let Some(Ok(line)) = lines.next().await {
            if let LogOutput::StdOut { message } | LogOutput::StdErr { message } = line {
                log.push_str("\n  ");
                log.push_str(String::from_utf8_lossy(&message).trim_end());
            }
        }
        log
    };
    timeout(LOG_MAX, reading).await.unwrap_or_default()
}

//! A RabbitMQ for one machine: in a container of its engine, for as long as the coordinator of `up` runs.

use super::{BrokerArgs, Context};
use crate::{error::CliError, exit_code};
use piecework_agent::runtime::docker::service::{Service, ServiceSpec};
use piecework_server::broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The image, if none is named.
const IMAGE_DEFAULT: &str = "rabbitmq:4";

/// Who we are there.
const USER: &str = "piecework";

/// The file with its password, in the data directory.
const PASSWORD_FILE: &str = "rabbitmq-password";

/// Random bytes in a password.
const PASSWORD_BYTES: usize = 16;

/// Bytes of the digest in the container's name.
const DIGEST_BYTES: usize = 6;

/// How long it may take from its start until it answers.
const START_MAX: Duration = Duration::from_secs(120);

/// How often it is looked whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whether to start one.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RabbitMqArgs {
    /// Start a RabbitMQ in a container of this machine's Docker engine, let it carry the tasks to do, and stop it at the end.
    ///
    /// It listens on the loopback interface. What it keeps is in a Docker volume of its own, and is there at the next start.
    #[arg(long, conflicts_with_all = ["urls", "password_file", "authorities"])]
    rabbitmq: bool,
    /// The image for --rabbitmq.
    #[arg(
        long,
        env = "PIECEWORK_RABBITMQ_IMAGE",
        value_name = "IMAGE",
        default_value = IMAGE_DEFAULT,
        hide_env_values = true
    )]
    rabbitmq_image: String,
}

/// One that answers.
#[derive(Debug)]
pub(crate) struct RabbitMqContainer {
    service: Service,
    password_file: PathBuf,
}

impl RabbitMqContainer {
    /// Starts one and waits until it answers, if it is wanted. If the user interrupts that, it is gone again.
    pub(crate) async fn start(
        context: &Context,
        data: &Path,
        args: &RabbitMqArgs,
    ) -> Result<Option<Self>, CliError> {
        if !args.rabbitmq {
            return Ok(None);
        }
        let password_file = data.join(PASSWORD_FILE);
        let kept = password(data, &password_file);
        let password = kept.map_err(|error| CliError::file("keep", &password_file, &error))?;
        let name = name(data);
        let spec = ServiceSpec {
            name: name.clone(),
            image: args.rabbitmq_image.clone(),
            // The node is named after it, and finds its data by that.
            hostname: "piecework-rabbitmq".to_owned(),
            env: vec![format!("RABBITMQ_DEFAULT_USER={USER}"), format!("RABBITMQ_DEFAULT_PASS={password}")],
            volume: (name, "/var/lib/rabbitmq".to_owned()),
            port: 5672,
        };
        context.screen.status(&format!("starting RabbitMQ from {}", spec.image));
        let service = Service::start(&spec).await.map_err(|error| {
            CliError::new(exit_code::LOCAL_FAILURE, "RabbitMQ can't be started").cause(error)
        })?;
        let container = Self { service, password_file };
        let answers = tokio::select! {
            answers = container.wait() => answers,
            () = context.interrupts.at_least(1) => Err(CliError::quiet(exit_code::OK)),
        };
        match answers {
            Ok(()) => Ok(Some(container)),
            Err(error) => {
                container.give_up(context).await;
                Err(error)
            }
        }
    }

    /// Waits until it answers.
    async fn wait(&self) -> Result<(), CliError> {
        let failed = |why: String| {
            CliError::new(exit_code::LOCAL_FAILURE, "RabbitMQ has started, and does not answer").cause(why)
        };
        let config = RabbitMqConfig::new(&[self.url()])
            .and_then(|config| config.with_password_file(&self.password_file))
            .map_err(|error| failed(error.to_string()))?;
        let until = Instant::now() + START_MAX;
        loop {
            let Err(error) = RabbitMq::check(&config).await else { return Ok(()) };
            if let Some(why) = self.service.ended().await {
                return Err(failed(why));
            }
            if Instant::now() > until {
                return Err(failed(error.to_string()).hint(
                    "if its password was changed or lost: remove its container and its volume (`docker rm -f`, `docker volume rm`)",
                ));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Where it is, without the password.
    pub(crate) fn url(&self) -> String {
        format!("amqp://{USER}@127.0.0.1:{}", self.service.port())
    }

    /// The file with its password.
    pub(crate) fn password_file(&self) -> &Path {
        &self.password_file
    }

    /// How a coordinator uses it.
    pub(crate) fn broker(&self) -> BrokerArgs {
        BrokerArgs {
            urls: vec![self.url()],
            password_file: Some(self.password_file.clone()),
            ..BrokerArgs::default()
        }
    }

    /// Stops it, unless it ran before: then it is of use to somebody else.
    pub(crate) async fn give_up(self, context: &Context) {
        if !self.service.was_running() {
            self.stop(context).await;
        }
    }

    /// Stops it. What it keeps stays.
    pub(crate) async fn stop(self, context: &Context) {
        if let Err(why) = self.service.stop().await {
            context.screen.note(&format!("RabbitMQ's container is not stopped: {why}"));
        }
    }
}

/// The container's name: one for each data directory.
fn name(data: &Path) -> String {
    let place = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let digest = Sha256::digest(place.as_os_str().as_bytes());
    let mut name = "piecework-rabbitmq-".to_owned();
    for byte in digest.iter().take(DIGEST_BYTES) {
        // To a string, it does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Its password: the one in the file, or a new one that is kept there for its owner alone.
fn password(data: &Path, file: &Path) -> io::Result<String> {
    DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut new) => {
            let mut bytes = [0; PASSWORD_BYTES];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            let mut password = String::new();
            for byte in bytes {
                let _ = write!(password, "{byte:02x}");
            }
            writeln!(new, "{password}")?;
            new.sync_all()?;
            Ok(password)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(file)?;
            match text.lines().next() {
                Some(password) if !password.is_empty() => Ok(password.to_owned()),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is to be a password")),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_password_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (data, file) = (dir.path().join("data"), dir.path().join("data").join(PASSWORD_FILE));
        let first = password(&data, &file).unwrap();
        assert_eq!(first.len(), 2 * PASSWORD_BYTES);
        assert_eq!(password(&data, &file).unwrap(), first);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "\n").unwrap();
        assert!(password(&data, &file).is_err());
    }

    #[test]
    fn each_data_directory_has_a_container_of_its_own() {
        let names = [name(Path::new("/a")), name(Path::new("/b"))];
        assert!(names[0] != names[1] && names[0].starts_with("piecework-rabbitmq-"), "{names:?}");
    }
}

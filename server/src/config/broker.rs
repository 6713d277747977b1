//! The options that say which broker carries TODO.

use crate::broker::rabbitmq::{PREFIX_DEFAULT, RabbitMqConfig, RabbitMqConfigError, has_password};
use std::path::PathBuf;

/// Which broker carries the tasks to do; without `--broker` the coordinator does by itself.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct BrokerOptions {
    /// A RabbitMQ that carries the tasks to do: `amqp://USER@HOST:PORT/VHOST`, or `amqps://…` with TLS; may be given again for other
    /// nodes of its cluster, or several with commas between them.
    ///
    /// On a command line everybody on this machine can see a password: put it into a file, or the URL into PIECEWORK_BROKER.
    #[arg(
        long = "broker",
        env = "PIECEWORK_BROKER",
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub urls: Vec<String>,
    /// File whose first line is the password for the broker.
    #[arg(
        long = "broker-password-file",
        env = "PIECEWORK_BROKER_PASSWORD_FILE",
        value_name = "FILE",
        requires = "urls"
    )]
    pub password_file: Option<PathBuf>,
    /// Certificates of the authorities to trust for amqps (PEM), instead of the system's.
    #[arg(long = "broker-ca", env = "PIECEWORK_BROKER_CA", value_name = "FILE", requires = "urls")]
    pub authorities: Option<PathBuf>,
    /// What the names of all queues begin with, so that several installations can share a vhost; `piecework` if not given.
    #[arg(long = "broker-prefix", env = "PIECEWORK_BROKER_PREFIX", value_name = "PREFIX", requires = "urls")]
    pub prefix: Option<String>,
}

impl BrokerOptions {
    /// How RabbitMQ is reached, if it is to be used. `arguments` are those of this process, which others can see.
    ///
    /// # Errors
    /// If something of it can't be used, or a password is there for everybody to see.
    pub fn config(
        self,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Option<RabbitMqConfig>, RabbitMqConfigError> {
        if self.urls.is_empty() {
            return Ok(None);
        }
        let has_visible_password = |argument: String| {
            let urls = argument.strip_prefix("--broker=").unwrap_or(&argument);
            urls.split(',').any(has_password)
        };
        if arguments.into_iter().any(has_visible_password) {
            return Err(RabbitMqConfigError::VisiblePassword);
        }
        let mut config = RabbitMqConfig::new(&self.urls)?;
        config = config.with_prefix(self.prefix.as_deref().unwrap_or(PREFIX_DEFAULT))?;
        if let Some(file) = self.password_file {
            config = config.with_password_file(&file)?;
        }
        if let Some(file) = self.authorities {
            config = config.with_authorities(&file)?;
        }
        Ok(Some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, arguments: &[&str]) -> Result<bool, String> {
        let options = BrokerOptions { urls: vec![url.to_owned()], ..BrokerOptions::default() };
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        options.config(arguments).map(|config| config.is_some()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_password_for_everybody_to_see_is_refused() {
        assert_eq!(check("amqp://ann:s3cret@h", &["piecework-server"]), Ok(true));
        assert_eq!(check("amqp://ann@h", &["piecework-server", "--broker", "amqp://ann@h"]), Ok(true));
        for seen in ["amqp://ann:s3cret@h", "--broker=amqp://ann:s3cret@h", "amqp://a,amqps://ann:s3cret@h"] {
            let error = check("amqp://ann:s3cret@h", &["piecework-server", seen]).expect_err(seen);
            assert!(error.contains("PIECEWORK_BROKER") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn without_a_url_there_is_no_rabbitmq() {
        assert!(BrokerOptions::default().config([]).is_ok_and(|config| config.is_none()));
    }
}

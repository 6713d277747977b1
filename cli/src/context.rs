//! What every command works with: the global options, the screen, the connection and the user's interruptions.

use crate::{
    args::GlobalArgs,
    client::{Client, ClientError, Target},
    error::CliError,
    exit_code,
    output::{Format, Screen},
};
use etcetera::BaseStrategy;
use piecework_proto::{address::Address, token::Token};
use std::{env, fs, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The socket's name in the data directory.
const SOCKET_NAME: &str = "piecework.sock";

/// Where a token for a coordinator on TCP is, if no file with one is named.
const TOKEN_VARIABLE: &str = "PIECEWORK_TOKEN";

/// Who asks this often wants the end at once.
const HURRIED_TIMES: u32 = 2;

/// How long the end at once may take. A stderr that nobody reads, as of `2>&1 | less`, may hold up all else.
const HURRY_MAX: Duration = Duration::from_secs(2);

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    global: GlobalArgs,
    pub(crate) screen: Arc<Screen>,
    pub(crate) interrupts: Interrupts,
}

impl Context {
    pub(crate) fn new(global: GlobalArgs) -> Result<Self, CliError> {
        let interrupts = Interrupts::listen().map_err(|error| {
            CliError::new(exit_code::LOCAL_FAILURE, "can't listen for signals").cause(error)
        })?;
        let screen = Screen::new(global.output, global.quiet);
        Ok(Self { global, screen, interrupts })
    }

    /// Whether programs are to read the output.
    pub(crate) fn is_json(&self) -> bool {
        self.screen.format() == Format::Json
    }

    /// The coordinator that was asked for, if one was.
    pub(crate) const fn server(&self) -> Option<&Address> {
        self.global.server.as_ref()
    }

    /// The token to show to a coordinator on TCP, if there is one.
    fn token(&self) -> Result<Option<Token>, CliError> {
        let (text, place) = match &self.global.token_file {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| CliError::file("read", path, &error))?;
                (text, path.display().to_string())
            }
            None => match env::var(TOKEN_VARIABLE) {
                Ok(text) if !text.is_empty() => (text, TOKEN_VARIABLE.to_owned()),
                _ => return Ok(None),
            },
        };
        let token = text.parse().map_err(|error| {
            CliError::new(exit_code::BAD_INPUT, format!("there is no usable token in {place}")).cause(error)
        });
        token.map(Some)
    }

    /// The data directory.
    pub(crate) fn data(&self) -> Result<PathBuf, CliError> {
        let data = match &self.global.data {
            Some(data) => data.clone(),
            None => etcetera::choose_base_strategy()
                .map_err(|error| {
                    CliError::new(exit_code::BAD_INPUT, "there is no home directory to keep data in")
                        .cause(error)
                        .hint("name a data directory with `--data` or PIECEWORK_DATA")
                })?
                .data_dir()
                .join("piecework"),
        };
        std::path::absolute(&data).map_err(|error| CliError::file("use", &data, &error))
    }

    /// Whether the data directory was named.
    pub(crate) fn is_data_given(&self) -> bool {
        self.global.data.is_some()
    }

    /// Which coordinator is used.
    pub(crate) fn target(&self) -> Result<Target, CliError> {
        match self.server() {
            Some(address @ Address::Socket(_)) => Ok(address.clone().into()),
            Some(address) => Ok(Target { address: address.clone(), token: self.token()? }),
            None => Ok(Address::Socket(self.data()?.join(SOCKET_NAME)).into()),
        }
    }

    /// Connects to the coordinator.
    pub(crate) async fn connect(&self) -> Result<Client, CliError> {
        Ok(self.connect_to(self.target()?).await?)
    }

    /// Connects to this coordinator.
    pub(crate) async fn connect_to(&self, target: Target) -> Result<Client, ClientError> {
        let screen = Arc::clone(&self.screen);
        Client::connect(target, Arc::new(move |text| screen.note(text))).await
    }
}

/// How often the user has asked to stop, by Ctrl-C or SIGTERM.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    fn listen() -> io::Result<Self> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (count, receiver) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                count.send_modify(|count| *count += 1);
                if *count.borrow() == HURRIED_TIMES {
                    tokio::spawn(async {
                        tokio::time::sleep(HURRY_MAX).await;
                        std::process::exit(i32::from(exit_code::INTERRUPTED));
                    });
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Waits until the user has asked this often.
    pub(crate) async fn at_least(&self, times: u32) {
        if self.0.clone().wait_for(|count| *count >= times).await.is_err() {
            // The listener lives as long as the runtime.
            std::future::pending::<()>().await;
        }
    }
}

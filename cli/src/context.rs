//! What every command works with: the global options, the screen, the connection and the user's interruptions.

use crate::{
    args::GlobalArgs,
    client::{Client, ClientError},
    error::CliError,
    exit_code,
    output::{Format, Screen},
};
use etcetera::BaseStrategy;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The socket's name in the data directory.
const SOCKET_NAME: &str = "piecework.sock";

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

    /// The socket that was asked for, if one was.
    pub(crate) fn server(&self) -> Option<PathBuf> {
        let server = self.global.server.as_ref()?;
        let without_scheme = server.to_str().and_then(|path| path.strip_prefix("unix:")).map(|path| {
            // `unix:///run/x` and `unix:/run/x` are the same.
            PathBuf::from(path.strip_prefix("//").unwrap_or(path))
        });
        Some(without_scheme.unwrap_or_else(|| server.clone()))
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

    /// Where the coordinator listens.
    pub(crate) fn socket(&self) -> Result<PathBuf, CliError> {
        match self.server() {
            Some(server) => Ok(server),
            None => Ok(self.data()?.join(SOCKET_NAME)),
        }
    }

    /// Connects to the coordinator.
    pub(crate) async fn connect(&self) -> Result<Client, CliError> {
        Ok(self.connect_to(&self.socket()?).await?)
    }

    /// Connects to the coordinator that listens on a socket.
    pub(crate) async fn connect_to(&self, socket: &Path) -> Result<Client, ClientError> {
        let screen = Arc::clone(&self.screen);
        Client::connect(socket, Arc::new(move |text| screen.note(text))).await
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

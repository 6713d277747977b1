//! Stdout and stderr, shared by everything that writes: data to stdout, all else to stderr, and no line ever through the
//! middle of the progress bar.
//!
//! Who reads stdout may pause for as long as he likes, as `less` does. So stdout is written on threads that may block, and
//! while it is written nothing is held that stderr and the bar need. Only where stdout is the terminal does the bar wait.

use super::Format;
use crate::error::CliError;
use anstyle::{AnsiColor, Style};
use indicatif::ProgressBar;
use serde::Serialize;
use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const NOTE: Style = AnsiColor::Green.on_default().bold();

/// The longest line without an end that is held back from a terminal below which a bar is drawn.
const HELD_BACK_BYTES_MAX: usize = 64 << 10;

/// The two streams, and the bar that may be drawn on one of them.
#[derive(Debug)]
pub struct Screen {
    format: Format,
    quiet: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bar: Option<ProgressBar>,
    /// The beginning of a line for the terminal that also shows the bar: the bar would be drawn into it.
    held_back: Vec<u8>,
}

impl Screen {
    /// A screen without a bar. With `quiet`, notes and progress are left out.
    #[must_use]
    pub fn new(format: Format, quiet: bool) -> Arc<Self> {
        Arc::new(Self { format, quiet, state: Mutex::default() })
    }

    /// How output is written.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether notes and progress are left out.
    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a bar from now on, or none.
    pub fn set_bar(&self, bar: Option<ProgressBar>) {
        self.state().bar = bar;
    }

    /// Tells the user something on stderr.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(format!("{NOTE}note:{NOTE:#} {text}\n").as_bytes());
        }
    }

    /// Writes a line to stderr.
    pub fn status(&self, line: &str) {
        if !self.quiet {
            self.stderr(format!("{line}\n").as_bytes());
        }
    }

    fn stderr(&self, text: &[u8]) {
        // Nothing can be done about a stderr that can't be written.
        self.state().above_bar(|| drop(anstream::stderr().write_all(text)));
    }

    /// Writes a table or line for people to stdout, without blocking other tasks.
    ///
    /// # Errors
    /// If stdout can't be written.
    pub async fn print(self: &Arc<Self>, text: String) -> Result<(), CliError> {
        let write = move || {
            let mut stdout = anstream::stdout();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        };
        self.stdout(move |screen| screen.beside_bar(write)).await
    }

    /// Writes an object as one line to stdout, without blocking other tasks.
    ///
    /// # Errors
    /// If stdout can't be written.
    pub async fn json(self: &Arc<Self>, object: &impl Serialize) -> Result<(), CliError> {
        let mut line = serde_json::to_vec(object).map_err(|error| CliError::stdout(&error.into()))?;
        line.push(b'\n');
        self.stdout(move |screen| screen.beside_bar(|| write_stdout(&line))).await
    }

    /// Writes bytes to stdout as they are, without blocking other tasks.
    ///
    /// # Errors
    /// If stdout can't be written.
    pub async fn bytes(self: &Arc<Self>, bytes: bytes::Bytes) -> Result<(), CliError> {
        self.stdout(move |screen| {
            if io::stdout().is_terminal() { screen.state().data(&bytes) } else { write_stdout(&bytes) }
        })
        .await
    }

    async fn stdout(
        self: &Arc<Self>,
        write: impl FnOnce(&Self) -> io::Result<()> + Send + 'static,
    ) -> Result<(), CliError> {
        let screen = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || write(&screen)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| CliError::stdout(&error))
    }

    /// Writes to stdout; the bar makes room if it is on the same terminal.
    fn beside_bar(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if io::stdout().is_terminal() { self.state().above_bar(write) } else { write() }
    }

    /// Takes the bar away, and writes what was held back for its sake.
    ///
    /// # Errors
    /// If stdout can't be written.
    pub fn finish_bar(&self) -> Result<(), CliError> {
        let mut state = self.state();
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        let rest = std::mem::take(&mut state.held_back);
        if rest.is_empty() { Ok(()) } else { write_stdout(&rest).map_err(|error| CliError::stdout(&error)) }
    }
}

impl State {
    fn above_bar<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Writes to a stdout that is a terminal.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bar.is_none() {
            return write_stdout(bytes);
        }
        self.held_back.extend_from_slice(bytes);
        let whole = match self.held_back.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.held_back.len() > HELD_BACK_BYTES_MAX => self.held_back.len(),
            None => return Ok(()),
        };
        let lines: Vec<u8> = self.held_back.drain(..whole).collect();
        self.above_bar(|| write_stdout(&lines))
    }
}

fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Lets log lines pass the bar.
#[derive(Clone, Debug)]
pub struct LogWriter(pub Arc<Screen>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.stderr(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! The agent's memory on disk: endings that the coordinator has not settled, and their long output.
//!
//! An ending is one row, written with full synchronisation: what a commit returned for survives the host's power. Output
//! of at most 32 KiB is in the row; longer output is in a spool file, which is synchronised before its row is written
//! and removed after its row is.

mod spool;

pub use spool::{Spool, SpoolFile};

use crate::{
    domain::{AttemptKey, NotAnAttempt, Output, OutputStream, Report},
    wire::{WireError, report_from_proto, report_to_proto},
};
use piecework_proto::v1;
use prost::Message;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The layout of the database. Raised with each change of it.
const LAYOUT: i64 = 1;

/// Where the database is within the outbox's directory.
const DATABASE: &str = "outbox.sqlite";

/// Why the outbox can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// No space is left.
    #[error("the disk that holds the outbox is full")]
    Full,
    /// SQLite failed.
    #[error("SQLite failed: {0}")]
    Sqlite(rusqlite::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was made by another version.
    #[error("its layout is {found}, and this version knows {LAYOUT}")]
    Layout {
        /// The layout it has.
        found: i64,
    },
}

impl From<rusqlite::Error> for OutboxError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error),
        }
    }
}

impl OutboxError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::File { path, source },
        }
    }
}

/// What is wrong with a row.
#[derive(Debug, thiserror::Error)]
pub enum DamageKind {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] NotAnAttempt),
    /// It does not decode.
    #[error("it does not decode: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// It decodes to something that is no report.
    #[error(transparent)]
    NoReport(#[from] WireError),
    /// It is another attempt's.
    #[error("it holds the report of {0}")]
    Other(AttemptKey),
    /// Its spool file is not as long as it says.
    #[error("its {stream:?} has {got} bytes in the spool instead of {said}")]
    Spool {
        /// Which output.
        stream: OutputStream,
        /// How many there are.
        got: u64,
        /// How many it says.
        said: u64,
    },
}

/// A row that could not be read. It has been put aside, in the table `damaged`.
#[derive(Debug)]
pub struct Damaged {
    /// The attempt that it was stored for.
    pub attempt: String,
    /// What is wrong.
    pub why: DamageKind,
}

/// What was found when the outbox was opened.
#[derive(Debug)]
pub struct Opened {
    /// The outbox.
    pub outbox: Outbox,
    /// The endings in it, in the order of ending.
    pub reports: Vec<Report>,
    /// What could not be read.
    pub damaged: Vec<Damaged>,
}

/// The outbox. All calls block.
#[derive(Debug)]
pub struct Outbox {
    database: Mutex<Connection>,
    spool: Spool,
}

impl Outbox {
    /// Opens the outbox in this directory, and makes it if it is missing.
    ///
    /// # Errors
    /// If it can't be used at all. A row that can't be read is no error, but put aside and told.
    pub fn open(dir: &Path) -> Result<Opened, OutboxError> {
        let spool = Spool::open(&dir.join("spool"))?;
        let mut database = Connection::open(dir.join(DATABASE))?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "FULL")?;
        lay_out(&mut database)?;
        let (reports, damaged) = load(&mut database, &spool)?;
        Ok(Opened { outbox: Self { database: Mutex::new(database), spool }, reports, damaged })
    }

    /// Where long output is.
    #[must_use]
    pub const fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Adds or replaces, and removes endings in one transaction, durable when it returns. Then removes the spool files that no ending
    /// needs any longer. Safe to repeat.
    ///
    /// # Errors
    /// If nothing of it was committed, or that can't be known.
    pub fn commit(&self, persist: &[Report], forget: &[AttemptKey]) -> Result<(), OutboxError> {
        if persist.is_empty() && forget.is_empty() {
            return Ok(());
        }
        let mut database = self.database();
        let transaction = database.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO report (attempt, body) VALUES (?1, ?2)
                 ON CONFLICT (attempt) DO UPDATE SET body = excluded.body",
            )?;
            for report in persist {
                let body = report_to_proto(report).encode_to_vec();
                insert.execute(params![report.attempt.to_string(), body])?;
            }
            let mut delete = transaction.prepare_cached("DELETE FROM report WHERE attempt = ?1")?;
            for attempt in forget {
                delete.execute(params![attempt.to_string()])?;
            }
        }
        transaction.commit()?;
        drop(database);
        for report in persist {
            for (stream, output) in outputs(report) {
                if !output.is_spooled() {
                    self.spool.remove(report.attempt, stream);
                }
            }
        }
        for attempt in forget {
            self.spool.remove(*attempt, OutputStream::Stdout);
            self.spool.remove(*attempt, OutputStream::Stderr);
        }
        Ok(())
    }

    /// What is stored of an attempt's ending.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn contains(&self, attempt: AttemptKey) -> Result<bool, OutboxError> {
        let query = "SELECT 1 FROM report WHERE attempt = ?1";
        let row = self.database().query_row(query, params![attempt.to_string()], |_| Ok(())).optional()?;
        Ok(row.is_some())
    }

    /// Removes spool files that belong neither to these reports, which are all that the outbox has, nor to an attempt in
    /// `live`. Returns how many.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub fn remove_orphans(&self, reports: &[Report], live: &[AttemptKey]) -> Result<usize, OutboxError> {
        let mut wanted = BTreeSet::new();
        for attempt in live {
            wanted.insert(self.spool.path(*attempt, OutputStream::Stdout));
            wanted.insert(self.spool.path(*attempt, OutputStream::Stderr));
        }
        for report in reports {
            for (stream, output) in outputs(report) {
                if output.is_spooled() {
                    wanted.insert(self.spool.path(report.attempt, stream));
                }
            }
        }
        self.spool.remove_all_but(&wanted)
    }

    /// A panic while the lock was held leaves a transaction that rolls back by itself.
    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lay_out(database: &mut Connection) -> Result<(), OutboxError> {
    let transaction = database.transaction()?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found {
        LAYOUT => {}
        0 => {
            transaction.execute_batch(
                "CREATE TABLE report (
                     ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
                     attempt TEXT NOT NULL UNIQUE,
                     body BLOB NOT NULL
                 ) STRICT;
                 CREATE TABLE damaged (attempt TEXT NOT NULL, body BLOB NOT NULL, why TEXT NOT NULL) STRICT;",
            )?;
            transaction.pragma_update(None, "user_version", LAYOUT)?;
        }
        found => return Err(OutboxError::Layout { found }),
    }
    transaction.commit()?;
    Ok(())
}

fn load(database: &mut Connection, spool: &Spool) -> Result<(Vec<Report>, Vec<Damaged>), OutboxError> {
    let transaction = database.transaction()?;
    let (mut reports, mut damaged) = (Vec::new(), Vec::new());
    {
        let mut query = transaction.prepare("SELECT ordinal, attempt, body FROM report ORDER BY ordinal")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (ordinal, attempt, body): (i64, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            match parse(&attempt, &body, spool)? {
                Ok(report) => reports.push(report),
                Err(why) => {
                    transaction.execute(
                        "INSERT INTO damaged (attempt, body, why) VALUES (?1, ?2, ?3)",
                        params![attempt, body, why.to_string()],
                    )?;
                    transaction.execute("DELETE FROM report WHERE ordinal = ?1", params![ordinal])?;
                    damaged.push(Damaged { attempt, why });
                }
            }
        }
    }
    transaction.commit()?;
    Ok((reports, damaged))
}

fn parse(name: &str, body: &[u8], spool: &Spool) -> Result<Result<Report, DamageKind>, OutboxError> {
    let report = match decode(name, body) {
        Ok(report) => report,
        Err(why) => return Ok(Err(why)),
    };
    for (stream, output) in outputs(&report) {
        if let Output::Spooled { length, .. } = output {
            let got = spool.length(report.attempt, stream)?;
            if got != *length {
                return Ok(Err(DamageKind::Spool { stream, got, said: *length }));
            }
        }
    }
    Ok(Ok(report))
}

const fn outputs(report: &Report) -> [(OutputStream, &Output); 2] {
    [(OutputStream::Stdout, &report.stdout), (OutputStream::Stderr, &report.stderr)]
}

fn decode(name: &str, body: &[u8]) -> Result<Report, DamageKind> {
    let attempt: AttemptKey = name.parse()?;
    let report = report_from_proto(v1::Report::decode(body)?)?;
    if report.attempt == attempt { Ok(report) } else { Err(DamageKind::Other(report.attempt)) }
}

#[cfg(test)]
mod tests;

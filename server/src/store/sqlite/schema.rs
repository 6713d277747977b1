//! The tables, as numbered migrations: `PRAGMA user_version` says how many were applied.

use crate::store::StoreError;
use rusqlite::{Connection, TransactionBehavior};

/// Each entry takes a database from the version of its place to the next. Never change one that was released: add one.
const MIGRATIONS: &[&str] = &[INITIAL, REFUSALS, FLEET, OPEN_PROJECTS, FEED];

/// - `projects.state` 0 is a submission that is not complete; readers never see it. Numbers are never reused, because
///   bulk bytes are keyed by them.
/// - `progress` stands apart from `projects` so that a record does not rewrite the project's document.
/// - `tasks` has a row only for a task that was claimed; `tasks_open` holds those that have not ended, and stays small.
/// - `attempts.seq` is the order of recording, and never reused. The blobs come last, so that rows can be listed without
///   reading them.
const INITIAL: &str = "
CREATE TABLE meta (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO meta (one, epoch) VALUES (1, 0);

CREATE TABLE projects (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    state          INTEGER NOT NULL,
    submission_key TEXT UNIQUE,
    name           TEXT NOT NULL DEFAULT '',
    generation     INTEGER NOT NULL DEFAULT 1,
    tasks          INTEGER NOT NULL DEFAULT 0,
    created_millis INTEGER NOT NULL,
    ended_millis   INTEGER,
    message        TEXT NOT NULL DEFAULT '',
    spec           TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX projects_by_name ON projects (name, id) WHERE state > 0;
CREATE INDEX projects_active ON projects (id) WHERE state BETWEEN 0 AND 3;

CREATE TABLE progress (
    project   INTEGER PRIMARY KEY,
    succeeded INTEGER NOT NULL DEFAULT 0,
    failed    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE items (
    project  INTEGER NOT NULL,
    idx      INTEGER NOT NULL,
    text     TEXT NOT NULL,
    args     TEXT,
    resource TEXT,
    PRIMARY KEY (project, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    project  INTEGER NOT NULL,
    phase    INTEGER NOT NULL,
    idx      INTEGER NOT NULL,
    state    INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    agent    INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    crashes  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (project, phase, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_open ON tasks (project, state, phase, idx) WHERE state <= 1;

CREATE TABLE attempts (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    project       INTEGER NOT NULL,
    phase         INTEGER NOT NULL,
    idx           INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    agent         INTEGER NOT NULL,
    outcome       INTEGER NOT NULL,
    code          INTEGER NOT NULL,
    recorded      INTEGER NOT NULL,
    wall_micros   INTEGER NOT NULL,
    user_micros   INTEGER NOT NULL,
    system_micros INTEGER NOT NULL,
    peak_bytes    INTEGER NOT NULL,
    ended_millis  INTEGER NOT NULL,
    stdout_length INTEGER NOT NULL,
    stderr_length INTEGER NOT NULL,
    message       TEXT NOT NULL,
    stdout_sha256 BLOB,
    stderr_sha256 BLOB,
    stdout        BLOB,
    stderr        BLOB,
    UNIQUE (project, phase, idx, attempt)
) STRICT;
CREATE INDEX attempts_by_project ON attempts (project, seq);

CREATE TABLE agents (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    identity TEXT NOT NULL,
    instance TEXT NOT NULL,
    epoch    INTEGER NOT NULL
) STRICT;

CREATE TABLE results (
    project    INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    length     INTEGER NOT NULL,
    sha256     BLOB,
    bytes      BLOB,
    PRIMARY KEY (project, generation)
) STRICT;
";

/// What the kernel refused to attempts. A table of its own, with a row only where there is something to tell: as new columns
/// of `attempts` they would stand behind the blobs.
const REFUSALS: &str = "
CREATE TABLE refusals (
    project      INTEGER NOT NULL,
    phase        INTEGER NOT NULL,
    idx          INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    oom_kills    INTEGER NOT NULL,
    pids_refused INTEGER NOT NULL,
    PRIMARY KEY (project, phase, idx, attempt)
) STRICT, WITHOUT ROWID;
";

/// Agents that enrol. Names are unique among those that were not removed; numbers are never reused, as attempts name them.
///
/// - `tokens.kind` 1 is for joining, with a pattern of names in `name`; 2 is a client's.
/// - `certificates.standing` is 0 fresh, 1 current, 2 superseded; `token` says how its agent came to the first one.
const FLEET: &str = "
CREATE TABLE agents_new (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL,
    identity       TEXT NOT NULL,
    instance       TEXT NOT NULL,
    epoch          INTEGER NOT NULL,
    labels         TEXT NOT NULL DEFAULT '{}',
    draining       INTEGER NOT NULL DEFAULT 0,
    removed_millis INTEGER
) STRICT;
INSERT INTO agents_new (id, name, identity, instance, epoch) SELECT id, name, identity, instance, epoch FROM agents;
DROP TABLE agents;
ALTER TABLE agents_new RENAME TO agents;
CREATE UNIQUE INDEX agents_by_name ON agents (name) WHERE removed_millis IS NULL;

CREATE TABLE tokens (
    id             BLOB PRIMARY KEY,
    kind           INTEGER NOT NULL,
    name           TEXT NOT NULL,
    secret_sha256  BLOB NOT NULL,
    labels         TEXT NOT NULL DEFAULT '{}',
    uses_left      INTEGER NOT NULL DEFAULT 0,
    created_millis INTEGER NOT NULL,
    expires_millis INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE certificates (
    sha256         BLOB PRIMARY KEY,
    agent          INTEGER NOT NULL,
    key_sha256     BLOB NOT NULL,
    token          BLOB,
    standing       INTEGER NOT NULL,
    expires_millis INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX certificates_by_agent ON certificates (agent);
";

/// Projects to which tasks can be added.
///
/// - `open_projects` has a row as long as that is so. Its `tasks` count, not those of `projects`: adding some does not rewrite
///   the project's document. Items from there to `next` are staged, and no tasks yet.
/// - `client_keys` names the tasks that were added, and stays as long as the project does.
const OPEN_PROJECTS: &str = "
CREATE TABLE open_projects (
    project INTEGER PRIMARY KEY,
    tasks   INTEGER NOT NULL DEFAULT 0,
    next    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE client_keys (
    project INTEGER NOT NULL,
    key     TEXT NOT NULL,
    idx     INTEGER NOT NULL,
    PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;
";

/// DONE.
///
/// - `feed` has a row once results are published: up to which number in `attempts` and in `ends` they were.
/// - `ends` has a row for each project that has ended since this version, in that order: it comes after the attempts up to `after_seq`.
const FEED: &str = "
CREATE TABLE feed (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    result INTEGER NOT NULL,
    ended  INTEGER NOT NULL
) STRICT;

CREATE TABLE ends (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    project   INTEGER NOT NULL,
    after_seq INTEGER NOT NULL
) STRICT;

CREATE INDEX client_keys_by_index ON client_keys (project, idx);
";

/// Brings the store to the version that this program knows.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    bring_up(connection, MIGRATIONS)
}

/// Brings a database to the version that is behind the last of these migrations, all or nothing.
pub(crate) fn bring_up(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let known = migrations.len() as u32;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    if found < known {
        for migration in migrations.iter().skip(found as usize) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", known)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_version_is_brought_up_with_its_rows() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(INITIAL).unwrap();
        connection
            .execute_batch(
                "PRAGMA user_version = 1; UPDATE meta SET epoch = 7;
                 INSERT INTO agents VALUES (5, 'build-1', 'i', 'p', 3)",
            )
            .unwrap();
        migrate(&mut connection).unwrap();
        let row = "SELECT m.epoch, (SELECT count(*) FROM refusals) + (SELECT count(*) FROM open_projects), a.id, a.epoch
                   FROM meta m, agents a";
        let read = |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
        let found: [u32; 4] = connection.query_row(row, [], read).unwrap();
        assert_eq!(found, [7, 0, 5, 3]);
    }

    #[test]
    fn a_second_run_changes_nothing_and_a_newer_version_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection.execute("UPDATE meta SET epoch = 7", []).unwrap();
        migrate(&mut connection).unwrap();
        let epoch: u32 = connection.query_row("SELECT epoch FROM meta", [], |row| row.get(0)).unwrap();
        assert_eq!(epoch, 7);

        let newer = MIGRATIONS.len() as u32 + 1;
        connection.pragma_update(None, "user_version", newer).unwrap();
        let refused = migrate(&mut connection).unwrap_err();
        assert!(
            matches!(refused, StoreError::Newer { found, known } if found == newer && known == newer - 1)
        );
    }
}

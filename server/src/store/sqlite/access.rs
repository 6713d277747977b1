//! Tokens and certificates in SQLite.

use super::{
    SqliteStore,
    encoding::{damaged, integer, labels_column, read_labels, read_unsigned},
    reads::Reads,
    snapshot::read_agent,
    writer::Writer,
};
use crate::{
    domain::{
        AgentId, Certificate, Certified, ENROLLED, EnrolRefusal, Enrolment, Grant, Sha256, Standing, Token,
        TokenId,
    },
    store::{Access, KnownAgent, StoreError, TOKENS_MAX},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use wildmatch::WildMatch;

const JOIN: i64 = 1;
const CLIENT: i64 = 2;

const FRESH: i64 = 0;
const CURRENT: i64 = 1;
const SUPERSEDED: i64 = 2;

/// The columns of a token, as [`read_token`] reads them.
macro_rules! tokens {
    ($rest:literal) => {
        concat!("SELECT id, kind, name, labels, uses_left, created_millis, expires_millis, secret_sha256 FROM tokens ", $rest)
    };
}

#[async_trait]
impl Access for SqliteStore {
    async fn add_token(&self, token: Token, secret: Sha256) -> Result<bool, StoreError> {
        self.write(move |writer| writer.add_token(&token, secret)).await
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.read(|reads| reads.tokens()).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<(Token, Sha256)>, StoreError> {
        self.read(move |reads| reads.token(id)).await
    }

    async fn remove_token(&self, id: TokenId) -> Result<bool, StoreError> {
        self.write(move |writer| writer.remove_token(id)).await
    }

    async fn enrol(&self, enrolment: Enrolment) -> Result<Result<KnownAgent, EnrolRefusal>, StoreError> {
        self.write(move |writer| writer.enrol(&enrolment)).await
    }

    async fn add_certificate(&self, agent: AgentId, certificate: Certificate) -> Result<(), StoreError> {
        self.write(move |writer| writer.add_certificate(agent, &certificate)).await
    }

    async fn certified(&self, sha256: Sha256) -> Result<Option<Certified>, StoreError> {
        self.read(move |reads| reads.certified(sha256)).await
    }

    async fn use_certificate(&self, sha256: Sha256) -> Result<(), StoreError> {
        self.write(move |writer| writer.use_certificate(sha256)).await
    }
}

impl Writer {
    fn add_token(&mut self, token: &Token, secret: Sha256) -> Result<bool, StoreError> {
        let (kind, name, labels, uses_left) = match &token.grant {
            Grant::Join { names, labels, uses_left } => (JOIN, names, labels_column(labels)?, *uses_left),
            Grant::Client { name } => (CLIENT, name, "{}".to_owned(), 0),
        };
        self.transaction(|connection| {
            connection.execute("DELETE FROM tokens WHERE expires_millis <= ?1", [token.created_millis])?;
            let count: u32 = connection.query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?;
            if count >= TOKENS_MAX {
                return Ok(false);
            }
            connection.execute(
                "INSERT INTO tokens (id, kind, name, labels, uses_left, created_millis, expires_millis, secret_sha256)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    token.id.0,
                    kind,
                    name,
                    labels,
                    uses_left,
                    token.created_millis,
                    token.expires_millis,
                    secret
                ],
            )?;
            Ok(true)
        })
    }

    fn remove_token(&mut self, id: TokenId) -> Result<bool, StoreError> {
        self.transaction(|connection| Ok(connection.execute("DELETE FROM tokens WHERE id = ?1", [id.0])? > 0))
    }

    fn enrol(&mut self, enrolment: &Enrolment) -> Result<Result<KnownAgent, EnrolRefusal>, StoreError> {
        self.transaction(|connection| enrol(connection, enrolment))
    }

    fn add_certificate(&mut self, agent: AgentId, certificate: &Certificate) -> Result<(), StoreError> {
        self.transaction(|connection| add_certificate(connection, agent, certificate, None))
    }

    fn use_certificate(&mut self, sha256: Sha256) -> Result<(), StoreError> {
        self.transaction(|connection| {
            let used = connection.execute(
                "UPDATE certificates SET standing = ?2 WHERE sha256 = ?1 AND standing = ?3",
                params![sha256, CURRENT, FRESH],
            )?;
            if used == 1 {
                // Of those that are superseded, the last one is kept, to know a copy of it by.
                connection.execute(
                    "DELETE FROM certificates WHERE standing = ?2 AND sha256 <> ?1
                         AND agent = (SELECT agent FROM certificates WHERE sha256 = ?1)",
                    params![sha256, SUPERSEDED],
                )?;
                connection.execute(
                    "UPDATE certificates SET standing = ?2 WHERE standing = ?3 AND sha256 <> ?1
                         AND agent = (SELECT agent FROM certificates WHERE sha256 = ?1)",
                    params![sha256, SUPERSEDED, CURRENT],
                )?;
            }
            Ok(())
        })
    }
}

/// One that was never used may be in the agent's hands, if only the answer was lost: this one replaces it.
fn add_certificate(
    connection: &Connection,
    agent: AgentId,
    certificate: &Certificate,
    token: Option<TokenId>,
) -> Result<(), StoreError> {
    let Certificate { sha256, key, expires_millis } = certificate;
    connection.execute(
        "DELETE FROM certificates WHERE agent = ?1 AND standing = ?2",
        params![integer(agent.0), FRESH],
    )?;
    connection.execute(
        "INSERT INTO certificates (sha256, agent, key_sha256, token, standing, expires_millis)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![sha256, integer(agent.0), key, token.map(|token| token.0), FRESH, expires_millis],
    )?;
    Ok(())
}

/// All of it in one transaction, so that a token is never used more often than it may be.
fn enrol(
    connection: &Connection,
    enrolment: &Enrolment,
) -> Result<Result<KnownAgent, EnrolRefusal>, StoreError> {
    let Enrolment { token, secret, name, certificate, now_millis } = enrolment;
    let Some((found, known_secret)) = Reads::on(connection).token(*token)? else {
        return Ok(Err(EnrolRefusal::Unknown));
    };
    let Grant::Join { names, labels, uses_left } = found.grant else {
        return Ok(Err(EnrolRefusal::Unknown));
    };
    // Digests of 160 random bits: how long the comparison takes says nothing of use.
    if known_secret != *secret {
        return Ok(Err(EnrolRefusal::Unknown));
    }
    let again: Option<i64> = connection
        .query_row(
            "SELECT a.id FROM certificates c JOIN agents a ON a.id = c.agent
             WHERE c.token = ?1 AND c.key_sha256 = ?2 AND a.name = ?3 AND a.removed_millis IS NULL",
            params![token.0, certificate.key, name],
            |row| row.get(0),
        )
        .optional()?;
    let agent = match again {
        Some(agent) => agent,
        None => {
            if found.expires_millis.is_some_and(|expires| expires <= *now_millis) {
                return Ok(Err(EnrolRefusal::Expired));
            }
            if uses_left == 0 {
                return Ok(Err(EnrolRefusal::UsedUp));
            }
            if !WildMatch::new(&names).matches(name) {
                return Ok(Err(EnrolRefusal::Name));
            }
            let named: Option<(i64, bool)> = connection
                .query_row(
                    "SELECT id, EXISTS (SELECT 1 FROM certificates c WHERE c.agent = a.id AND c.key_sha256 = ?2)
                     FROM agents a WHERE name = ?1 AND removed_millis IS NULL",
                    params![name, certificate.key],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let agent = match named {
                Some((_, false)) => return Ok(Err(EnrolRefusal::NameTaken)),
                // It has the agent's key: its certificate has ended.
                Some((agent, true)) => {
                    connection.execute(
                        "UPDATE agents SET labels = json_patch(labels, ?2) WHERE id = ?1",
                        params![agent, labels_column(&labels)?],
                    )?;
                    agent
                }
                None => {
                    connection.execute(
                        "INSERT INTO agents (name, identity, instance, epoch, labels) VALUES (?1, ?2, '', 0, ?3)",
                        params![name, ENROLLED, labels_column(&labels)?],
                    )?;
                    connection.last_insert_rowid()
                }
            };
            connection.execute("UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ?1", [token.0])?;
            agent
        }
    };
    add_certificate(connection, AgentId(agent.unsigned_abs()), certificate, Some(*token))?;
    connection
        .query_row(
            "SELECT id, name, epoch, identity, instance, labels, draining FROM agents WHERE id = ?1",
            [agent],
            |row| Ok(read_agent(row)),
        )?
        .map(Ok)
}

impl Reads<'_> {
    fn tokens(self) -> Result<Vec<Token>, StoreError> {
        self.all(tokens!("ORDER BY created_millis, id"), [], |row| Ok(read_token(row)?.0))
    }

    fn token(self, id: TokenId) -> Result<Option<(Token, Sha256)>, StoreError> {
        self.first(tokens!("WHERE id = ?1"), [id.0], read_token)
    }

    fn certified(self, sha256: Sha256) -> Result<Option<Certified>, StoreError> {
        self.first(
            "SELECT a.id, a.name, a.labels, a.draining, a.removed_millis IS NOT NULL, c.standing
             FROM certificates c JOIN agents a ON a.id = c.agent WHERE c.sha256 = ?1",
            [sha256],
            |row| {
                let removed: bool = row.get(4)?;
                Ok(Certified {
                    agent: AgentId(read_unsigned(row, 0)?),
                    name: row.get(1)?,
                    labels: read_labels(row, 2)?,
                    draining: row.get(3)?,
                    standing: match row.get::<_, i64>(5)? {
                        _ if removed => Standing::Revoked,
                        FRESH => Standing::Fresh,
                        CURRENT => Standing::Current,
                        SUPERSEDED => Standing::Superseded,
                        other => return Err(damaged(format!("unknown standing {other} of a certificate"))),
                    },
                })
            },
        )
    }
}

fn read_token(row: &Row<'_>) -> Result<(Token, Sha256), StoreError> {
    let grant = match row.get::<_, i64>(1)? {
        JOIN => Grant::Join { names: row.get(2)?, labels: read_labels(row, 3)?, uses_left: row.get(4)? },
        CLIENT => Grant::Client { name: row.get(2)? },
        other => return Err(damaged(format!("unknown kind {other} of a token"))),
    };
    let token =
        Token { id: TokenId(row.get(0)?), grant, created_millis: row.get(5)?, expires_millis: row.get(6)? };
    Ok((token, row.get(7)?))
}

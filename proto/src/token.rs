//! Tokens: a secret that the coordinator has made, together with what its holder needs to know the coordinator by.
//!
//! `pwjoin1-c<pin>-<id>-<secret>`: the kind and version of the token; how the coordinator is known ([`Pin`]); which token it
//! is; and 160 bits that the coordinator keeps only a digest of. All in RFC 4648 base 32, in lower case.

use crate::trust::{NameCheck, PIN_BYTES, Pin};
use data_encoding::{Encoding, Specification};
use std::{fmt, str::FromStr, sync::LazyLock};

/// The length of a token's id, in bytes.
pub const TOKEN_ID_BYTES: usize = 5;

/// The length of a token's secret, in bytes.
pub const TOKEN_SECRET_BYTES: usize = 20;

/// The longest text that is looked at, in bytes.
const TOKEN_TEXT_BYTES_MAX: usize = 200;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An agent enrols with it.
    Join,
    /// A client shows it with each call.
    Client,
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    /// How its holder knows the coordinator.
    pub pin: Pin,
    /// Which one it is. No secret.
    pub id: [u8; TOKEN_ID_BYTES],
    /// What proves that its holder was given it.
    pub secret: [u8; TOKEN_SECRET_BYTES],
}

/// A text is no token. Says nothing of the text, as it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("this is no token: a token for joining begins with pwjoin1-, one for clients with pwclient1-")]
    Kind,
    /// It begins like one, and does not go on so.
    #[error("this token is damaged: copy it again, in one piece")]
    Damaged,
}

impl TokenKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Join => "pwjoin1",
            Self::Client => "pwclient1",
        }
    }
}

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    match specification.encoding() {
        Ok(encoding) => encoding,
        Err(_) => unreachable!("32 different symbols make an encoding"),
    }
});

/// The id of a token as people see it.
#[must_use]
pub fn token_id_text(id: [u8; TOKEN_ID_BYTES]) -> String {
    BASE32.encode(&id)
}

/// Reads what [`token_id_text`] wrote.
#[must_use]
pub fn token_id(text: &str) -> Option<[u8; TOKEN_ID_BYTES]> {
    bytes(text).ok()
}

fn bytes<const LENGTH: usize>(text: &str) -> Result<[u8; LENGTH], TokenError> {
    let bytes = BASE32.decode(text.as_bytes()).map_err(|_| TokenError::Damaged)?;
    bytes.try_into().map_err(|_| TokenError::Damaged)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = match self.pin.name {
            NameCheck::Coordinator => 'c',
            NameCheck::Host => 'h',
        };
        write!(
            f,
            "{}-{check}{}-{}-{}",
            self.kind.prefix(),
            BASE32.encode(&self.pin.sha256),
            BASE32.encode(&self.id),
            BASE32.encode(&self.secret)
        )
    }
}

/// Without the secret, so that no log has it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?}, {})", self.kind, token_id_text(self.id))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(TokenError::Kind);
        }
        let (prefix, rest) = text.split_once('-').ok_or(TokenError::Kind)?;
        let kinds = [TokenKind::Join, TokenKind::Client];
        let kind = kinds.into_iter().find(|kind| kind.prefix() == prefix).ok_or(TokenError::Kind)?;
        let parts: Vec<_> = rest.split('-').collect();
        let [pin, id, secret] = parts[..] else { return Err(TokenError::Damaged) };
        let name = match pin.as_bytes().first() {
            Some(b'c') => NameCheck::Coordinator,
            Some(b'h') => NameCheck::Host,
            _ => return Err(TokenError::Damaged),
        };
        let pin = Pin { name, sha256: bytes::<PIN_BYTES>(&pin[1..])? };
        Ok(Self { kind, pin, id: bytes(id)?, secret: bytes(secret)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            kind: TokenKind::Join,
            pin: Pin { name: NameCheck::Host, sha256: [7; PIN_BYTES] },
            id: [1, 2, 3, 4, 5],
            secret: [9; TOKEN_SECRET_BYTES],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for kind in [TokenKind::Join, TokenKind::Client] {
            let token = Token { kind, ..token() };
            assert_eq!(format!(" {token}\n").parse(), Ok(token));
        }
    }

    #[test]
    fn what_is_no_token_is_told_without_repeating_it() {
        let text = token().to_string();
        assert_eq!("secret".parse::<Token>(), Err(TokenError::Kind));
        assert_eq!("ghp-secret".parse::<Token>(), Err(TokenError::Kind));
        for length in 8..text.len() {
            assert_eq!(text[..length].parse::<Token>(), Err(TokenError::Damaged), "{length}");
        }
        assert_eq!(text.replace("-h", "-ü").parse::<Token>(), Err(TokenError::Damaged));
        assert_eq!(format!("{text}-x").parse::<Token>(), Err(TokenError::Damaged));
    }

    #[test]
    fn no_log_has_the_secret() {
        assert_eq!(format!("{:?}", token()), "Token(Join, aebagbaf)");
    }
}

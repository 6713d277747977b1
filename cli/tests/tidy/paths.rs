//! Every path that a file names, in `use` trees and in expressions, resolved to where it leads.

use crate::lexer::Token;

/// A path such as `crate::store::Write` or `std::time::Instant`; a glob ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    /// From `crate`, or from the name of another crate.
    pub(crate) segments: Vec<String>,
    /// Where it stands, from 1.
    pub(crate) line: usize,
}

impl NamedPath {
    /// Whether it is this path or leads further into it.
    pub(crate) fn is_in(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
    }
}

/// The paths in a file's tokens. `module` is where the file stands in its crate: `["store", "sqlite"]`.
pub(crate) fn paths(tokens: &[Token], module: &[&str]) -> Vec<NamedPath> {
    let module = module.iter().map(|segment| (*segment).to_owned()).collect();
    Reader { tokens, at: 0, module, blocks: Vec::new(), found: Vec::new() }.run()
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Where we are in the crate, inline modules included.
    module: Vec<String>,
    /// For each open brace, whether it opened an inline module.
    blocks: Vec<bool>,
    found: Vec<NamedPath>,
}

impl Reader<'_> {
    fn run(mut self) -> Vec<NamedPath> {
        while let Some(token) = self.tokens.get(self.at) {
            match token.text.as_str() {
                "use" if !self.is(1, "<") => {
                    self.at += 1;
                    self.skip("::");
                    self.use_tree(&[]);
                }
                "mod" if self.is(2, "{") => {
                    self.module.push(self.tokens[self.at + 1].text.clone());
                    self.blocks.push(true);
                    self.at += 3;
                }
                "{" => {
                    self.blocks.push(false);
                    self.at += 1;
                }
                "}" => {
                    if self.blocks.pop() == Some(true) {
                        self.module.pop();
                    }
                    self.at += 1;
                }
                _ if token.is_word() => self.expression_path(),
                _ => self.at += 1,
            }
        }
        self.found
    }

    fn is(&self, ahead: usize, text: &str) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|token| token.is(text))
    }

    fn skip(&mut self, text: &str) -> bool {
        let there = self.is(0, text);
        self.at += usize::from(there);
        there
    }

    /// One branch of a `use`, down to its leaves.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        while let Some(token) = self.tokens.get(self.at) {
            let line = token.line;
            if self.skip("{") {
                while self.at < self.tokens.len() && !self.skip("}") {
                    self.use_tree(&segments);
                    self.skip(",");
                }
                return;
            }
            if token.is_word() || token.is("*") {
                // `use a::{self}` names `a`.
                if prefix.is_empty() || !token.is("self") {
                    segments.push(token.text.clone());
                }
                self.at += 1;
            } else {
                self.at += usize::from(!token.is("}") && !token.is(","));
                return;
            }
            if !self.skip("::") {
                self.add(&segments, line);
                if self.skip("as") {
                    self.at += 1;
                }
                return;
            }
        }
    }

    /// Words joined by `::`, outside a `use`. Only one that says where it starts is of interest.
    fn expression_path(&mut self) {
        let first = self.at;
        let follows_dot = first > 0 && (self.tokens[first - 1].is(".") || self.tokens[first - 1].is("::"));
        let mut segments = vec![self.tokens[first].text.clone()];
        self.at += 1;
        while self.is(0, "::") && self.tokens.get(self.at + 1).is_some_and(Token::is_word) {
            segments.push(self.tokens[self.at + 1].text.clone());
            self.at += 2;
        }
        if segments.len() > 1 && !follows_dot {
            self.add(&segments, self.tokens[first].line);
        }
    }

    fn add(&mut self, segments: &[String], line: usize) {
        let Some(first) = segments.first() else { return };
        let rest = segments.iter().skip(1);
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        let from_here = |up: usize, skip: usize| {
            let kept = self.module.len().saturating_sub(up);
            let mut resolved = vec!["crate".to_owned()];
            resolved.extend_from_slice(&self.module[..kept]);
            resolved.extend(segments.iter().skip(skip).cloned());
            resolved
        };
        let segments = match first.as_str() {
            "crate" => [first].into_iter().chain(rest).cloned().collect(),
            "self" => from_here(0, 1),
            "super" => from_here(supers, supers),
            _ => segments.to_vec(),
        };
        self.found.push(NamedPath { segments, line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::tokens;

    fn check(source: &str, expected: &[&str]) {
        let found: Vec<String> =
            paths(&tokens(source), &["a", "b"]).iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn use_trees_are_followed_to_their_leaves() {
        check("use std::fs;", &["std::fs"]);
        check(
            "pub use crate::{c, d::{self, E as F, *}, g::H};",
            &["crate::c", "crate::d", "crate::d::E", "crate::d::*", "crate::g::H"],
        );
        check("use {crate::c::D, std::io};", &["crate::c::D", "std::io"]);
        check("use ::tokio::sync;", &["tokio::sync"]);
        check("use c::D; fn f() {}", &["c::D"]);
    }

    #[test]
    fn relative_paths_are_resolved() {
        check(
            "use self::c::D; use super::E; use super::super::f::G;",
            &["crate::a::b::c::D", "crate::a::E", "crate::f::G"],
        );
        check(
            "mod c { use super::D; mod e { use super::super::F; } } use super::G;",
            &["crate::a::b::D", "crate::a::b::F", "crate::a::G"],
        );
    }

    #[test]
    fn paths_in_expressions_are_seen() {
        check("let x = crate::store::f(y.z, u32::MAX);", &["crate::store::f", "u32::MAX"]);
        check("fn f(x: std::time::Instant) -> Vec::<u8> { x.y() }", &["std::time::Instant"]);
        check("if x { std::fs::read(y) }", &["std::fs::read"]);
    }

    #[test]
    fn prefixes_are_compared_by_segments() {
        let path = &paths(&tokens("use std::fs2::x;"), &[])[0];
        assert!(
            path.is_in("std::fs2")
                && path.is_in("std")
                && !path.is_in("std::fs")
                && !path.is_in("std::fs2::x::y")
        );
    }
}

//! Who may import whom. The rules are those of ARCHITECTURE.md, "Imports run one way"; these tables are where they are held.

use crate::{
    Finding,
    lexer::{is_test_file, tokens, without_tests},
    paths::{NamedPath, paths},
};

/// For each module of the server, which others it may name. A module that is missing here may name all of them.
const SERVER_MODULES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("plan", &["domain"]),
    // Plain data that crosses the store's seam: what the core wants written, and what it is folded back from.
    (
        "coordinator",
        &[
            "domain",
            "plan",
            "store::Write",
            "store::Snapshot",
            "store::ActiveProject",
            "store::OpenTask",
            "store::KnownAgent",
            "store::Noted",
        ],
    ),
    ("output", &["domain", "store::disk"]),
    ("store", &["domain"]),
    ("broker", &["domain", "coordinator", "store"]),
    ("queues", &["domain", "store", "broker"]),
    ("reassemble", &["domain", "output", "store"]),
    ("pace", &[]),
    ("rfc3339", &[]),
    ("driver", &["domain", "plan", "coordinator", "output", "store", "broker", "reassemble", "pace"]),
    ("intake", &["domain", "plan", "store", "driver"]),
    ("feed", &["domain", "store", "broker", "driver", "pace", "rfc3339"]),
    ("inbox", &["domain", "store", "broker", "intake"]),
    ("watch", &["domain", "output", "store", "reassemble", "driver", "pace"]),
    (
        "wire",
        &["domain", "plan", "coordinator", "output", "store", "queues", "reassemble", "driver", "watch"],
    ),
];

/// The modules of the server that see the protocol.
const SERVER_SEES_PROTO: &[&str] = &["wire", "service", "boot"];

/// The modules of the agent that don't: to them the coordinator is a type of their own.
const AGENT_WITHOUT_PROTO: &[&str] = &["domain", "supervisor", "runtime", "init_link", "images", "sweep"];

/// What a pure core has no business with. Of `std::time` it may name `Duration`.
const IMPURE: &[&str] = &[
    "tokio",
    "rand",
    "rusqlite",
    "tonic",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::sync::mpsc",
    "std::thread",
    "std::time",
];
const PURE_TIME: &str = "std::time::Duration";

/// For each crate's folder, which of our other crates its sources may name.
const CRATES: &[(&str, &[&str])] = &[
    ("proto/", &[]),
    ("server/", &["piecework_server", "piecework_proto"]),
    ("agent/init/", &["piecework_init"]),
    ("agent/", &["piecework_agent", "piecework_init", "piecework_proto"]),
    ("cli/", &["piecework_cli", "piecework_proto"]),
    ("examples/", &[]),
];
const OUR_CRATES: &[&str] =
    &["piecework_proto", "piecework_server", "piecework_agent", "piecework_init", "piecework_cli"];

/// The one module of the cli that starts server and agent in its own process.
const EMBEDDED: &str = "cli/src/embedded";
const EMBEDDED_MAY: &[&str] = &["piecework_server", "piecework_agent"];

/// Where a file stands in its crate: `server/src/store/sqlite/mod.rs` is `["store", "sqlite"]`.
fn module_of(file: &str) -> Vec<&str> {
    let Some((_, inside)) = file.split_once("src/") else { return Vec::new() };
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut module: Vec<&str> = inside.split('/').collect();
    if matches!(module.last(), Some(&("mod" | "lib" | "main"))) {
        module.pop();
    }
    module
}

/// What a Rust file imports against the rules.
pub(crate) fn findings(file: &str, source: &str) -> Vec<Finding> {
    if is_test_file(file) {
        return Vec::new();
    }
    let module = module_of(file);
    let mut complaints: Vec<(usize, String)> = paths(&without_tests(&tokens(source)), &module)
        .iter()
        .filter_map(|path| complaint(file, &module, path).map(|message| (path.line, message)))
        .collect();
    complaints.dedup();
    complaints.into_iter().map(|(line, message)| Finding { file: file.to_owned(), line, message }).collect()
}

fn complaint(file: &str, module: &[&str], path: &NamedPath) -> Option<String> {
    between_crates(file, path)
        .or_else(|| in_the_server(file, module, path))
        .or_else(|| in_the_agent(file, module, path))
        .or_else(|| in_a_core(file, path))
}

fn between_crates(file: &str, path: &NamedPath) -> Option<String> {
    let named = OUR_CRATES.iter().find(|name| path.is_in(name))?;
    let (folder, allowed) = CRATES.iter().find(|(folder, _)| file.starts_with(folder))?;
    let embedded = file.starts_with(EMBEDDED) && EMBEDDED_MAY.contains(named);
    (!embedded && !allowed.contains(named))
        .then(|| format!("{folder} imports {named}; server, agent and cli never import each other"))
}

fn in_the_server(file: &str, module: &[&str], path: &NamedPath) -> Option<String> {
    if !file.starts_with("server/src/") {
        return None;
    }
    let own = module.first().copied().unwrap_or_default();
    if path.is_in("piecework_proto::v1") || path.segments == ["piecework_proto", "*"] {
        return (!SERVER_SEES_PROTO.contains(&own))
            .then(|| format!("`{own}` sees the protocol; only {} may", SERVER_SEES_PROTO.join(", ")));
    }
    let (_, allowed) = SERVER_MODULES.iter().find(|(name, _)| *name == own)?;
    let [root, other, ..] = path.segments.as_slice() else { return None };
    let is_ours = root == "crate" && other.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '*');
    (is_ours && other != own && !allowed.iter().any(|prefix| path.is_in(&format!("crate::{prefix}"))))
        .then(|| format!("`{own}` imports `{}`; it may import {}", path.segments.join("::"), list(allowed)))
}

fn in_the_agent(file: &str, module: &[&str], path: &NamedPath) -> Option<String> {
    let own = module.first().filter(|_| file.starts_with("agent/src/"))?;
    (path.is_in("piecework_proto::v1") && AGENT_WITHOUT_PROTO.contains(own))
        .then(|| format!("`{own}` sees the protocol; the agent's wire and session translate it"))
}

/// Whether a file belongs to a state machine without I/O, clock or async. The agent's driver stands beside its core.
fn is_core(file: &str) -> bool {
    file.starts_with("server/src/coordinator/")
        || file.starts_with("server/src/domain/")
        || file.starts_with("server/src/plan")
        || (file.starts_with("agent/src/supervisor/")
            && !file.starts_with("agent/src/supervisor/driver")
            && file != "agent/src/supervisor/mod.rs")
}

fn in_a_core(file: &str, path: &NamedPath) -> Option<String> {
    let impure = IMPURE.iter().any(|prefix| path.is_in(prefix)) && !path.is_in(PURE_TIME);
    (impure && is_core(file)).then(|| {
        format!("a core names `{}`; it has no I/O, clock, chance or async", path.segments.join("::"))
    })
}

fn list(allowed: &[&str]) -> String {
    if allowed.is_empty() { "nothing of ours".to_owned() } else { allowed.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, source: &str, expected: &[(usize, &str)]) {
        let found = findings(file, source);
        assert_eq!(found.len(), expected.len(), "{file}: {source}: {found:?}");
        for (finding, (line, part)) in found.iter().zip(expected) {
            assert!(finding.line == *line && finding.message.contains(part), "{file}: {source}: {finding:?}");
        }
    }

    #[test]
    fn imports_in_the_server_run_one_way() {
        check("server/src/domain/ids.rs", "use crate::store::Write;", &[(1, "`domain` imports")]);
        check(
            "server/src/plan.rs",
            "use crate::domain::Item;\nuse crate::{wire::x, plan};",
            &[(2, "`plan` imports")],
        );
        check(
            "server/src/store/sqlite/mod.rs",
            "use super::super::driver::Handle;",
            &[(1, "`crate::driver::Handle`")],
        );
        check(
            "server/src/store/mod.rs",
            "pub mod sqlite; use self::sqlite::S; use super::domain::Item;",
            &[],
        );
        check("server/src/driver/mod.rs", "use crate::{store::Store, broker::B};", &[]);
        check("server/src/driver/mod.rs", "fn f() { crate::service::serve() }", &[(1, "`driver` imports")]);
        check("server/src/service/mod.rs", "use crate::{driver::Handle, wire, store};", &[]);
    }

    #[test]
    fn the_coordinator_sees_of_the_store_only_plain_data() {
        check("server/src/coordinator/effects.rs", "use crate::store::Write;", &[]);
        check(
            "server/src/coordinator/core.rs",
            "use crate::store::{Write, Store};",
            &[(1, "crate::store::Store")],
        );
    }

    #[test]
    fn only_the_border_sees_the_protocol() {
        for (file, seen) in
            [("wire/spec.rs", 0), ("service/mod.rs", 0), ("boot.rs", 0), ("watch.rs", 1), ("lib.rs", 1)]
        {
            let file = format!("server/src/{file}");
            assert_eq!(findings(&file, "use piecework_proto::v1;").len(), seen, "{file}");
        }
        check("agent/src/runtime/mod.rs", "use piecework_proto::v1;", &[(1, "`runtime` sees the protocol")]);
        check("agent/src/wire/task.rs", "use piecework_proto::v1;", &[]);
        check("server/src/output/mod.rs", "const X: usize = piecework_proto::CHUNK_BYTES_MAX;", &[]);
    }

    #[test]
    fn the_cores_have_no_io_clock_or_async() {
        let core = "server/src/coordinator/core.rs";
        check(core, "use tokio::sync::mpsc;", &[(1, "tokio")]);
        check(core, "use std::time::{Duration, Instant};", &[(1, "std::time::Instant")]);
        check(core, "\n\nfn f() { std::time::SystemTime::now() }", &[(3, "SystemTime")]);
        check(core, "use std::{fs, net::TcpStream};", &[(1, "std::fs"), (1, "std::net")]);
        check(core, "use rand::Rng;", &[(1, "rand")]);
        check(core, "use std::collections::BTreeMap; #[cfg(test)] mod tests { use rand::Rng; }", &[]);
        check("server/src/coordinator/tests.rs", "use rand::Rng;", &[]);
        check("agent/src/supervisor/core.rs", "use std::time::Instant;", &[(1, "a core names")]);
        check("agent/src/supervisor/driver.rs", "use std::time::Instant;", &[]);
        check("server/src/driver/mod.rs", "use tokio::time::Instant;", &[]);
    }

    #[test]
    fn server_agent_and_cli_never_import_each_other() {
        check("server/src/boot.rs", "use piecework_agent::Agent;", &[(1, "server/ imports piecework_agent")]);
        check("agent/src/boot.rs", "use piecework_server::Server;", &[(1, "agent/ imports")]);
        check("agent/init/src/main.rs", "use piecework_proto::v1;", &[(1, "agent/init/ imports")]);
        check("cli/src/commands/up.rs", "use piecework_server::Server;", &[(1, "cli/ imports")]);
        check("cli/src/embedded.rs", "use piecework_server::Server; use piecework_agent::Agent;", &[]);
        check("cli/tests/simulation/main.rs", "use piecework_server::Server;", &[]);
    }
}

//! The TCP listener, and the TLS that belongs to it.

use super::{ListenConfig, StartError};
use crate::tls::{Tls, TlsConfig};
use piecework_proto::address::Address;
use std::{collections::BTreeSet, fs, path::Path};
use tokio::net::TcpListener;

/// Binds the listener, and opens or makes what TLS needs.
pub(super) async fn bind(data: &Path, config: ListenConfig) -> Result<(TcpListener, Tls), StartError> {
    let ListenConfig { address, names, certificate, agent_life, .. } = config;
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    // For people: an address that stands for all of a host's is none to dial.
    let host = match names.first() {
        Some(name) => name.clone(),
        None if !bound.ip().is_unspecified() => bound.ip().to_string(),
        None if host_name.is_empty() => "HOST".to_owned(),
        None => host_name.clone(),
    };
    // Programs of others check the name that they dial; ours the one that the coordinator always has.
    let mut all: BTreeSet<_> = names.into_iter().collect();
    all.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    if !bound.ip().is_unspecified() {
        all.insert(bound.ip().to_string());
    }
    if !host_name.is_empty() {
        all.insert(host_name);
    }
    let config = TlsConfig {
        names: all.into_iter().collect(),
        files: certificate,
        agent_life,
        address: Address::Tls { host, port: bound.port() }.to_string(),
    };
    Ok((listener, Tls::open(data, config)?))
}

//! How many files this process may have open. Each agent and each client is one, and a service is started with 1,024 by
//! default, which stands for programs that can't take more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Takes as many as the process may have.
pub fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "no more files can be opened than the process was started with");
    }
}

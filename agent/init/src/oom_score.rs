//! Who is chosen when memory runs out: a task before init, and before the rest of the host.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

/// How much sooner than others a task is chosen when memory runs out: init outlives it, and so does the host.
const TASK_SCORE: &str = "500";

/// init's own readiness to be chosen, which children inherit. It is raised only while a child is born, so that no child
/// need open a file of its own.
#[derive(Debug)]
pub(crate) struct OomScore {
    file: File,
    own: String,
}

/// Lowers init's score again.
pub(crate) struct Raised<'a>(&'a OomScore);

impl OomScore {
    /// None where that can't be changed; that is no reason to fail.
    pub(crate) fn open() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().to_owned();
        let file = File::options().write(true).open("/proc/self/oom_score_adj").ok()?;
        Some(Self { file, own })
    }

    pub(crate) fn raise(&self) -> Raised<'_> {
        let _ = self.file.write_at(TASK_SCORE.as_bytes(), 0);
        Raised(self)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        let _ = self.0.file.write_at(self.0.own.as_bytes(), 0);
    }
}

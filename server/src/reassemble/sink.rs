//! Where a built-in reassembly writes its result: a short one is kept in a row, a long one with the bulk bytes.

use crate::{
    domain::{Generation, Output, OutputBody, ProjectId},
    output::{CHUNK_BYTES_MAX, INLINE_BYTES_MAX, OutputError, Outputs, Upload},
};
use bytes::BytesMut;

/// A result on its way.
pub(super) struct Sink {
    outputs: Outputs,
    project: ProjectId,
    generation: Generation,
    /// What was not written yet: at most what stays inline, or one chunk and the last piece.
    gathered: BytesMut,
    upload: Option<Upload>,
    /// How much was written.
    offset: u64,
}

impl Sink {
    pub(super) fn new(outputs: Outputs, project: ProjectId, generation: Generation) -> Self {
        Self { outputs, project, generation, gathered: BytesMut::new(), upload: None, offset: 0 }
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        for piece in bytes.chunks(CHUNK_BYTES_MAX) {
            self.gathered.extend_from_slice(piece);
            if self.upload.is_none() && self.gathered.len() > INLINE_BYTES_MAX {
                self.upload = Some(self.outputs.upload_result(self.project, self.generation).await?);
            }
            if self.gathered.len() >= CHUNK_BYTES_MAX {
                self.write().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Output, OutputError> {
        self.write().await?;
        match self.upload {
            Some(upload) => {
                let stored = upload.finish().await?;
                Ok(Output { length: stored.length, body: OutputBody::Stored(stored.sha256) })
            }
            None => Ok(Output::inline(self.gathered.freeze())),
        }
    }

    async fn write(&mut self) -> Result<(), OutputError> {
        if let Some(upload) = &mut self.upload {
            let bytes = self.gathered.split().freeze();
            let offset = self.offset;
            self.offset += bytes.len() as u64;
            upload.write(offset, bytes).await?;
        }
        Ok(())
    }
}

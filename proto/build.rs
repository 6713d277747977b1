//! Compiles the schema with protox, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["common", "projects", "agents", "admin", "session", "queues"]
        .map(|name| format!("piecework/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=piecework");
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".piecework.v1.Output.inline")
        .bytes(".piecework.v1.OutputChunk.data")
        .bytes(".piecework.v1.Assignment.stdin")
        .bytes(".piecework.v1.InputChunk.data")
        .bytes(".piecework.v1.ResultsChunk.data")
        .bytes(".piecework.v1.LogsChunk.data")
        .bytes(".piecework.v1.BlobChunk.data")
        .bytes(".piecework.v1.NewMessage.body")
        .bytes(".piecework.v1.Message.body")
        .compile_fds(descriptors)?;
    Ok(())
}

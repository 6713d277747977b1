//! The protocol of Piecework: the schema under `piecework/v1/`, the code generated from it, the protocol's version, and how
//! a coordinator is found and known.

pub mod address;
pub mod dial;
pub mod label;
pub mod token;
pub mod trust;

/// Version 1 of the schema.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::large_enum_variant,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("piecework.v1");
}

/// The schema as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The version of the protocol between agents and coordinators. Peers one version apart work together.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest message that either side accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Output of at most this length rides in the report; more goes over `UploadOutput`.
pub const INLINE_OUTPUT_BYTES_MAX: usize = 32 * 1024;

/// How much stdout and stderr of one attempt may have together where its project names no limit, in bytes.
pub const OUTPUT_BYTES_DEFAULT: u64 = 1024 * 1024 * 1024;

/// The most bytes of output, input or results in one chunk.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

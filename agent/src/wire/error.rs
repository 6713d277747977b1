//! What can be wrong with a message.

use std::path::PathBuf;

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// An enum has a value that this version does not know.
    #[error("`{field}` has the unknown value {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// What it held.
        value: i32,
    },
    /// A digest does not have 32 bytes.
    #[error("`{field}` has {length} bytes instead of 32")]
    DigestLength {
        /// The field.
        field: &'static str,
        /// How many it has.
        length: usize,
    },
    /// A path of an image file is not one that a file can be copied to.
    #[error("the image file `{}` is not an absolute path without `..` and empty parts", .0.display())]
    ImagePath(PathBuf),
    /// Inline output is not as long as it says, or longer than it may be.
    #[error("`{field}` carries {got} bytes inline and says {said}")]
    OutputLength {
        /// The field.
        field: &'static str,
        /// How many bytes there are.
        got: usize,
        /// How many it says.
        said: u64,
    },
    /// An attempt came before what it is to be run by.
    #[error("an assignment of project {project} came before its run spec")]
    NoRunSpec {
        /// The project.
        project: u64,
    },
    /// A session has brought more run specs than are kept.
    #[error("more than {0} run specs in one session")]
    TooManyRunSpecs(usize),
}

//! The outputs over a real directory.

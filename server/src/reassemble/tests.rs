//! Reassembly over a real store and a real directory.

//! See DESIGN.md: sweep.

//! See DESIGN.md: wire.

//! See DESIGN.md: outbox.

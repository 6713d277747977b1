//! See DESIGN.md: attempt.

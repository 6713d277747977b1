//! See DESIGN.md: session.

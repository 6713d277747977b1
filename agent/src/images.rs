//! See DESIGN.md: images.

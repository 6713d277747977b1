//! See DESIGN.md: init_link.

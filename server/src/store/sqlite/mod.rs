//! The embedded store: SQLite in WAL mode, synchronous=FULL, one writer thread doing group commit.

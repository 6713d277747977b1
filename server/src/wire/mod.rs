//! Parses protobuf into domain types, once, and back.

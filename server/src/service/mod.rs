//! The gRPC services: thin; each call parses, asks, and answers.

//! From a validated specification to tasks: items, placeholders, commands.

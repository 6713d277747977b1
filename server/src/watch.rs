//! What happens in a project, as a stream with a cursor.

//! A real init, real processes, a real socket.

mod client;
mod endings;
mod hostile;
mod lasting;
mod output;

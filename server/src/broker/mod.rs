//! Sessions of the broker seam: TODO out, deliveries in.

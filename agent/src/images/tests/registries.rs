//! With a real registry on loopback.

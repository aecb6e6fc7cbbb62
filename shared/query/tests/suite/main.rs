//! The crate from outside: the engine, the HTTP API, and Prometheus' own test scripts.

#[cfg(test)]
mod engine;
#[cfg(test)]
mod http;
#[cfg(test)]
mod promqltest;
#[cfg(test)]
mod support;

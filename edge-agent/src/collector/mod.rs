//! How devices are asked. Each collector speaks one protocol and yields the same kind of samples.

pub mod snmp;

//! What an engine counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that many may add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of an engine, as they are counted.
        #[derive(Debug, Default)]
        pub struct EngineCounters {
            $($(#[$doc])* pub $name: Count,)*
        }

        /// Counters of an engine, as they were when read.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct EngineCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl EngineCounters {
            /// Reads all of them.
            #[must_use]
            pub fn read(&self) -> EngineCounts {
                EngineCounts { $($name: self.$name.read(),)* }
            }
        }

        impl EngineCounts {
            /// Name and value of each, for a metrics page.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Requests handed to the socket.
    sent,
    /// Datagrams received, good or bad.
    received,
    /// Replies delivered to their request.
    matched,
    /// Datagrams that are no SNMP v1 or v2c message.
    malformed,
    /// Messages that are no v2c Response.
    unexpected_pdu,
    /// Replies whose request id nobody waits for: late, duplicate or forged.
    unknown_request,
    /// Replies with a known id from another address than the one asked.
    wrong_source,
    /// Requests without a reply in time.
    timed_out,
    /// Requests the socket refused.
    send_failed,
    /// Errors while receiving.
    receive_failed,
    /// Exchanges refused because too many were waiting.
    busy,
}

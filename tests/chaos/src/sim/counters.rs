//! Counters as a pure function of (seed, interface, metric, time): nothing runs between two questions.
//!
//! The rate is a triangle over a day, `low` at night and `high` at noon, and time itself runs unevenly inside each
//! stretch of 8.192 s so that two polls never see the same rate. The integral has a closed form:
//!
//! ```text
//! rate                          rise(x) = low*x + (high-low)*x*x/(2*half),   0 <= x <= half
//! high    /\      /\            F(x) = rise(x)                in the morning
//! low  __/  \____/  \__             = total - rise(day - x)   in the afternoon
//!      0  half  day             counter = days*total + F(x)
//! ```
//!
//! Both branches are monotone under IEEE rounding, so a counter never runs backwards.

use crate::chance::mix;

/// The counters of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Metric {
    InOctets,
    OutOctets,
    InUnicast,
    OutUnicast,
    InMulticast,
    OutMulticast,
    InBroadcast,
    OutBroadcast,
    InNonUnicast,
    OutNonUnicast,
    InErrors,
    OutErrors,
    InDiscards,
    OutDiscards,
    InUnknownProtocols,
}

impl Metric {
    /// Events per octet of the interface's load.
    fn weight(self) -> f64 {
        match self {
            Self::InOctets | Self::OutOctets => 1.0,
            Self::InUnicast | Self::OutUnicast => 1.0 / 640.0,
            Self::InMulticast | Self::OutMulticast => 1.0 / 60_000.0,
            Self::InBroadcast | Self::OutBroadcast => 1.0 / 180_000.0,
            Self::InNonUnicast | Self::OutNonUnicast => 1.0 / 45_000.0,
            Self::InErrors | Self::OutErrors => 1e-9,
            Self::InDiscards | Self::OutDiscards => 4e-9,
            Self::InUnknownProtocols => 1e-10,
        }
    }
}

/// Length of the stretch in which time runs at one pace, milliseconds.
const STRETCH_MS: u64 = 8192;

/// One counter's law.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law {
    /// Distinguishes this counter from all others.
    pub(crate) key: u64,
    /// Length of a day, milliseconds; at least 2.
    pub(crate) day_ms: u64,
    /// Mean rate, events per millisecond.
    pub(crate) mean_per_ms: f64,
}

impl Law {
    /// The law of one metric of an interface that can carry `bits_per_second`.
    pub(crate) fn of(device: u64, interface: u32, metric: Metric, bits_per_second: u64, day_ms: u64) -> Self {
        let key = mix(device ^ mix(u64::from(interface) << 8 | metric as u64));
        // An interface that is up carries between 1 and 40 % of what it could.
        let load = 0.01 + 0.39 * (key >> 40) as f64 / (1_u64 << 24) as f64;
        let octets_per_ms = bits_per_second.max(10_000_000) as f64 / 8000.0;
        Self { key, day_ms, mean_per_ms: octets_per_ms * load * metric.weight() }
    }

    /// Events in the first `elapsed_ms` milliseconds; never decreases.
    pub(crate) fn growth(&self, elapsed_ms: u64) -> u64 {
        let phase = self.key % (self.day_ms / 4).max(1);
        self.integral(phase + self.uneven(elapsed_ms)).wrapping_sub(self.integral(phase))
    }

    /// Time as this counter feels it.
    fn uneven(&self, elapsed_ms: u64) -> u64 {
        let (stretch, within) = (elapsed_ms / STRETCH_MS, elapsed_ms % STRETCH_MS);
        let lead = |stretch: u64| if stretch == 0 { 0 } else { mix(self.key ^ stretch) % (STRETCH_MS * 3 / 4) };
        let (from, to) = (stretch * STRETCH_MS + lead(stretch), (stretch + 1) * STRETCH_MS + lead(stretch + 1));
        from + (to - from) * within / STRETCH_MS
    }

    fn integral(&self, x: u64) -> u64 {
        let (days, within) = (x / self.day_ms, x % self.day_ms);
        let half = self.day_ms as f64 / 2.0;
        let (low, slope) = (0.3 * self.mean_per_ms, 1.4 * self.mean_per_ms / (2.0 * half));
        let raw = |x: f64| low * x + slope * x * x;
        // Whole at noon, so that morning and afternoon join without a step back.
        let noon = raw(half).floor();
        let rise = |x: f64| raw(x).min(noon);
        let within = within as f64;
        let partial = if within <= half { rise(within) } else { 2.0 * noon - rise(self.day_ms as f64 - within) };
        days.wrapping_mul(2 * noon as u64).wrapping_add(partial as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn octets_of_an_interface_that_is_up_increase_every_second() {
        for speed in [10_000_000, 1_000_000_000, 100_000_000_000] {
            let law = Law::of(7, 3, Metric::InOctets, speed, 600_000);
            let values: Vec<u64> = (0..5000).map(|second| law.growth(1_000_000_000 + second * 1000)).collect();
            assert!(values.is_sorted_by(|a, b| a < b), "{speed}");
            let rate = (values[4999] - values[0]) as f64 / 4999.0;
            assert!(rate > speed as f64 / 8.0 * 0.008 && rate < speed as f64 / 8.0 * 0.45, "{speed}: {rate}");
        }
    }

    #[test]
    fn counters_differ_from_one_another_and_repeat_for_the_same_seed() {
        let value = |device, interface, metric| Law::of(device, interface, metric, 1_000_000_000, 86_400_000).growth(5_000_000);
        assert_eq!(value(1, 2, Metric::InOctets), value(1, 2, Metric::InOctets));
        assert_ne!(value(1, 2, Metric::InOctets), value(2, 2, Metric::InOctets));
        assert_ne!(value(1, 2, Metric::InOctets), value(1, 3, Metric::InOctets));
        assert_ne!(value(1, 2, Metric::InOctets), value(1, 2, Metric::OutOctets));
        assert_eq!(Law::of(1, 2, Metric::InOctets, 1, 1000).growth(0), 0);
    }

    proptest! {
        #[test]
        fn growth_never_decreases(key: u64, day_ms in 2_u64..100_000_000, rate in 0.0_f64..20_000_000.0, at in 0_u64..30_000_000_000, by in 0_u64..20_000) {
            let law = Law { key, day_ms, mean_per_ms: rate };
            prop_assert!(law.growth(at) <= law.growth(at + by));
        }
    }
}

//! From when to when a certificate is valid.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::CertsError;

/// How far `not_before` is set back, so that a node whose clock is a little behind accepts a fresh certificate.
const BACKDATE: Duration = Duration::minutes(5);

/// A validity period; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Validity {
    /// From five minutes ago (clock skew) until `days` from now.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self { not_before: now.saturating_sub(BACKDATE), not_after: now.saturating_add(Duration::days(i64::from(days))) }
    }

    /// From `from` to `to` seconds relative to now; negative is the past. For tests of expired and future certificates.
    #[must_use]
    pub fn around_now(from: i64, to: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        Self { not_before: now.saturating_add(Duration::seconds(from)), not_after: now.saturating_add(Duration::seconds(to)) }
    }

    /// Between two instants.
    #[must_use]
    pub fn between(not_before: OffsetDateTime, not_after: OffsetDateTime) -> Self {
        Self { not_before, not_after }
    }

    /// The first instant at which the certificate is valid.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The last instant at which the certificate is valid.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    pub(crate) fn check(&self) -> Result<(), CertsError> {
        if self.not_after > self.not_before {
            return Ok(());
        }
        Err(CertsError::EmptyValidity { not_before: text(self.not_before), not_after: text(self.not_after) })
    }
}

/// An instant as RFC 3339 in UTC, to the second.
pub(crate) fn text(instant: OffsetDateTime) -> String {
    let instant = instant.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(instant);
    instant.format(&Rfc3339).unwrap_or_else(|_| instant.to_string())
}

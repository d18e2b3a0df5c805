// SPDX-License-Identifier: Apache-2.0

//! The clock: by one that is late, no certificate is valid yet.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::check::Finding;

/// When this release was made, in seconds since 1970: the first of November 2026. No right clock is before that.
const RELEASED: u64 = 1_793_491_200;

/// How long a certificate of a public authority is valid at most: 398 days. By a clock that is later than that, none is
/// valid yet.
const VALID: u64 = 398 * 24 * 60 * 60;

/// The time by the clock, since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Whether the clock can be right.
pub(super) fn look(now: Duration) -> Option<Finding> {
    let late = RELEASED
        .checked_sub(now.as_secs())
        .filter(|late| *late > 0)?;
    let days = late.div_ceil(24 * 60 * 60);
    let fix = "set the clock before the first pull: by NTP (chrony, systemd-timesyncd), or by the clock of the host";
    Some(match late > VALID {
        true => Finding::error(
            "clock",
            format!(
                "the clock is at least {days} days late: no certificate of a registry is valid yet by it"
            ),
            fix,
        ),
        false => Finding::warning(
            "clock",
            format!(
                "the clock is at least {days} days late: certificates of registries may not be valid yet by it"
            ),
            fix,
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::check::Severity;

    /// A clock that begins in 1970 is an error, one that is somewhat late a warning, and one that may be right is nothing.
    #[test]
    fn a_late_clock_is_found() {
        let at = |seconds| look(Duration::from_secs(seconds));
        let severity = |seconds| at(seconds).unwrap().severity;
        assert_eq!(severity(0), Severity::Error);
        assert_eq!(severity(RELEASED - VALID - 1), Severity::Error);
        assert_eq!(severity(RELEASED - VALID), Severity::Warning);
        assert_eq!(severity(RELEASED - 1), Severity::Warning);
        assert_eq!(at(RELEASED), None);
        assert_eq!(look(now()), None);
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What the programs that measure and soak the daemon share.
//!
//! A measuring program that meets what it doesn't expect has nothing to report, so it panics.

pub mod client;
pub mod process;
pub mod report;
pub mod server;
pub mod wire;

/// The value in the middle; of none, 0.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of all lie; of none, 0.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = (last as f64 * part).round() as usize;
    values.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_set() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], 1.0), 4.0);
        assert_eq!(median(&mut []), 0.0);
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Helpers that the benchmark and soak programs share.
//!
//! A benchmark that meets anything unexpected has nothing to report, so it panics.

pub mod client;
pub mod process;
pub mod report;
pub mod run;
pub mod running;
pub mod server;
pub mod wire;

/// The median; 0 if there are no values.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The quantile `part`; 0 if there are no values.
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

// SPDX-License-Identifier: Apache-2.0

//! A chart: panels of horizontal bars, with what is written at each.

use crate::figures::Figures;

/// One picture.
pub struct Chart {
    /// The name of its file.
    pub file: &'static str,
    pub title: &'static str,
    /// What the bars mean, one line each.
    pub about: Vec<String>,
    /// What was measured, when, and on which machine.
    pub origin: [String; 2],
    /// Whether the figures are of a short run.
    pub is_quick: bool,
    pub unit: &'static str,
    /// Whether all panels have the scale of the largest value of all.
    pub has_one_scale: bool,
    pub panels: Vec<Panel>,
}

/// Bars below a heading.
pub struct Panel {
    pub heading: String,
    pub bars: Vec<Bar>,
}

/// One bar.
pub struct Bar {
    pub label: String,
    pub kind: Kind,
    /// Or what is written in its place.
    pub value: Result<f64, String>,
    /// What is written after the value.
    pub note: String,
}

/// Who a bar is about. Each has its own colour in all charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The measured program of this repository.
    Ours,
    /// The work alone, or what does nothing but answer.
    Floor,
    /// Another program that does the same.
    First,
    /// And another.
    Second,
    /// And the component that it is in the place of.
    Stock,
}

impl Chart {
    /// A chart of these figures, with one scale and without panels.
    pub fn of(
        figures: &Figures,
        file: &'static str,
        title: &'static str,
        unit: &'static str,
    ) -> Self {
        Self {
            file,
            title,
            about: Vec::new(),
            origin: figures.origin.clone(),
            is_quick: figures.is_quick,
            unit,
            has_one_scale: true,
            panels: Vec::new(),
        }
    }
}

impl Panel {
    /// Writes at each bar how many times the value of `ours` it has.
    pub fn compare(mut self, ours: &str) -> Self {
        let own = self.bars.iter().find(|bar| bar.kind == Kind::Ours);
        let own = own.and_then(|bar| bar.value.as_ref().ok().copied());
        if let Some(own) = own.filter(|own| *own > 0.0) {
            for bar in &mut self.bars {
                if let (Ok(value), true) = (&bar.value, bar.kind != Kind::Ours) {
                    bar.note = format!("{} × {ours}", number(value / own));
                }
            }
        }
        self
    }
}

/// A number with about three digits, as people write it.
pub fn number(value: f64) -> String {
    let digits = match value {
        0.0 => return "0".to_owned(),
        v if !(1e-4..1e12).contains(&v) => return format!("{v:.1e}"),
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.0995 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = match text.split_once('.') {
        Some((whole, rest)) => (whole, format!(".{rest}")),
        None => (text.as_str(), String::new()),
    };
    let mut number = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            number.push(',');
        }
        number.push(digit);
    }
    number + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value keeps its digits at every size, and never looks like 0 if it is not.
    #[test]
    fn numbers_are_short_and_right() {
        for (value, text) in [
            (0.0, "0"),
            (0.004, "0.0040"),
            (0.68, "0.68"),
            (5.19, "5.19"),
            (21.54, "21.5"),
            (397.2, "397"),
            (1_993_628.0, "1,993,628"),
            (1e-9, "1.0e-9"),
            (2.5e300, "2.5e300"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}

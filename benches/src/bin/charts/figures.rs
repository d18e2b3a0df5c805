// SPDX-License-Identifier: Apache-2.0

//! What a benchmark wrote, with everything that is missing or of another type left out.

use serde_json::Value;

/// The JSON of one benchmark.
pub struct Figures {
    /// `bench` or `bench-pull`.
    pub benchmark: String,
    /// Program, commit and day; and the machine. For readers.
    pub origin: [String; 2],
    /// Whether the run was a short one.
    pub is_quick: bool,
    rows: Vec<Row>,
    missing: Vec<Missing>,
}

/// One figure, and those of the simpler programs beside it.
pub struct Row {
    pub section: String,
    pub name: String,
    pub value: Option<f64>,
    pub floors: Vec<(String, Option<f64>)>,
}

/// Why a peer has no figures, in this section or in any.
struct Missing {
    section: Option<String>,
    peer: String,
    reason: String,
}

impl Figures {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// If it is not JSON.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        let json: Value = serde_json::from_slice(json)?;
        let run = &json["run"];
        let machine = &run["machine"];
        let cores = machine["cores"].as_u64().unwrap_or_default();
        let program = format!(
            "{} (commit {}), measured on {}",
            text(&run["version"]),
            text(&run["commit"]),
            text(&run["date"]),
        );
        let machine = format!(
            "{cores} {} of {}, Linux {}",
            if cores == 1 { "core" } else { "cores" },
            text(&machine["cpu"]),
            text(&machine["kernel"]),
        );
        let rows = list(&json["figures"]).map(|row| Row {
            section: text(&row["section"]),
            name: text(&row["name"]),
            value: number(&row["value"]),
            floors: list(&row["floors"])
                .map(|floor| (text(&floor["floor"]), number(&floor["value"])))
                .collect(),
        });
        let missing = list(&json["missing"]).map(|missing| Missing {
            section: missing["section"].as_str().map(str::to_owned),
            peer: text(&missing["peer"]),
            reason: text(&missing["reason"]),
        });
        Ok(Self {
            benchmark: text(&run["benchmark"]),
            origin: [program, machine],
            is_quick: run["quick"].as_bool().unwrap_or(false),
            rows: rows.collect(),
            missing: missing.collect(),
        })
    }

    /// The sections, in their order.
    pub fn sections(&self) -> Vec<&str> {
        let mut sections: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !sections.contains(&row.section.as_str()) {
                sections.push(&row.section);
            }
        }
        sections
    }

    /// The figures of a section.
    pub fn rows<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.section == section)
    }

    /// A figure of a section.
    pub fn row(&self, section: &str, name: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.section == section && row.name == name)
    }

    /// The value of a figure, or why there is none.
    pub fn value(&self, section: &str, name: &str, peer: &str) -> Result<f64, String> {
        let value = self.row(section, name).and_then(|row| row.value);
        value.ok_or_else(|| {
            let missing = self.missing.iter().find(|missing| {
                missing.peer == peer && missing.section.as_deref().is_none_or(|s| s == section)
            });
            match missing {
                Some(missing) => format!("not measured: {}", missing.reason),
                None => "not measured".to_owned(),
            }
        })
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("unknown").to_owned()
}

/// A number that a bar can have.
fn number(value: &Value) -> Option<f64> {
    value
        .as_f64()
        .filter(|value| value.is_finite() && *value >= 0.0)
}

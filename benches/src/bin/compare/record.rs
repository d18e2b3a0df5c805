// SPDX-License-Identifier: Apache-2.0

//! What a comparison has found, as JSON and as the tables of docs/comparison.md.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Where the tables are in the page.
const BEGIN: &str = "<!-- what `make compare` prints: begin -->\n";
const END: &str = "<!-- what `make compare` prints: end -->\n";

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub section: String,
    pub id: String,
    pub title: String,
    pub is_figure: bool,
    pub ours: String,
    pub stock: Option<String>,
}

/// A whole comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub date: String,
    pub kernel: String,
    pub ours: String,
    pub stock: Option<String>,
    pub rows: Vec<Row>,
}

impl Record {
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({"section": row.section, "id": row.id, "point": row.title, "figure": row.is_figure,
                "ours": row.ours, "stock": row.stock})
        });
        json!({"date": self.date, "kernel": self.kernel, "ours": self.ours, "stock": self.stock,
            "rows": rows.collect::<Vec<_>>()})
    }

    /// Reads what `to_json` made.
    pub fn of_json(value: &Value) -> Option<Self> {
        let text = |value: &Value, name: &str| value[name].as_str().map(str::to_owned);
        let rows = value["rows"].as_array()?.iter().map(|row| {
            Some(Row {
                section: text(row, "section")?,
                id: text(row, "id")?,
                title: text(row, "point")?,
                is_figure: row["figure"].as_bool()?,
                ours: text(row, "ours")?,
                stock: text(row, "stock"),
            })
        });
        Some(Self {
            date: text(value, "date")?,
            kernel: text(value, "kernel")?,
            ours: text(value, "ours")?,
            stock: text(value, "stock"),
            rows: rows.collect::<Option<_>>()?,
        })
    }

    /// The tables, one for each section.
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "Played on {} on Linux {}, with {}",
            self.date, self.kernel, self.ours
        );
        match &self.stock {
            Some(stock) => text.push_str(&format!(", and with {stock}.\n")),
            None => text.push_str(".\n"),
        }
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = &row.section;
                text.push_str(&format!("\n## {section}\n\n"));
                text.push_str("| `ONLY=` | Point | This project | Stock confidential-data-hub |\n");
                text.push_str("|---|---|---|---|\n");
            }
            let stock = row.stock.as_deref().unwrap_or("not played");
            let cells = [&row.title, &row.ours, stock].map(|cell| cell.replace('|', "\\|"));
            text.push_str(&format!("| `{}` | {} |\n", row.id, cells.join(" | ")));
        }
        text
    }

    /// Puts the tables into the page, between their marks.
    pub fn write_into(&self, page: &Path) -> Result<(), String> {
        let fail = |error: std::io::Error| format!("{}: {error}", page.display());
        let text = fs::read_to_string(page).map_err(fail)?;
        let parts = text.split_once(BEGIN);
        let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let (before, after) =
            parts.ok_or_else(|| format!("{}: no place for the tables", page.display()))?;
        let text = format!("{before}{BEGIN}\n{}\n{END}{after}", self.to_markdown());
        fs::write(page, text).map_err(fail)
    }
}

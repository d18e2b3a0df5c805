// SPDX-License-Identifier: Apache-2.0

//! `make figures`: draws charts of the figures that `make bench` and `make bench-pull` measured.
//!
//! `charts DIRECTORY JSON…` writes the charts of each JSON into the directory. The same JSON always gives the same bytes.

mod chart;
mod daemon;
mod draw;
mod figures;
mod pulls;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::chart::Chart;
use crate::figures::Figures;

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, measured @ ..] = paths.as_slice() else {
        return Err("charts DIRECTORY JSON...".into());
    };
    if measured.is_empty() {
        return Err("no figures to draw; fix: run `make bench` or `make bench-pull` first".into());
    }
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for path in measured {
        let charts = charts(path).map_err(|error| format!("{}: {error}", path.display()))?;
        for chart in charts {
            let file = directory.join(chart.file);
            let drawing = draw::draw(&chart);
            let drawing = drawing.map_err(|error| format!("{}: {error}", chart.file))?;
            fs::write(&file, drawing).map_err(|error| format!("{}: {error}", file.display()))?;
            println!("{}", file.display());
        }
    }
    Ok(())
}

/// The charts of what one benchmark measured.
fn charts(path: &Path) -> Result<Vec<Chart>, Box<dyn Error>> {
    let figures = Figures::parse(&fs::read(path)?)?;
    match figures.benchmark.as_str() {
        "bench" => Ok(daemon::charts(&figures)),
        "bench-pull" => Ok(pulls::charts(&figures)),
        other => Err(format!(
            "run.benchmark is {other:?}, and must be bench or bench-pull; fix: measure again"
        )
        .into()),
    }
}

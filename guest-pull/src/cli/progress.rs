// SPDX-License-Identifier: Apache-2.0

//! How a pull goes: a bar on a terminal, lines elsewhere.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use common::text::count;
use guest_pull::pull::Event;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::Format;

/// Shows what happens, on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    format: Format,
    layers: AtomicUsize,
    done: AtomicUsize,
    fetched: AtomicU64,
}

impl Progress {
    /// A bar only where a person watches.
    pub fn new(format: Format) -> Self {
        let watched = format == Format::Text && io::stderr().is_terminal();
        Self {
            bar: watched.then(|| ProgressBar::no_length().with_style(style())),
            format,
            layers: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            fetched: AtomicU64::new(0),
        }
    }

    /// Shows it.
    pub fn tell(&self, event: Event) {
        match event {
            Event::Started { layers, bytes } => {
                self.layers.store(layers, Ordering::Relaxed);
                match (&self.bar, self.format) {
                    (Some(bar), _) => bar.set_length(bytes),
                    (None, Format::Text) => {
                        eprintln!("{}, {bytes} bytes", count(layers, "layer", "layers"));
                    }
                    (None, Format::Json) => {
                        println!(
                            "{}",
                            json!({"event": "started", "layers": layers, "bytes": bytes})
                        );
                    }
                }
            }
            Event::Read(bytes) => {
                self.fetched.fetch_add(bytes, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    bar.inc(bytes);
                }
            }
            Event::Layer { bytes, stored } => {
                let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
                let layers = self.layers.load(Ordering::Relaxed);
                match (&self.bar, self.format) {
                    (Some(bar), _) => {
                        if stored {
                            bar.inc(bytes);
                        }
                        bar.set_message(format!("layer {done} of {layers}"));
                    }
                    (None, Format::Text) => {
                        let how = if stored { "stored already" } else { "fetched" };
                        eprintln!("layer {done} of {layers}: {how}, {bytes} bytes");
                    }
                    (None, Format::Json) => println!(
                        "{}",
                        json!({"event": "layer", "done": done, "bytes": bytes, "stored": stored})
                    ),
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

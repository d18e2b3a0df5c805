// SPDX-License-Identifier: Apache-2.0

//! `inspect`: asks for an image's manifest alone.

use std::process::ExitCode;

use clap::Args;
use common::text::count;
use guest_pull::pull;
use guest_pull::worker::Kind;
use serde_json::json;

use crate::cli::{Format, Source};

/// Ask for the manifest alone: whether a pull would begin
///
/// Exit status: 0 the registry gives it, 3 it refuses, 4 it has no such image, 5 it can't be reached, 1 anything else.
#[derive(Args)]
pub struct Inspect {
    #[command(flatten)]
    source: Source,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

impl Inspect {
    /// Prints what the registry says.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.source.client()?.once();
        let found = pull::find(&client, self.source.reference()?, &self.source.platform());
        let (answer, text, status) = match &found {
            Ok(found) => {
                let (digest, manifest) = (found.digest, &found.manifest);
                let bytes = manifest.layers.iter().map(|layer| layer.size);
                let bytes = bytes.fold(0, u64::saturating_add);
                let layers = count(manifest.layers.len(), "layer", "layers");
                let text = format!("{digest}: {layers}, {bytes} bytes");
                ("accepted", text, 0)
            }
            Err(error) => {
                let (answer, status) = match error.kind() {
                    Kind::Refused | Kind::Forbidden => ("refused", 3),
                    Kind::Missing => ("missing", 4),
                    Kind::Unreachable => ("unreachable", 5),
                    _ => ("other", 1),
                };
                (answer, error.to_string(), status)
            }
        };
        let image = &self.source.image;
        match self.format {
            Format::Text => println!("{image}: {answer}: {text}"),
            Format::Json => println!(
                "{}",
                json!({"image": image.to_string(), "answer": answer, "message": text})
            ),
        }
        Ok(ExitCode::from(status))
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The points. Each is played, and what it answers is what was seen.

mod attestation;
mod failures;
mod files;
mod networks;
mod processes;
mod signatures;

use std::path::Path;

use ttrpc::Code;

use crate::front::{Asked, Does, Front};
use crate::registry::{Pushed, Registry};
use crate::subject::{Answer, Hub, Refused, Setting, Subject, rootfs};
use crate::tree::{Layer, Packing};

/// The most of a message that the table shows. The reason of each fits.
const MAX_MESSAGE: usize = 400;

/// A point of the comparison.
pub struct Point {
    /// By which it can be played alone.
    pub id: &'static str,
    pub section: &'static str,
    pub title: &'static str,
    /// Whether the answer depends on how the programs were built.
    pub is_figure: bool,
    pub play: fn(&World) -> String,
}

/// A point whose answer is the same on each machine.
const fn point(
    section: &'static str,
    id: &'static str,
    title: &'static str,
    play: fn(&World) -> String,
) -> Point {
    Point {
        id,
        section,
        title,
        is_figure: false,
        play,
    }
}

/// All points, in the order of the table.
pub fn all() -> Vec<Point> {
    [
        files::points(),
        networks::points(),
        failures::points(),
        processes::points(),
        signatures::points(),
        attestation::points(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a point plays with.
pub struct World {
    pub subject: Subject,
    pub registry: Registry,
    /// This project's program: it encrypts and seals, as on a build host.
    pub tool: std::path::PathBuf,
}

impl World {
    /// Pushes an image of one layer with this file.
    fn push_file(&self, name: &str, content: &[u8]) -> Pushed {
        let layer = Layer::new().file("file", 0o644, content);
        self.registry.push(name, vec![layer], Packing::Gzip)
    }

    /// A server before the registry.
    fn front(&self, decide: impl Fn(&Asked) -> Does + Send + Sync + 'static) -> Front {
        Front::start(&self.registry.address, decide).expect("a port")
    }

    /// Pulls an image of these layers; tells what `look` sees of its root, or why it is refused.
    fn tree(&self, name: &str, layers: Vec<Layer>, look: impl Fn(&Path) -> String) -> String {
        let pushed = self.registry.push(name, layers, Packing::Gzip);
        self.pull_and_look(&pushed, look)
    }

    /// The same with an image that was pushed.
    fn pull_and_look(&self, pushed: &Pushed, look: impl Fn(&Path) -> String) -> String {
        let address = &self.registry.address;
        let hub = Hub::start(&Setting {
            image: plain(address),
            ..Setting::default()
        });
        match hub.pull(&format!("{address}/{}", pushed.name), "c") {
            Ok(_) => look(&rootfs("c")),
            Err(refused) => format!("refused: {}", said(&refused)),
        }
    }
}

/// The table of `cdh.toml` that lets a registry be asked without TLS.
fn plain(address: &str) -> String {
    format!("[[image.registry_config.registry]]\nlocation = \"{address}\"\ninsecure = true\n")
}

/// `yes` or what a refusal says.
fn pulled(answer: &Answer) -> String {
    match answer {
        Ok(_) => "pulled".to_owned(),
        Err(refused) => format!("fails: {}", said(refused)),
    }
}

/// The code and the text of a refusal, without what differs from run to run.
fn said(refused: &Refused) -> String {
    let text = neutral(&refused.text);
    let shown: String = text.chars().take(MAX_MESSAGE).collect();
    let more = if text.chars().count() > MAX_MESSAGE {
        "…"
    } else {
        ""
    };
    match refused.code {
        Code::DEADLINE_EXCEEDED => shown,
        code => format!("{code:?} “{shown}{more}”"),
    }
}

/// On one line, and without addresses and digests, which differ from run to run and from version to version of the tools.
fn neutral(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = replaced(&words, "127.0.0.1:", "REGISTRY", |c| c.is_ascii_digit());
    replaced(&words, "sha256:", "sha256:…", |c| c.is_ascii_hexdigit())
}

/// Replaces a word with all characters of a kind that follow it.
fn replaced(text: &str, word: &str, by: &str, follows: impl Fn(char) -> bool) -> String {
    let mut parts = text.split(word);
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        replaced.push_str(by);
        replaced.push_str(part.trim_start_matches(&follows));
    }
    replaced
}

/// One of two words.
fn either(is_so: bool, yes: &str, no: &str) -> String {
    if is_so { yes } else { no }.to_owned()
}

/// A table with an image's login.
fn login(registry: &str, text: &str) -> Vec<u8> {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(text);
    format!(r#"{{"auths":{{"{registry}":{{"auth":"{auth}"}}}}}}"#).into_bytes()
}

// SPDX-License-Identifier: Apache-2.0

//! The charts of `make bench-pull`: guest-pull beside others that pull the same images.

use crate::chart::{Bar, Chart, Kind, Panel, number};
use crate::figures::Figures;

const OURS: &str = "guest-pull";

/// Those who pull, by the names that the benchmark gives them.
const PEERS: [(&str, Kind); 4] = [
    (OURS, Kind::Ours),
    ("skopeo + umoci", Kind::First),
    ("containerd", Kind::Second),
    ("confidential-data-hub", Kind::Stock),
];

/// The image that is too small for what depends on its size.
const SMALL: &str = "small";

/// The images' names, as the benchmark and as people write them.
const IMAGES: [(&str, &str); 4] = [
    ("one-layer", "One layer"),
    ("eight-layers", "Eight layers, gzip"),
    ("eight-layers-zstd", "Eight layers, zstd"),
    (SMALL, "A small image"),
];

/// Where all of it happens.
const ABOUT: &str = "From a registry on the same machine, with all files in memory, so neither network nor disk counts.";

/// The charts of pulls.
pub fn charts(figures: &Figures) -> Vec<Chart> {
    let images: Vec<Image> = figures
        .sections()
        .into_iter()
        .filter_map(Image::of)
        .collect();
    let large = || images.iter().filter(|image| image.name != SMALL);
    let small = || images.iter().filter(|image| image.name == SMALL);

    let mut time = Chart::of(
        figures,
        "pull-time.svg",
        "Time to pull an image until its root file system is there (shorter is better)",
        "s",
    );
    time.about.push(ABOUT.to_owned());
    time.about.push(
        "“The work alone”: inflating, both digests and LZ4, shared by all cores, without network and file system."
            .to_owned(),
    );
    time.panels = large()
        .map(|image| {
            let mut bars = vec![Bar {
                label: "the work alone".to_owned(),
                kind: Kind::Floor,
                value: figures.value(image.section, "these shared by all processors", ""),
                note: String::new(),
            }];
            bars.extend(peers(figures, image.section, "", 1.0));
            image.panel(bars).compare(OURS)
        })
        .collect();

    let mut again = Chart::of(
        figures,
        "pull-small.svg",
        "Time to pull a small image, and to pull an image again (shorter is better)",
        "ms",
    );
    again.about.push(ABOUT.to_owned());
    again.has_one_scale = false;
    again.panels = small()
        .map(|image| {
            image
                .panel(peers(figures, image.section, "", 1e3))
                .compare(OURS)
        })
        .collect();
    let bars = images.iter().map(|image| {
        let first = figures.row(image.section, OURS).and_then(|row| row.value);
        let first = first.map(|seconds| format!("the first time {} ms", number(seconds * 1e3)));
        Bar {
            label: image.title.clone(),
            kind: Kind::Ours,
            value: figures.value(image.section, &format!("{OURS}, again"), OURS),
            note: first.unwrap_or_default(),
        }
    });
    again.panels.push(Panel {
        heading:
            "guest-pull again, with the layers in its store: it asks for the manifest and mounts"
                .to_owned(),
        bars: bars.collect(),
    });

    let mut held = Chart::of(
        figures,
        "pull-held.svg",
        "Memory that a pulled image holds while it is mounted (shorter is better)",
        "MiB",
    );
    held.about
        .push("Its files, which are in memory here, as they are in a pod VM.".to_owned());
    held.panels = large()
        .map(|image| {
            let name = |peer: &str| format!("{peer}, held in memory");
            let row = figures.row(image.section, &name(OURS));
            let floors = row.map(|row| row.floors.as_slice()).unwrap_or_default();
            let whole = floors.iter().find(|(floor, _)| floor == "uncompressed");
            let whole = whole.and_then(|(_, value)| *value);
            let mut bars = vec![Bar {
                label: "uncompressed layers".to_owned(),
                kind: Kind::Floor,
                value: whole.ok_or_else(|| "not measured".to_owned()),
                note: String::new(),
            }];
            bars.extend(peers(figures, image.section, ", held in memory", 1.0));
            image.panel(bars).compare(OURS)
        })
        .collect();

    let mut peak = Chart::of(
        figures,
        "pull-peak.svg",
        "Peak memory of the processes that pull an image (shorter is better)",
        "MiB",
    );
    peak.about
        .push("The sum of the peaks of all processes, without the image's files.".to_owned());
    peak.panels = images
        .iter()
        .map(|image| {
            let bars = peers(figures, image.section, ", peak memory", 1.0);
            image.panel(bars).compare(OURS)
        })
        .collect();
    vec![time, again, held, peak]
}

/// The bars of all who pull.
fn peers(figures: &Figures, section: &str, what: &str, factor: f64) -> Vec<Bar> {
    let bar = |(peer, kind): (&str, Kind)| {
        let value = figures.value(section, &format!("{peer}{what}"), peer);
        Bar {
            label: peer.to_owned(),
            kind,
            value: value.map(|value| value * factor),
            note: String::new(),
        }
    };
    PEERS.map(bar).into()
}

/// An image, which is a section of the figures.
struct Image<'f> {
    section: &'f str,
    name: &'f str,
    title: String,
    /// Its sizes.
    about: &'f str,
}

impl<'f> Image<'f> {
    /// What a section is about; none if it is not about an image.
    fn of(section: &'f str) -> Option<Self> {
        let (name, about) = section.split_once(": ")?;
        // The title says how many layers it has.
        let sizes = about
            .rsplit_once(", ")
            .filter(|(_, last)| last.contains("layer"));
        let about = sizes.map_or(about, |(sizes, _)| sizes);
        let title = IMAGES.iter().find(|(image, _)| *image == name);
        Some(Self {
            section,
            name,
            title: title.map_or(name, |(_, title)| title).to_owned(),
            about,
        })
    }

    fn panel(&self, bars: Vec<Bar>) -> Panel {
        // The sizes say how the layers are compressed.
        let title = self.title.split(',').next().unwrap_or_default();
        Panel {
            heading: format!("{title}: {}", self.about),
            bars,
        }
    }
}

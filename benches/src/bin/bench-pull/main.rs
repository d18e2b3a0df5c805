// SPDX-License-Identifier: Apache-2.0

//! `make bench-pull`: what pulling takes, compared with what it can't do without and with others that pull, in the same run.
//!
//! `bench-pull GUEST_PULL FLOORS DIRECTORY JSON [--quick] [CONFIDENTIAL_DATA_HUB]`

mod images;
mod peers;
mod tools;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::unistd::geteuid;
use offline_fs_kbc_bench::report::{Report, number};
use offline_fs_kbc_bench::run::Run;
use offline_fs_kbc_bench::{median, process};

use crate::images::{Files, Image, Kind, Recipe};
use crate::peers::{Pull, Puller};
use crate::tools::{InMemory, Registry, output, run, stolen, tool};

const MIB: f64 = (1 << 20) as f64;

/// Rounds, in each of which the floors and guest-pull take turns. The others take longer, and are measured in the first
/// rounds alone.
const ROUNDS: usize = 5;
const PEERS_ROUNDS: usize = 3;

/// Runs of guest-pull in which memory is looked at; of the others it is one.
const LOOKS: usize = 3;

const FULL: [Recipe; 4] = [
    recipe("one-layer", Kind::Gzip, 1, 15_000, 340 << 20),
    recipe("eight-layers", Kind::Gzip, 8, 15_000, 130 << 20),
    recipe("eight-layers-zstd", Kind::Zstd, 8, 15_000, 130 << 20),
    recipe("small", Kind::Gzip, 1, 200, 2 << 20),
];

const QUICK: [Recipe; 4] = [
    recipe("one-layer", Kind::Gzip, 1, 4_000, 80 << 20),
    recipe("eight-layers", Kind::Gzip, 8, 2_000, 16 << 20),
    recipe("eight-layers-zstd", Kind::Zstd, 8, 2_000, 16 << 20),
    recipe("small", Kind::Gzip, 1, 200, 2 << 20),
];

const fn recipe(name: &'static str, kind: Kind, layers: usize, files: usize, bytes: u64) -> Recipe {
    Recipe {
        name,
        kind,
        layers,
        files,
        bytes,
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let (flags, paths): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|a| a.starts_with("--"));
    let [program, floors, dir, json, rest @ ..] = paths.as_slice() else {
        let usage = "bench-pull GUEST_PULL FLOORS DIRECTORY JSON [--quick] [CONFIDENTIAL_DATA_HUB]";
        return Err(usage.into());
    };
    if !geteuid().is_root() {
        return Err("bench-pull mounts images and must run as root".into());
    }
    let is_quick = !flags.is_empty();
    let dir = std::path::absolute(dir)?;
    let memory = InMemory::mount(&dir.join("memory"));
    let registry = Registry::start(&dir.join("registry"));
    let mut pullers = vec![
        Puller::GuestPull(program.into()),
        Puller::Skopeo,
        Puller::Containerd,
    ];
    let mut report = Report::default();
    match rest.first() {
        Some(path) => pullers.push(Puller::Hub(path.into())),
        None => report.missing(None, Puller::HUB, "no program was given (CDH=PATH)"),
    }
    size(&mut report, Path::new(program));
    let (here, missing): (Vec<_>, Vec<_>) = pullers.into_iter().partition(Puller::is_there);
    for puller in missing {
        let name = puller.name();
        report.missing(None, name, "not on this machine");
        report.note(format!("Not measured, because it is not here: {name}."));
    }
    let bench = Bench {
        floors: floors.into(),
        pullers: here,
        rounds: if is_quick { 3 } else { ROUNDS },
        memory,
    };
    let about = Run::of("bench-pull", Path::new(program), is_quick);
    let files = Files::find();
    let (all_before, stolen_before) = stolen();
    for recipe in if is_quick { &QUICK } else { &FULL } {
        let image = images::make(recipe, &files, &dir.join("images"));
        let reference = format!("{}/bench/{}:1", registry.address, image.name);
        let mut push = tool("SKOPEO", "skopeo");
        push.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]);
        push.arg(format!("oci:{}:bench", image.layout.display()));
        run(push.arg(format!("docker://{reference}")));
        eprintln!("measuring {}", image.name);
        bench.measure(&mut report, &image, &reference);
        // A run takes minutes, and what it has found by now is not lost if it is ended.
        fs::write(json, format!("{:#}\n", report.json(&about)))?;
    }
    let (all_after, stolen_after) = stolen();
    let part = (stolen_after - stolen_before) / (all_after - all_before) * 100.0;
    report.note(format!(
        "The hypervisor gave {part:.1} % of the processors' time to others meanwhile."
    ));
    println!("{}", about.headline());
    println!("{}", report.table());
    fs::write(json, format!("{:#}\n", report.json(&about)))?;
    println!("The same as JSON: {json}");
    Ok(ExitCode::SUCCESS)
}

fn size(report: &mut Report, program: &Path) {
    const SIZE: &str = "Size";
    let bytes = process::size(program).expect("the program");
    report
        .row(SIZE, "guest-pull", bytes / 1e6, "MB")
        .at_most(3.5);
    let mut tree = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    tree.args([
        "tree",
        "--locked",
        "--package",
        "guest-pull",
        "--prefix",
        "none",
    ]);
    let tree = output(tree.args(["--edges", "no-dev,no-build", "--no-dedupe"]));
    let mut crates: Vec<_> = tree
        .lines()
        .filter(|line| !line.contains("proc-macro"))
        .collect();
    crates.sort_unstable();
    crates.dedup();
    let row = report.row(SIZE, "crates in its tree", crates.len() as f64, "");
    row.at_most(90.0);
}

struct Bench {
    floors: PathBuf,
    pullers: Vec<Puller>,
    rounds: usize,
    memory: InMemory,
}

impl Bench {
    /// The seconds of a floor.
    fn floor(&self, what: &str, image: &Image) -> f64 {
        let text = output(Command::new(&self.floors).arg(what).args(&image.blobs));
        text.trim().parse().expect("seconds")
    }

    fn measure(&self, report: &mut Report, image: &Image, reference: &str) {
        let section = section(image);
        let is_small = image.compressed < MIB;
        let kind = match image.kind {
            Kind::Gzip => "inflate alone",
            Kind::Zstd => "zstd alone",
        };
        let mut alone = Times::default();
        let (mut digests, mut lz4) = (Times::default(), Times::default());
        let mut manifest = Times::default();
        let mut pulls: Vec<Vec<Pull>> = self.pullers.iter().map(|_| Vec::new()).collect();
        let mut errors = Vec::new();
        for round in 0..self.rounds {
            alone.0.push(self.floor("inflate", image));
            digests.0.push(self.floor("digests", image));
            lz4.0.push(self.floor("lz4", image));
            for (puller, pulls) in self.pullers.iter().zip(&mut pulls) {
                let is_ours = matches!(puller, Puller::GuestPull(_));
                // One that can't read the image can't in later rounds either.
                let cannot = round > 0 && pulls.is_empty();
                if !is_ours && (round >= PEERS_ROUNDS || cannot) {
                    continue;
                }
                match puller.pull(reference, &self.memory, false) {
                    Ok(pull) => pulls.push(pull),
                    Err(error) => {
                        errors.push(format!("{}, {}: {error}", image.name, puller.name()))
                    }
                }
                // Last, so that the program is in the page cache, as it is when it pulls again.
                if let Puller::GuestPull(program) = puller {
                    manifest.0.push(peers::inspect(program, reference));
                }
            }
        }
        // The report is read elsewhere, where the directory means nothing.
        let dir = self.memory.0.display().to_string();
        let without_place = |error: String| error.replace(&dir, "DIR");
        for error in errors {
            report.note(without_place(error));
        }
        // What else runs on the machine can only add to a floor, and a floor that is too high would flatter everything that is
        // compared with it. So the fastest run counts, and of the pulls the median.
        let (floor, digests, lz4) = (alone.least(), digests.least(), lz4.least());
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        // Several blobs are inflated on all processors, one on one.
        let work = floor * cores.min(image.blobs.len() as f64);
        let bound = floor.max((work + digests + lz4) / cores);
        report.row(section, kind, floor, "s");
        report.row(
            section,
            format!("{kind}, the fastest run"),
            alone.least(),
            "s",
        );
        report.row(section, "both digests, on one processor", digests, "s");
        report.row(section, "LZ4, on one processor", lz4, "s");
        let row = report.row(section, "these shared by all processors", bound, "s");
        row.against(kind, floor);
        let skopeo = self.pullers.iter().zip(&pulls);
        let skopeo = skopeo.filter(|(puller, _)| **puller == Puller::Skopeo);
        let skopeo = skopeo.filter(|(_, pulls)| !pulls.is_empty());
        let skopeo = skopeo.map(|(_, pulls)| Times::of(pulls).median()).next();
        for (puller, pulls) in self.pullers.iter().zip(&pulls) {
            let name = puller.name();
            let Some(first) = pulls.first() else {
                report.missing(Some(section), name, "cannot pull this image");
                continue;
            };
            let is_ours = matches!(puller, Puller::GuestPull(_));
            let mut times = Times::of(pulls);
            let (time, least) = (times.median(), times.least());
            let row = report.row(section, name, time, "s");
            if is_ours && is_small {
                row.at_most(0.06);
            }
            row.against(kind, floor);
            if is_ours && !is_small {
                row.at_most(if image.kind == Kind::Gzip { 1.35 } else { 1.6 });
                row.against("shared", bound);
            }
            if let Some(skopeo) = skopeo.filter(|_| *puller != Puller::Skopeo) {
                let row = row.against("skopeo + umoci", skopeo);
                if is_ours && !is_small {
                    row.at_most(0.25);
                }
            }
            let row = report.row(section, format!("{name}, the fastest run"), least, "s");
            row.against(kind, floor);
            if is_ours {
                let mut processor = Times(pulls.iter().map(|pull| pull.processor).collect());
                let each = processor.median() / cores;
                let name = format!("{name}, processor time on each");
                report
                    .row(section, name, each, "s")
                    .against("shared", bound);
            }
            let again: Vec<_> = pulls.iter().filter_map(|pull| pull.again).collect();
            if !again.is_empty() {
                let (again, manifest) = (Times(again).median(), manifest.median());
                report.row(section, format!("{name}, again"), again * 1e3, "ms");
                let after = (again - manifest) * 1e3;
                let row = report.row(
                    section,
                    format!("{name}, again, after the manifest"),
                    after,
                    "ms",
                );
                row.at_most(15.0);
            }
            // Threads meet differently in each run, so the largest peak of some counts.
            let mut peak = 0.0_f64;
            for _ in 0..if is_ours { LOOKS } else { 1 } {
                match puller.pull(reference, &self.memory, true) {
                    Ok(looked) => peak = peak.max(looked.peak),
                    Err(error) => {
                        report.note(without_place(format!("{}, {name}: {error}", image.name)));
                    }
                }
            }
            if peak > 0.0 {
                let row = report.row(section, format!("{name}, peak memory"), peak / MIB, "MiB");
                if is_ours {
                    row.at_most(30.0);
                }
            }
            let uncompressed = image.uncompressed / MIB;
            // Other files of this machine change more than a small image.
            if !is_small {
                let held = format!("{name}, held in memory");
                let row = report.row(section, held, first.held / MIB, "MiB");
                row.against("uncompressed", uncompressed);
                if is_ours {
                    row.at_most(0.65);
                }
            }
            let stored = format!("{name}, in files");
            let row = report.row(section, stored, first.stored / MIB, "MiB");
            row.against("uncompressed", uncompressed);
        }
    }
}

/// What an image is, for the table.
fn section(image: &Image) -> &'static str {
    let count = image.blobs.len();
    let text = format!(
        "{}: {:.1} MB {}, {:.1} MB uncompressed, {} files, {count} {}",
        image.name,
        image.compressed / 1e6,
        image.kind.name(),
        image.uncompressed / 1e6,
        number(image.files as f64),
        if count == 1 { "layer" } else { "layers" },
    );
    // The report keeps it as long as the program runs.
    Box::leak(text.into_boxed_str())
}

/// Seconds of several runs.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn of(pulls: &[Pull]) -> Self {
        Self(pulls.iter().map(|pull| pull.seconds).collect())
    }

    fn median(&mut self) -> f64 {
        median(&mut self.0)
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

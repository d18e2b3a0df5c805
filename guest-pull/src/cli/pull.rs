// SPDX-License-Identifier: Apache-2.0

//! `pull`: an image, into the store and to a mount.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use guest_pull::failure::{Failure, Kind};
use guest_pull::limits;
use guest_pull::mount::{self, By};
use guest_pull::pull::Event;
use guest_pull::store::{PullLayers, Store};
use guest_pull::until::Until;
use guest_pull::worker::confinement::Confinement;
use guest_pull::worker::{self, Service};
use guest_pull::writable;
use nix::unistd::geteuid;
use serde_json::json;

use crate::cli::progress::Progress;
use crate::cli::{Format, Source, address};

/// Pull an image's layers into the store, and mount it
///
/// Each layer becomes a read-only file system in a file of the store, and those stored already are not fetched again.
/// With --bundle, the image is mounted at DIR/rootfs, as kata-agent wants it; this needs root. What is written there goes
/// into DIR, or into the store if that is on a disk; `umount DIR/rootfs` ends it.
#[derive(Args)]
pub struct Pull {
    #[command(flatten)]
    source: Source,

    /// Where the layers are kept
    #[arg(long, value_name = "DIR", default_value = "/run/kata-containers/image")]
    store: PathBuf,

    /// Mount the image at DIR/rootfs
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,

    /// The daemon's socket, which has the keys of encrypted images [default: such images are refused]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    cdh_sock: Option<PathBuf>,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

impl Pull {
    /// A person who isn't root knows that some parts take root.
    fn log_confinement(confinement: &Confinement) {
        if geteuid().is_root() {
            worker::log_confinement(confinement);
        }
    }

    /// Pulls, mounts, and prints the layers.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        limits::set();
        let request = self.source.request()?;
        let store = Store::open(&self.store).context("the store of layers (--store)")?;
        store.sweep();
        // Writable layers are root's.
        if geteuid().is_root() {
            for error in writable::reclaim(&store) {
                eprintln!("guest-pull: a writable layer that nobody uses stays: {error}");
            }
        }
        let progress = Progress::new(self.format);
        let bytes = Cell::new(None);
        // The program itself, even if its file was replaced.
        let program = Path::new("/proc/self/exe");
        let pull_layers = RefCell::new(PullLayers::new(&store));
        let daemon = self.cdh_sock.as_deref();
        let service = Service {
            answer: &|question| self.source.answer(question, &pull_layers, daemon),
            tell: &|event| {
                if let Event::Started { bytes: all, .. } = event {
                    bytes.set(Some(all));
                }
                progress.tell(event);
            },
            confined: &|confinement| Self::log_confinement(confinement),
        };
        let pulled = worker::start(program, request, &Until::default(), &service);
        progress.end();
        let mut pull_layers = pull_layers.into_inner();
        let pulled = pulled.map_err(|mut failure| {
            pull_layers.give_back();
            if failure.kind == Kind::NoRoom {
                let room = store.shortage(bytes.get());
                let advice = format!("; {room}; take a larger disk (--store)");
                failure.message.push_str(&advice);
            }
            failure
        });
        let pulled = pulled.with_context(|| self.source.image.to_string())?;
        let layers = pull_layers.take(&pulled.layers)?;
        let files: Vec<_> = pulled.layers.iter().map(|id| store.path(id)).collect();
        let mut rootfs = None;
        match &self.bundle {
            Some(bundle) if geteuid().is_root() => {
                fs::create_dir_all(bundle).with_context(|| bundle.display().to_string())?;
                let mounted = mount::mount(&store, &layers, bundle, By::File, &|| Ok(()));
                mounted.map_err(Failure::from)?.keep();
                rootfs = Some(bundle.join("rootfs"));
            }
            Some(_) => eprintln!("guest-pull: not mounted: that needs root"),
            None => {}
        }
        match self.format {
            Format::Text => {
                println!("{}", pulled.manifest);
                for file in &files {
                    println!("{}", file.display());
                }
                if let Some(rootfs) = &rootfs {
                    println!("mounted at {}", rootfs.display());
                }
            }
            Format::Json => {
                let files: Vec<_> = files
                    .iter()
                    .map(|file| file.display().to_string())
                    .collect();
                let rootfs = rootfs.map(|rootfs| rootfs.display().to_string());
                println!(
                    "{}",
                    json!({"digest": pulled.manifest.to_string(), "layers": files, "rootfs": rootfs})
                );
            }
        }
        let mounted = self.bundle.is_none() || geteuid().is_root();
        Ok(match mounted {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

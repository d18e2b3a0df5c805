// SPDX-License-Identifier: Apache-2.0

//! The clients: each asks for images as kata-agent does, looks at the trees, and removes containers in any order.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use offline_fs_kbc_bench::client::receive;
use offline_fs_kbc_bench::wire;
use ttrpc::Code;

use crate::figures::RIGHT;
use crate::image::Image;
use crate::random::Random;
use crate::registry::lock;
use crate::tree::difference;
use crate::world::{BUNDLES, World, connect, log_file};

/// The clients' deadline. The slowest pull of a busy machine takes seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long a client waits for an answer: what the deadline allows, and some.
const PATIENCE: Duration = Duration::from_secs(130);

/// What is said of a worker or a mounter that was killed.
const ENDED: &str = "ended without ";

/// How many containers are there at once at most.
const MAX_CONTAINERS: usize = 12;

/// A container.
struct Container {
    bundle: PathBuf,
    image: Image,
    /// Whether it has written something.
    has_written: bool,
}

/// The containers of all clients.
#[derive(Default)]
pub struct Containers {
    all: Mutex<Vec<Container>>,
    /// How many there ever were.
    count: AtomicU64,
}

impl Containers {
    /// Removes any of them, if there is one.
    pub fn remove_one(&self, world: &World, random: &mut Random) -> bool {
        let container = {
            let mut all = lock(&self.all);
            if all.is_empty() {
                return false;
            }
            let at = random.below(all.len());
            all.swap_remove(at)
        };
        // Its layers may have been given up since.
        if !container.has_written {
            check(world, &container.bundle, &container.image, "later");
        }
        if let Err(error) = remove(&container.bundle) {
            let bundle = container.bundle.display();
            world
                .counts
                .fault(format!("{bundle} can't be removed: {error}"));
        }
        true
    }
}

/// Compares what is mounted with what should be.
fn check(world: &World, bundle: &Path, image: &Image, when: &str) -> bool {
    let name = &image.name;
    match difference(&bundle.join("rootfs"), &image.tree) {
        Ok(None) => return true,
        Ok(Some(how)) => world
            .counts
            .fault(format!("wrong tree of {name}, {when}: {how}")),
        Err(error) => world
            .counts
            .fault(format!("the tree of {name}, {when}: {error}")),
    }
    if let Err(error) = keep(image) {
        eprintln!("soak-pull: the layers of {name} can't be kept: {error}");
    }
    false
}

/// Keeps the layers of an image whose tree is wrong, the lowest first.
fn keep(image: &Image) -> io::Result<()> {
    let directory = log_file().with_extension("images").join(&image.name);
    fs::create_dir_all(&directory)?;
    for (number, layer) in image.layers.iter().enumerate() {
        fs::write(directory.join(format!("{number}.tar")), &*layer.blob)?;
    }
    Ok(())
}

/// What kata-agent does when a container is gone.
fn remove(bundle: &Path) -> io::Result<()> {
    umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH)?;
    fs::remove_dir_all(bundle)
}

/// Asks for images as long as the load goes on.
pub fn run(world: &World, containers: &Containers, mut random: Random) {
    let Ok(mut stream) = connect() else {
        world.counts.fault("no connection to the daemon".to_owned());
        return;
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    while world.goes_on() {
        let is_full = lock(&containers.all).len() >= MAX_CONTAINERS;
        if is_full || random.percent(40) {
            containers.remove_one(world, &mut random);
        } else if let Some(image) = world.registry.any(&mut random) {
            if let Err(error) = pull(world, containers, &mut stream, image, &mut random) {
                world
                    .counts
                    .fault(format!("no answer from the daemon: {error}"));
                return;
            }
        }
    }
}

/// Asks for an image, and looks at what comes of it.
///
/// # Errors
///
/// If the daemon does not answer.
pub fn pull(
    world: &World,
    containers: &Containers,
    stream: &mut UnixStream,
    image: Image,
    random: &mut Random,
) -> io::Result<()> {
    let number = containers.count.fetch_add(1, Ordering::Relaxed);
    let bundle = Path::new(BUNDLES).join(format!("c{number}"));
    fs::create_dir(&bundle)?;
    let is_missing = random.percent(3);
    let name = if is_missing { "no/such" } else { &image.name };
    let begin = Instant::now();
    let answer = ask(
        stream,
        &format!("{}/{name}:1", world.registry.address),
        &bundle,
    )?;
    let counts = &world.counts;
    if let Err((code, text)) = answer {
        refused(world, &image, is_missing, begin, code, &text);
        if is_mounted(&bundle)? {
            // Killed between the mount and the answer.
            match world.has_killed_since(begin) {
                true => counts.add("mounts that killed mounters left"),
                false => counts.fault(format!("{} is mounted after {text}", image.name)),
            }
            return remove(&bundle);
        }
        return fs::remove_dir_all(bundle);
    }
    if is_missing || image.is_broken {
        counts.fault(format!(
            "{name} is pulled, and has a broken layer or is missing"
        ));
        return remove(&bundle);
    }
    if check(world, &bundle, &image, "at first") {
        counts.add(RIGHT);
    }
    let has_written = random.percent(50);
    if has_written {
        fs::write(bundle.join("rootfs/written"), "by the container")?;
    }
    lock(&containers.all).push(Container {
        bundle,
        image,
        has_written,
    });
    Ok(())
}

/// Counts a refusal, by its cause. One without a cause is a fault.
fn refused(world: &World, image: &Image, is_missing: bool, begin: Instant, code: Code, text: &str) {
    let cause = match code {
        Code::NOT_FOUND if is_missing => Some("refused: no such image"),
        Code::RESOURCE_EXHAUSTED if world.was_small_since(begin) => Some("refused: no room"),
        _ if text.contains(ENDED) && world.has_killed_since(begin) => {
            Some("refused: a process was killed")
        }
        Code::INTERNAL if image.is_broken => Some("refused: a broken layer"),
        _ => None,
    };
    match cause {
        Some(cause) => world.counts.add(cause),
        None => world
            .counts
            .fault(format!("without a cause: {code:?}: {text}")),
    }
}

fn is_mounted(bundle: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let place = format!(" {}/rootfs ", bundle.display());
    Ok(mounts.contains(&place))
}

/// Sends kata-agent's request, and reads the answer.
fn ask(
    stream: &mut UnixStream,
    image: &str,
    bundle: &Path,
) -> io::Result<Result<(), (Code, String)>> {
    stream.write_all(&wire::pull_image(image, bundle, DEADLINE))?;
    wire::status(&receive(stream)?).map_err(io::Error::other)
}

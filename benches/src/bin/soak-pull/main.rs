// SPDX-License-Identifier: Apache-2.0

//! `make soak-pull`: pulls of random images by several clients for hours, through the daemon, with a registry that fails,
//! processes that are killed, and a store that has too little room now and then. Each tree is compared with what was put into
//! the image. Prints the counts, and fails if there was any fault.
//!
//! `soak-pull DAEMON GUEST_PULL SECONDS [SEED]`

mod client;
mod figures;
mod image;
mod processes;
mod random;
mod registry;
mod tree;
mod world;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::Containers;
use figures::Figures;
use image::Image;
use processes::Peaks;
use random::Random;
use registry::{Registry, lock};
use world::{Daemon, World, connect, log_file};

/// More clients than pulls that the daemon runs at once.
const CLIENTS: usize = 6;

/// How many images there are at first.
const IMAGES: usize = 20;

/// How often there is another one.
const NEW_IMAGE: Duration = Duration::from_secs(3);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [daemon, guest_pull, seconds, rest @ ..] = args.as_slice() else {
        return Err("soak-pull DAEMON GUEST_PULL SECONDS [SEED]".into());
    };
    let time = Duration::from_secs(seconds.parse()?);
    let seed = match rest.first() {
        Some(seed) => seed.parse()?,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    println!("seed           {seed}");
    let mut random = Random::new(seed);
    let registry = Registry::start(random.fork())?;
    let mut maker = Maker {
        random: random.fork(),
        count: 0,
        good: Vec::new(),
    };
    for _ in 0..IMAGES {
        registry.add(maker.next());
    }
    let world = World::new(registry)?;
    let daemon = Daemon::start(Path::new(daemon), Path::new(guest_pull))?;
    let (containers, mut figures) = (Containers::default(), Figures::default());
    // What is allocated at first use is there then.
    last(&world, &containers, &mut maker, &mut random)?;
    figures.start = processes::rested(daemon.pid());

    let start = Instant::now();
    let (peaks, workers, mounters) = (Peaks::default(), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let random = random.fork();
            scope.spawn(|| client::run(&world, &containers, random));
        }
        let [killing, resizing] = [random.fork(), random.fork()];
        scope.spawn(|| processes::watch(&world, daemon.pid(), &peaks));
        scope.spawn(|| {
            processes::kill_some(&world, daemon.pid(), killing, &workers, &mounters);
        });
        scope.spawn(|| processes::resize(&world, resizing));
        while start.elapsed() < time {
            thread::sleep(NEW_IMAGE.min(time));
            world.registry.add(maker.next());
        }
        world.halt();
    });
    figures.time = start.elapsed();
    world.resize(None)?;
    world.registry.behave();
    // It removes what killed ones left.
    last(&world, &containers, &mut maker, &mut random)?;
    for leak in processes::leaks(daemon.pid()) {
        world.counts.fault(leak);
    }
    figures.end = processes::rested(daemon.pid());
    figures.take(&world.counts);
    figures.peaks = *lock(&peaks.0);
    figures.workers_killed = workers.into_inner();
    figures.mounters_killed = mounters.into_inner();
    figures.failed = world.registry.failed.load(Ordering::Relaxed);
    figures.sent = world.registry.sent.load(Ordering::Relaxed);
    print!("{figures}");
    let faults = figures.all_faults();
    for fault in &faults {
        println!("FAULT: {fault}");
    }
    if faults.is_empty() {
        println!("soak-pull: nothing wrong");
        let _ = fs::remove_file(log_file());
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "the log of the daemon and of guest-pull: {}",
        log_file().display()
    );
    Ok(ExitCode::FAILURE)
}

/// Pulls a good image, and removes all containers.
fn last(
    world: &World,
    containers: &Containers,
    maker: &mut Maker,
    random: &mut Random,
) -> Result<(), Box<dyn Error>> {
    let image = loop {
        let image = maker.next();
        if !image.is_broken {
            break image;
        }
    };
    world.registry.add(image.clone());
    client::pull(world, containers, &mut connect()?, image, random)?;
    while containers.remove_one(world, random) {}
    Ok(())
}

/// Makes images, some over others.
struct Maker {
    random: Random,
    count: usize,
    good: Vec<Image>,
}

/// How many images others may be made over.
const BASES: usize = 8;

impl Maker {
    fn next(&mut self) -> Image {
        let name = format!("soak/image-{}", self.count);
        self.count += 1;
        let is_over = self.random.percent(75);
        let below = self.random.one_of(&self.good).filter(|_| is_over);
        let image = Image::over(below, name, &mut self.random.fork());
        if !image.is_broken {
            if self.good.len() >= BASES {
                self.good.remove(self.random.below(BASES));
            }
            self.good.push(image.clone());
        }
        image
    }
}

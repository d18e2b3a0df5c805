// SPDX-License-Identifier: Apache-2.0

//! `make soak`: mixed load, reloads, hostile peers and restarts for hours, against the daemon under the
//! unit's limits. Prints the counts, and fails if there was any fault.
//!
//! `soak DAEMON UNIT SECONDS`

mod figures;
mod load;
mod supervisor;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use figures::Figures;
use load::World;
use supervisor::Supervisor;

/// How many clients of each kind there are; a pod VM has fewer.
const CLIENTS: usize = 4;

/// How long the daemon is idle before it is measured: longer than the deadline for frames, so that all
/// connections of hostile peers are closed.
const REST: Duration = Duration::from_secs(2);

/// How many times it is restarted, alternately by SIGTERM and SIGKILL, in the first two thirds of the time.
/// In the last third, one process must endure the whole load.
const RESTARTS: u32 = 8;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [daemon, unit, seconds] = args.as_slice() else {
        return Err("soak DAEMON UNIT SECONDS".into());
    };
    let time = Duration::from_secs(seconds.parse()?);
    let world = Arc::new(World::new()?);
    let mut supervisor = Supervisor::new(PathBuf::from(daemon), unit, &world)?;
    supervisor.start()?;
    let mut figures = Figures::default();
    // One run of everything, so that whatever is allocated at first use is there.
    let warm = Instant::now() + REST;
    run(&world, &mut supervisor, &mut figures, warm, 0);
    world.errors.clear();
    figures.first = supervisor.rested();

    let start = Instant::now();
    run(
        &world,
        &mut supervisor,
        &mut figures,
        start + time * 2 / 3,
        RESTARTS,
    );
    // The last process, measured for the first time.
    thread::sleep(REST);
    figures.start = supervisor.rested();
    run(&world, &mut supervisor, &mut figures, start + time, 0);
    thread::sleep(REST);
    figures.end = supervisor.rested();
    supervisor.stop(true);
    figures.finish(&world, start.elapsed());
    print!("{figures}");
    let faults = figures.faults();
    for fault in &faults {
        println!("FAULT: {fault}");
    }
    if faults.is_empty() {
        println!("soak: nothing wrong");
        return Ok(ExitCode::SUCCESS);
    }
    println!("the daemon's log: {}", supervisor.keep_log().display());
    Ok(ExitCode::FAILURE)
}

/// The function of a thread, which runs as long as the load goes on.
type Job = fn(&World);

/// Runs the load until `end`, with this number of restarts.
fn run(
    world: &Arc<World>,
    supervisor: &mut Supervisor,
    figures: &mut Figures,
    end: Instant,
    restarts: u32,
) {
    world.go();
    let jobs: [(Job, usize); 4] = [
        (load::steady, CLIENTS),
        (load::brief, CLIENTS),
        (load::hostile, 2),
        (load::write, 1),
    ];
    let threads: Vec<_> = jobs
        .into_iter()
        .flat_map(|(job, count)| std::iter::repeat_n(job, count))
        .map(|job| {
            let world = Arc::clone(world);
            thread::spawn(move || job(&world))
        })
        .collect();
    let begin = Instant::now();
    let pause = (end - begin) / (restarts + 1);
    let mut done = 0;
    let mut reload = begin;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
        figures.peak = figures.peak.max(supervisor.peak());
        if done < restarts && begin.elapsed() > pause * (done + 1) {
            supervisor.restart(done % 2 == 0);
            done += 1;
            figures.restarts += 1;
        } else if let Some(how) = supervisor.ended() {
            world
                .errors
                .add(format!("the daemon ended by itself: {how}"));
            supervisor.restart(false);
        } else if reload.elapsed() > Duration::from_millis(700) {
            supervisor.reload();
            figures.reloads += 1;
            reload = Instant::now();
        }
    }
    world.halt();
    for thread in threads {
        if thread.join().is_err() {
            world.errors.add("a client of the soak panicked".to_owned());
        }
    }
    // After the load, the last content must be served.
    load::settled(world);
}

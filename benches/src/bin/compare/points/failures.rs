// SPDX-License-Identifier: Apache-2.0

//! What is said of a pull that fails, and what stays of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::networks::{CREDENTIAL, WITH_CREDENTIAL, unauthorized};
use super::{Point, World, login, plain, point, pulled};
use crate::front::Does;
use crate::subject::{
    BUNDLES, Connection, Hub, PATIENCE, Setting, mounts_below, rootfs, wait_within,
};
use crate::tree::noise;

const FAILURES: &str = "Pulls that fail";

/// How long something is waited for that some never do.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

pub fn points() -> Vec<Point> {
    vec![
        point(
            FAILURES,
            "wrong-password",
            "what is said of a wrong password",
            wrong_password,
        ),
        point(
            FAILURES,
            "no-login",
            "what is said where the login is missing",
            no_login,
        ),
        point(
            FAILURES,
            "missing",
            "what is said of an image that is not there",
            missing,
        ),
        point(
            FAILURES,
            "left",
            "what stays in the VM of a pull that failed",
            left,
        ),
        point(FAILURES, "gone", "the caller goes away during a pull", gone),
    ]
}

fn refused_login(world: &World, name: &str, credential: Option<&str>) -> String {
    let pushed = world.push_file(name, b"text");
    let front = world.front(|_| unauthorized());
    let resources = credential.map(|text| (CREDENTIAL, login(&front.address, text)));
    let with = if resources.is_some() {
        WITH_CREDENTIAL
    } else {
        ""
    };
    let hub = Hub::start(&Setting {
        image: format!("{with}{}", plain(&front.address)),
        resources: resources.into_iter().collect(),
        ..Setting::default()
    });
    pulled(&hub.pull(&format!("{}/{}", front.address, pushed.name), "c"))
}

fn wrong_password(world: &World) -> String {
    refused_login(world, "wrong-password", Some("robot:wrong"))
}

fn no_login(world: &World) -> String {
    refused_login(world, "no-login", None)
}

fn missing(world: &World) -> String {
    let address = &world.registry.address;
    let hub = Hub::start(&Setting {
        image: plain(address),
        ..Setting::default()
    });
    pulled(&hub.pull(&format!("{address}/missing:1"), "c"))
}

/// The bytes and the number of all files below a directory.
pub fn files_below(directory: &Path) -> (u64, usize) {
    let mut all = (0, 0);
    let mut next = vec![directory.to_owned()];
    while let Some(path) = next.pop() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            // What is mounted is counted where its layers are.
            let path = entry.path();
            let Ok(seen) = path.symlink_metadata() else {
                continue;
            };
            match seen.is_dir() {
                true if path.ends_with("rootfs") => {}
                true => next.push(path),
                false => {
                    all.0 += seen.len();
                    all.1 += 1;
                }
            }
        }
    }
    all
}

fn left(world: &World) -> String {
    let pushed = world.push_file("left", &noise(1 << 20, 4));
    let blob = pushed.blobs[0].clone();
    let front = world.front(move |asked| match asked.is_blob(&blob) {
        true => Does::Alter,
        false => Does::Forward,
    });
    let hub = Hub::start(&Setting {
        image: plain(&front.address),
        ..Setting::default()
    });
    let answer = hub.pull(&format!("{}/{}", front.address, pushed.name), "c");
    assert!(answer.is_err(), "a changed layer is accepted");
    let (bytes, files) = files_below(Path::new(BUNDLES));
    let mounts = mounts_below(BUNDLES).len();
    match (bytes, mounts) {
        (0, 0) => "no bytes and no mounts".to_owned(),
        _ => format!("{} KiB in {files} files, {mounts} mounts", bytes / 1024),
    }
}

fn gone(world: &World) -> String {
    let pushed = world.push_file("gone", &noise(1 << 20, 5));
    let blob = pushed.blobs[0].clone();
    let front = world.front(move |asked| match asked.is_blob(&blob) {
        true => Does::Stall(1000),
        false => Does::Forward,
    });
    let _hub = Hub::start(&Setting {
        image: plain(&front.address),
        ..Setting::default()
    });
    let mut connection = Connection::new();
    connection.ask_for_image(1, &format!("{}/{}", front.address, pushed.name), "c");
    assert!(
        front.wait_for_stall(PATIENCE).is_some(),
        "the layer is not asked for"
    );
    drop(connection);
    let has_ended = front.wait_for_end(LONG_ENOUGH);
    front.release();
    let root = rootfs("c").display().to_string();
    if has_ended && !mounts_below(BUNDLES).contains(&root) {
        return "the pull ends, and nothing is mounted".to_owned();
    }
    let is_mounted = wait_within(LONG_ENOUGH, || mounts_below(BUNDLES).contains(&root));
    match is_mounted {
        true => "the pull goes on, and the image is mounted for nobody".to_owned(),
        false => "the pull goes on".to_owned(),
    }
}

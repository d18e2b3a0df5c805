// SPDX-License-Identifier: Apache-2.0

//! Processes: what they may do, what they take, and whether one waits for another.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use offline_fs_kbc::proto::api::{GetResourceRequest, GetResourceResponse};
use offline_fs_kbc_bench::process::memory;
use protobuf::Message as _;

use super::failures::files_below;
use super::{Point, World, either, plain, point, pulled};
use crate::front::{Does, Front};
use crate::subject::{BUNDLES, Connection, Hub, PATIENCE, Setting, Subject, mounts_below, rootfs};
use crate::tree::{Layer, noise};

const PROCESSES: &str = "Processes";

/// How often an image is pulled to see what grows.
const PULLS: usize = 10;

/// What one container writes.
const WRITTEN: usize = 1 << 20;

pub fn points() -> Vec<Point> {
    let mut points = vec![
        point(
            PROCESSES,
            "parser",
            "the process that reads what the registry sends",
            parser,
        ),
        point(
            PROCESSES,
            "secret",
            "a secret is asked for while an image is pulled",
            secret,
        ),
        point(
            PROCESSES,
            "second",
            "a second image, while the first one's registry stalls",
            second,
        ),
        point(
            PROCESSES,
            "memory",
            "memory that ten images, one after another, leave in the process on `cdh.sock`",
            memory_after,
        ),
        point(
            PROCESSES,
            "containers",
            "room that nine removed containers leave, each of which wrote 1 MiB",
            containers,
        ),
        point(
            PROCESSES,
            "noexec",
            "a program of an image, where `/run` is mounted `noexec`",
            noexec,
        ),
    ];
    points.push(Point {
        is_figure: true,
        ..point(PROCESSES, "size", "size of the programs", size)
    });
    points
}

/// An image whose layer stalls, and the server that does it.
fn stalling(world: &World, name: &str) -> (Front, String) {
    let pushed = world.push_file(name, &noise(1 << 20, name.len() as u64 + 10));
    let blob = pushed.blobs[0].clone();
    let front = world.front(move |asked| match asked.is_blob(&blob) {
        true => Does::Stall(1000),
        false => Does::Forward,
    });
    let image = format!("{}/{}", front.address, pushed.name);
    (front, image)
}

/// The process that has a connection from this port of loopback.
fn holder(port: u16) -> Option<u32> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let row = table
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(&local))?;
    let socket = format!("socket:[{}]", row.split_whitespace().nth(9)?);
    let own = std::process::id();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let has = descriptors.any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|path| path.to_str() == Some(&socket))
        });
        (has && pid != own).then_some(pid)
    })
}

fn parser(world: &World) -> String {
    let (front, image) = stalling(world, "parser");
    let _hub = Hub::start(&Setting {
        image: plain(&front.address),
        ..Setting::default()
    });
    let mut connection = Connection::new();
    connection.ask_for_image(1, &image, "c");
    let port = front
        .wait_for_stall(PATIENCE)
        .expect("the layer is asked for");
    let pid = holder(port).expect("a process has the connection");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    front.release();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next())
            .unwrap_or_default()
    };
    let user = match field("Uid:") {
        "0" => "root".to_owned(),
        user => format!("user {user}"),
    };
    let capabilities = u64::from_str_radix(field("CapEff:"), 16)
        .expect("a number")
        .count_ones();
    let capabilities = match capabilities {
        0 => "no capabilities".to_owned(),
        count => format!("{count} capabilities"),
    };
    let filter = either(
        field("Seccomp:") == "2",
        "a list of system calls",
        "all system calls",
    );
    let gain = either(
        field("NoNewPrivs:") == "1",
        "can't get new privileges",
        "can get new privileges",
    );
    format!("{user}, {capabilities}, {filter}, {gain}")
}

fn secret(world: &World) -> String {
    let (front, image) = stalling(world, "secret");
    let _hub = Hub::start(&Setting {
        image: plain(&front.address),
        resources: vec![("default/secret/1", b"the secret".to_vec())],
        ..Setting::default()
    });
    let mut connection = Connection::new();
    connection.ask_for_image(1, &image, "c");
    assert!(
        front.wait_for_stall(PATIENCE).is_some(),
        "the layer is not asked for"
    );
    let request = GetResourceRequest {
        ResourcePath: "kbs:///default/secret/1".to_owned(),
        ..GetResourceRequest::default()
    };
    let request = request.write_to_bytes().expect("a message encodes");
    connection.send(3, "api.GetResourceService", "GetResource", request);
    let answer = connection.answer_within(3, PATIENCE / 2);
    front.release();
    let Some(Ok(payload)) = answer else {
        return "not answered until the pull is over".to_owned();
    };
    let answer = GetResourceResponse::parse_from_bytes(&payload).expect("an answer");
    either(
        answer.Resource == b"the secret",
        "answered at once",
        "another answer",
    )
}

fn second(world: &World) -> String {
    let (front, image) = stalling(world, "stalls");
    let pushed = world.push_file("second", b"text");
    let address = &world.registry.address;
    let hub = Hub::start(&Setting {
        image: format!("{}{}", plain(&front.address), plain(address)),
        ..Setting::default()
    });
    let mut connection = Connection::new();
    connection.ask_for_image(1, &image, "c1");
    assert!(
        front.wait_for_stall(PATIENCE).is_some(),
        "the layer is not asked for"
    );
    let mut other = Connection::new();
    other.ask_for_image(1, &format!("{address}/{}", pushed.name), "c2");
    let answer = other.answer_within(1, PATIENCE / 2);
    front.release();
    drop(hub);
    match answer {
        Some(answer) => pulled(&answer),
        None => "waits until the first is there".to_owned(),
    }
}

/// Pulls an image, and removes the container as kata-agent does.
fn come_and_go(hub: &Hub, image: &str, bundle: &str, written: usize) {
    let answer = hub.pull(image, bundle);
    assert!(answer.is_ok(), "{answer:?}");
    let root = rootfs(bundle);
    fs::write(root.join("written"), vec![1; written]).expect("a file of the container");
    umount2(&root, MntFlags::MNT_DETACH).expect("a mount");
    fs::remove_dir_all(Path::new(BUNDLES).join(bundle)).expect("a bundle");
}

fn memory_after(world: &World) -> String {
    let address = &world.registry.address;
    let images: Vec<_> = (0..PULLS)
        .map(|number| {
            let pushed = world.push_file(
                &format!("memory-{number}"),
                &noise(512 << 10, 100 + number as u64),
            );
            format!("{address}/{}", pushed.name)
        })
        .collect();
    let hub = Hub::start(&Setting {
        image: plain(address),
        ..Setting::default()
    });
    let before = memory(hub.pid()).anonymous;
    for image in &images {
        come_and_go(&hub, image, "c", 1);
    }
    let more = (memory(hub.pid()).anonymous - before) / 1024.0;
    match more < 1.0 {
        true => "less than 1 MiB".to_owned(),
        false => format!("{} MiB", more.round()),
    }
}

fn containers(world: &World) -> String {
    let pushed = world.push_file("containers", b"text");
    let address = &world.registry.address;
    let image = format!("{address}/{}", pushed.name);
    let hub = Hub::start(&Setting {
        image: plain(address),
        ..Setting::default()
    });
    come_and_go(&hub, &image, "c0", WRITTEN);
    let before = files_below(Path::new(BUNDLES)).0;
    for number in 1..PULLS {
        come_and_go(&hub, &image, &format!("c{number}"), WRITTEN);
    }
    let more = files_below(Path::new(BUNDLES)).0 - before;
    let mounts = mounts_below(BUNDLES).len();
    match (more >> 20, mounts) {
        (0, 0) => "none".to_owned(),
        (mib, mounts) => format!("{mib} MiB, {mounts} mounts"),
    }
}

fn noexec(world: &World) -> String {
    let layer = Layer::new().file("program", 0o755, b"#!/bin/sh\nexit 7\n");
    let pushed = world
        .registry
        .push("noexec", vec![layer], crate::tree::Packing::Gzip);
    let address = &world.registry.address;
    let hub = Hub::start(&Setting {
        image: plain(address),
        ..Setting::default()
    });
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("compare"), BUNDLES, Some("tmpfs"), flags, None::<&str>).expect("a mount");
    let answer = hub.pull(&format!("{address}/{}", pushed.name), "c");
    let seen = match &answer {
        Ok(_) => match std::process::Command::new(rootfs("c").join("program")).status() {
            Ok(status) if status.code() == Some(7) => "runs".to_owned(),
            _ => "does not run".to_owned(),
        },
        Err(_) => pulled(&answer),
    };
    drop(hub);
    seen
}

fn size(world: &World) -> String {
    let megabytes = |path: &Path| fs::metadata(path).expect("a program").len() as f64 / 1e6;
    match &world.subject {
        Subject::Ours { daemon, guest_pull } => {
            let (daemon, guest_pull) = (megabytes(daemon), megabytes(guest_pull));
            format!("{daemon:.1} MB, and {guest_pull:.1} MB for pulls")
        }
        Subject::Stock(hub) => format!("{:.1} MB", megabytes(hub)),
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Stores that are full: what goes, what stays, and what is said.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};
use ttrpc::Code;

use crate::caller::{Place, daemon, recorded, wait_until};
use crate::file_systems::FileSystem;
use crate::host::{Mounted, has_tool, is_root, listing, mount_layer, run, text, tool};
use crate::image::{Repository, archive, noise};
use crate::stand_in::{Answer, StandIn};
use crate::stored::{Images, assert_whole, files_of, names};

const MIB: usize = 1 << 20;

/// The file systems that a store may be on: in memory, and on a disk, with so much room.
fn file_systems(kibibytes: u64) -> [FileSystem; 2] {
    let memory = FileSystem::tmpfs(&format!("size={kibibytes}k"));
    [memory, FileSystem::ext4(kibibytes)]
}

/// Whether the test can make file systems.
fn can_mount() -> bool {
    is_root() && has_tool("MKFS_EXT4", "mkfs.ext4")
}

/// Where room is short, the stored layers go that nobody uses, the one that was used longest ago first, and no more than
/// are needed. An image that is mounted from its files, one that is mounted by a loop device, and what a running pull has,
/// stay; if nothing else is left, the pull fails, and says what it needs and what there is.
#[test]
fn unused_layers_go_first() {
    if !can_mount() {
        return;
    }
    // Three layers take 6, and another one is expected to take a little more than 5.
    for room in file_systems(11 * 1024) {
        let images = Images::of_sizes(&[&[2 * MIB][..]; 6]);
        let store = room.path.join("store");
        for number in 0..3 {
            images.pull(number, &store).unwrap();
        }
        // The first is used once more, so the second is the oldest.
        images.pull(0, &store).unwrap();
        images.pull(3, &store).unwrap();
        assert_eq!(images.stored(&store), [0, 2, 3]);
        images.pull(4, &store).unwrap();
        assert_eq!(images.stored(&store), [0, 3, 4]);
        assert_eq!(images.asked(0, 0), 1);
        // Two are used now, one in each way.
        let dir = tempfile::tempdir().unwrap();
        let mut mounting = images.command(0, &store);
        mounting.arg("--bundle").arg(dir.path().join("bundle"));
        run(&mut mounting);
        let overlay = Mounted(dir.path().join("bundle/rootfs"));
        let [layer, _] = files_of(&images.images[3].diff_ids[0]);
        let by_loop = mount_layer(&store.join("layers").join(layer), &dir.path().join("loop"));
        images.pull(5, &store).unwrap();
        assert_eq!(images.stored(&store), [0, 3, 5]);
        drop((overlay, by_loop));
        assert_whole(&store, "after all");
    }
}

/// A layer that is mounted from its file, by a loop device, or that another pull has, is not evicted, however short room
/// is. The pull that has no room fails, with its need and the room that there is.
#[test]
fn used_layers_stay() {
    if !can_mount() {
        return;
    }
    for room in file_systems(12 * 1024) {
        let mut repository = Repository::default();
        let of_noise = |seed, bytes| archive(&[(format!("file-{seed}"), noise(seed, bytes))]);
        let [first, second, third] = [1, 2, 3].map(|seed| of_noise(seed, 2 * MIB));
        let stalling = of_noise(4, MIB / 4);
        let held = repository.add(&[third.clone(), stalling]);
        let all = [first, second, third, of_noise(5, 9 * MIB)];
        let all = all.map(|layer| repository.add(&[layer]));
        let stalled = held.layers[1].clone();
        let registry = StandIn::start(move |asked| {
            let mut answer = repository.answer(&asked.path);
            if asked.path.ends_with(&stalled) {
                answer = answer.cut(1000);
                answer.stalls = true;
            }
            answer
        });
        let images = Images {
            registry,
            images: Vec::from(all),
        };
        let store = room.path.join("store");
        let dir = tempfile::tempdir().unwrap();
        for number in 0..3 {
            images.pull(number, &store).unwrap();
        }
        let mut mounting = images.command(0, &store);
        mounting.arg("--bundle").arg(dir.path().join("bundle"));
        run(&mut mounting);
        let overlay = Mounted(dir.path().join("bundle/rootfs"));
        let [layer, _] = files_of(&images.images[1].diff_ids[0]);
        let by_loop = mount_layer(&store.join("layers").join(layer), &dir.path().join("loop"));
        let holding = Images {
            registry: StandIn::start(|_| Answer::new(500, "")),
            images: vec![held],
        };
        let name = holding
            .name(0)
            .replace(&holding.registry.address, &images.registry.address);
        let mut command =
            crate::host::guest_pull(&["pull", "--plain-http", "--store", text(&store), &name]);
        let mut running = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_until("the second layer is asked for", || {
            let asked = images.registry.asked();
            asked
                .iter()
                .any(|asked| asked.path.ends_with(&holding.images[0].layers[1]))
        });
        let said = images.pull(3, &store).unwrap_err();
        running.kill().unwrap();
        running.wait().unwrap();
        for part in [
            "layer 1 of 1",
            "no room",
            "have 10 MiB in the registry",
            "about 19 MiB",
            text(&store),
            "MiB are free",
            "--store",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(images.stored(&store), [0, 1, 2], "{said}");
        let shown = fs::read(dir.path().join("bundle/rootfs/file-1")).unwrap();
        assert!(shown == noise(1, 2 * MIB));
        drop((overlay, by_loop));
        // Nobody uses them any more. The kernel and the killed pull's worker may take a moment to let go of them, and there is
        // room beside the new layer for one that is used until then.
        wait_until("the layers are unused", || images.pull(3, &store).is_ok());
        let stored = images.stored(&store);
        assert!(stored.len() <= 2 && stored.contains(&3), "{stored:?}");
        assert_whole(&store, "at the end");
    }
}

/// A manifest that says a layer is larger than all that the store can give has no stored layer evicted: any registry can say
/// so of any image. One that may be true has.
#[test]
fn a_size_that_can_not_fit_costs_no_layer() {
    if !can_mount() {
        return;
    }
    let mut repository = Repository::default();
    let of_noise = |seed| archive(&[(format!("file-{seed}"), noise(seed, 2 * MIB))]);
    let [first, second] = [1, 2].map(|seed| repository.add(&[of_noise(seed)]));
    let mut says = |size: usize| {
        let mut image = repository.add(&[of_noise(3)]);
        let change = |manifest: &mut Value| manifest["layers"][0]["size"] = json!(size);
        image.descriptor = repository.add_manifest(&image, change);
        image
    };
    // Beside the layer that is mounted, there are less than 10 MiB in all.
    let liars = [1 << 40, 11 * MIB, 9 * MIB].map(&mut says);
    let mut all = vec![first, second];
    all.extend(liars);
    let images = Images {
        registry: StandIn::start(move |asked| repository.answer(&asked.path)),
        images: all,
    };
    for room in file_systems(12 * 1024) {
        let store = room.path.join("store");
        let dir = tempfile::tempdir().unwrap();
        let mut mounting = images.command(0, &store);
        mounting.arg("--bundle").arg(dir.path().join("bundle"));
        run(&mut mounting);
        let overlay = Mounted(dir.path().join("bundle/rootfs"));
        images.pull(1, &store).unwrap();
        for liar in [2, 3] {
            let said = images.pull(liar, &store).unwrap_err();
            assert_eq!(names(&store).len(), 4, "{said}");
        }
        let said = images.pull(4, &store).unwrap_err();
        assert_eq!(names(&store).len(), 2, "{said}");
        assert_whole(&store, "at the end");
        drop(overlay);
    }
}

/// A layer that becomes larger than its blob promises is made again when unused layers have given their room; until then
/// they stay.
#[test]
fn a_layer_that_outgrows_the_guess_is_made_again() {
    if !can_mount() {
        return;
    }
    for room in file_systems(8 * 1024) {
        // Each 64 KiB of this take two blocks of 4 KiB in the layer, and almost nothing in the blob.
        let same = noise(3, 4096).repeat(9216);
        let same = archive(&[("same".to_owned(), same)]);
        let layers = [1, 2].map(|seed| vec![archive(&[("file".to_owned(), noise(seed, 2 * MIB))])]);
        let [first, second] = layers;
        let images = Images::of(&[first, second, vec![same]]);
        let store = room.path.join("store");
        for number in 0..2 {
            images.pull(number, &store).unwrap();
        }
        assert_eq!(images.stored(&store), [0, 1]);
        images.pull(2, &store).unwrap();
        assert_eq!(images.asked(2, 0), 2);
        assert!(images.stored(&store).contains(&2));
        assert_whole(&store, "at the end");
    }
}

/// The layers of the image itself that are stored are not evicted for the others of it.
#[test]
fn the_image_keeps_its_own_layers() {
    if !can_mount() {
        return;
    }
    let archives: Vec<_> = (1..6)
        .map(|seed| archive(&[(format!("file-{seed}"), noise(seed, MIB))]))
        .collect();
    let upper = archives[1..].to_vec();
    let images = Images::of(&[
        upper,
        archives,
        vec![archive(&[("x".to_owned(), noise(9, 3 * MIB / 4))])],
    ]);
    let room = FileSystem::tmpfs("size=7m");
    let store = room.path.join("store");
    images.pull(0, &store).unwrap();
    images.pull(2, &store).unwrap();
    // 5 of 7 MiB are taken, and the first layer is expected to take more than 3. It gets the room of the other image.
    images.pull(1, &store).unwrap();
    for layer in 0..4 {
        assert_eq!(images.asked(0, layer), 1, "{layer}");
    }
}

/// Files run out before bytes do: unused layers go too, and the error says so where that doesn't help.
#[test]
fn inodes_run_out() {
    if !can_mount() {
        return;
    }
    // The root, the directory of layers, and the files of two stored layers and of one that is made.
    let images = Images::of_sizes(&[&[5000][..]; 4]);
    for files in 6..14 {
        let room = FileSystem::tmpfs(&format!("size=16m,nr_inodes={files}"));
        let store = &room.path;
        let results: Vec<_> = (0..4).map(|number| images.pull(number, store)).collect();
        assert_whole(store, "files");
        let stored = images.stored(store);
        assert_eq!(stored.last(), Some(&3), "{files}: {results:?}");
        assert!(results.iter().all(Result::is_ok), "{files}: {results:?}");
        assert_eq!(stored.len() as u64, ((files - 6) / 2 + 1).min(4), "{files}");
    }
    let room = FileSystem::tmpfs("size=16m,nr_inodes=5");
    let said = images.pull(0, &room.path).unwrap_err();
    assert!(said.contains("(inodes)"), "{said}");
    assert_whole(&room.path, "no files");
    assert_eq!(room.used().1, 2);
}

/// Whatever size a store has, a pull ends right, or says that there is no room, with the layer; the store has whole layers
/// and nothing else then, and nothing else takes room.
#[test]
fn stores_of_any_size() {
    if !can_mount() {
        return;
    }
    let images = Images::of_sizes(&[&[MIB / 4, MIB / 2, 100_000, MIB / 4]]);
    let plenty = FileSystem::tmpfs("size=64m");
    let empty = plenty.used();
    let store = plenty.path.join("store");
    images.pull(0, &store).unwrap();
    let needed = (plenty.used().0 - empty.0).div_ceil(1024);
    let sizes = (1..24).map(|part| needed * part / 20 + 64);
    let mut rooms: Vec<_> = sizes
        .map(|size| FileSystem::tmpfs(&format!("size={size}k")))
        .collect();
    rooms.extend([1, 5, 10, 15, 19, 22, 25].map(|part| FileSystem::ext4(needed * part / 20 + 64)));
    let mut ends = [0; 2];
    for room in rooms {
        let before = room.used();
        let store = room.path.join("store");
        let result = images.pull(0, &store);
        assert_whole(&store, text(&room.path));
        for name in names(&store).iter().filter(|name| name.ends_with(".erofs")) {
            let file = store.join("layers").join(name);
            run(tool("FSCK_EROFS", "fsck.erofs").arg(file));
        }
        ends[usize::from(result.is_ok())] += 1;
        match result {
            Ok(()) => assert_eq!(images.stored(&store), [0]),
            Err(said) => {
                let is_said = ["of 4 (sha256:", "no room: ", "MiB are free"];
                assert!(is_said.iter().all(|part| said.contains(part)), "{said}");
                // Nothing is left that has no name either.
                let stored = names(&store);
                fs::remove_dir_all(&store).unwrap();
                rustix::fs::sync();
                let (bytes, files) = room.used();
                assert_eq!(files, before.1, "{stored:?}");
                assert!(bytes <= before.0 + 64 * 1024, "{bytes} {before:?}");
            }
        }
    }
    assert!(ends.iter().all(|count| *count > 3), "{ends:?}");
}

/// A small pull succeeds beside one that fills the store and fails, as often as that happens.
#[test]
fn a_small_pull_beside_one_without_room() {
    if !can_mount() {
        return;
    }
    let mut sizes: Vec<&[usize]> = vec![&[6 * MIB]];
    sizes.extend([&[100_000, 50_000][..]; 8]);
    let images = Images::of_sizes(&sizes);
    for room in file_systems(5 * 1024) {
        let store = room.path.join("store");
        for number in 1..sizes.len() {
            let asked = images.asked(0, 0);
            thread::scope(|scope| {
                let failing = scope.spawn(|| images.pull(0, &store).unwrap_err());
                wait_until("the large layer is asked for", || {
                    images.asked(0, 0) > asked
                });
                images.pull(number, &store).unwrap();
                let said = failing.join().unwrap();
                assert!(said.contains("no room"), "{said}");
            });
        }
        assert_whole(&store, "at the end");
    }
}

/// The caller is told all of it: the layer, the need, the room, and what to do; and gets the image when there is room.
#[test]
fn the_caller_is_told_need_and_room() {
    if !is_root() {
        return;
    }
    let images = Images::of_sizes(&[&[MIB, 3 * MIB], &[1000]]);
    let place = Place::new(false);
    let address = &images.registry.address;
    place.configure(&format!(
        "[image]\n[[image.registry_config.registry]]\nlocation = \"{address}\"\ninsecure = true\n"
    ));
    let room = FileSystem::tmpfs("size=3m");
    let ask = |number: usize, store: &Path| {
        daemon(&place, Err(Code::NOT_FOUND));
        let mut serve = place.serve_into(Some(store));
        serve.send(&recorded(&images.name(number), &place.bundle()));
        serve.answer()
    };
    let answer = ask(0, &room.path);
    assert_eq!(answer.code(), Code::RESOURCE_EXHAUSTED, "{}", answer.text());
    for part in [
        "layer 2 of 2 (sha256:",
        "no room: the image's layers have 5 MiB in the registry, and take about 9 MiB as file systems",
        text(&room.path),
        "of 3 MiB are free",
        "give the VM more memory, or set work_dir in [image]",
    ] {
        assert!(answer.text().contains(part), "{part}: {}", answer.text());
    }
    assert_whole(&room.path, "after the failure");
    // The store can't be written.
    let read_only = FileSystem::tmpfs("size=1m,ro");
    let answer = ask(1, &read_only.path);
    for part in ["Read-only file system", "set work_dir in [image]"] {
        assert!(answer.text().contains(part), "{part}: {}", answer.text());
    }
    let remount = ["mount", "-o", "remount,size=32m"];
    run(Command::new(remount[0]).args(&remount[1..]).arg(&room.path));
    let answer = ask(0, &room.path);
    assert_eq!(answer.code(), Code::OK, "{}", answer.text());
    assert!(listing(&place.rootfs()).len() > 2);
    drop(Mounted(place.rootfs()));
}

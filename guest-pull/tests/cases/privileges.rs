// SPDX-License-Identifier: Apache-2.0

//! What the mounter keeps of root's privileges, and what containers can do in their files by that.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;

use guest_pull::privileges::KEPT;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, makedev, mknodat, setxattr};
use ttrpc::Code;

use crate::caller::{Place, daemon, recorded};
use crate::host::{Mounted, PATIENCE, has_tool, is_root, output, tool};
use crate::image::Repository;
use crate::raw_tar::{DIRECTORY, Entry, FILE, LINK, SYMLINK, archive};
use crate::stand_in::{Answer, StandIn};
use crate::unit::{SERVICE, setting};

/// A server of an image of these layers.
fn serve(layers: &[Vec<u8>]) -> StandIn {
    let repository = Repository::of(layers).0;
    StandIn::start(move |asked| repository.answer(&asked.path))
}

/// Lets the server be asked without TLS.
fn configure(place: &Place, server: &StandIn) {
    place.configure(&format!(
        "[image]\n[[image.registry_config.registry]]\nlocation = '{}'\ninsecure = true\n",
        server.address
    ));
}

/// Pulls `a:1` of the server for the daemon, and mounts it.
fn pulled(place: &Place, server: &StandIn) -> Mounted {
    daemon(place, Err(Code::NOT_FOUND));
    configure(place, server);
    let image = format!("{}/a:1", server.address);
    let answer = place.ask(&recorded(&image, &place.bundle()));
    answer.digest();
    Mounted(place.rootfs())
}

/// The unit leaves the same capabilities as the program does by itself.
#[test]
fn the_unit_has_the_same_capabilities() {
    let unit = setting(SERVICE, "CapabilityBoundingSet");
    let unit: BTreeSet<_> = unit.iter().map(String::as_str).collect();
    let kept: BTreeSet<_> = KEPT.iter().map(|(name, _)| *name).collect();
    assert_eq!(unit, kept);
}

/// Whoever starts it, the mounter has no other capability and can't get one, from the moment on at which it reads the
/// request.
#[test]
fn the_mounter_gives_up_the_rest() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let (asked, wait) = channel();
    let stalled = StandIn::start(move |_| {
        // The test looks at the first alone.
        let _ = asked.send(());
        Answer {
            stalls: true,
            length: Some(2),
            ..Answer::new(200, "{")
        }
    });
    daemon(&place, Err(Code::NOT_FOUND));
    configure(&place, &stalled);
    let mut serve = place.serve();
    serve.send(&recorded(
        &format!("{}/a:1", stalled.address),
        &place.bundle(),
    ));
    wait.recv_timeout(PATIENCE).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", serve.child.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let had = own.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let had = u64::from_str_radix(had.unwrap().trim(), 16).unwrap();
    let kept = KEPT.iter().map(|(_, one)| one.bits()).sum::<u64>() & had;
    for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
        let found = u64::from_str_radix(&field(name), 16).unwrap();
        assert_eq!(found, kept, "{name} {found:x} {kept:x}");
    }
    for name in ["CapInh:", "CapAmb:"] {
        assert_eq!(field(name), "0000000000000000", "{name}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
}

/// Copies of lower layers' files get all their attributes, whoever owns the directories and files.
#[test]
fn copies_are_whole() {
    if !is_root() {
        return;
    }
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let lower = archive(&[
        Entry::new(DIRECTORY, "theirs/").mode(0o700).owner(7, 8),
        Entry::file("theirs/secret", "content")
            .mode(0o600)
            .owner(7, 8),
        Entry::file("program", "content").mode(0o755),
        Entry::link(SYMLINK, "link", "nowhere"),
    ]);
    let upper = archive(&[
        Entry::link(LINK, "theirs/copy", "theirs/secret")
            .mode(0o2770)
            .owner(9, 10),
        Entry::link(LINK, "theirs/program", "program")
            .mode(0o6755)
            .owner(7, 8)
            .pax(&[("SCHILY.xattr.security.capability", capability)]),
        Entry::link(LINK, "theirs/link", "link").owner(7, 8),
    ]);
    let place = Place::new(false);
    let _mounted = pulled(&place, &serve(&[lower, upper]));
    let theirs = place.rootfs().join("theirs");
    for (name, mode, owner) in [
        ("", 0o700, (7, 8)),
        ("copy", 0o2770, (9, 10)),
        ("program", 0o6755, (7, 8)),
        ("link", 0o777, (7, 8)),
    ] {
        let found = fs::symlink_metadata(theirs.join(name)).unwrap();
        assert_eq!(found.mode() & 0o7777, mode, "{name}");
        assert_eq!((found.uid(), found.gid()), owner, "{name}");
    }
    assert_eq!(fs::read(theirs.join("copy")).unwrap(), b"content");
    let mut value = [0; 64];
    let length = getxattr(theirs.join("program"), "security.capability", &mut value);
    assert_eq!(&value[..length.unwrap()], capability);
}

/// Does something with a path, and says how that failed.
type Deed = fn(&Path) -> Result<(), String>;

fn command(program: &mut Command, args: &[&str], path: &Path) -> Result<(), String> {
    match output(program.args(args).arg(path)) {
        (_, _, Some(0)) => Ok(()),
        (_, stderr, _) => Err(stderr),
    }
}

/// What a container with all capabilities may do in its files, it can do: the overlay does it with the rights of the mounter.
/// What fails on the file system of the writable layer itself does not count.
#[test]
fn containers_keep_their_capabilities_in_their_files() {
    if !is_root() || !has_tool("SETCAP", "setcap") || !has_tool("CHATTR", "chattr") {
        return;
    }
    let place = Place::new(false);
    let layer = archive(&[
        Entry::new(DIRECTORY, "theirs/").mode(0o700).owner(7, 8),
        Entry::file("theirs/file", "content")
            .mode(0o4600)
            .owner(7, 8),
        Entry::new(FILE, "theirs/gone").owner(7, 8),
    ]);
    let _mounted = pulled(&place, &serve(&[layer]));
    let deeds: [(&str, Deed); 9] = [
        ("a device", |at| {
            let (kind, mode) = (FileType::CharacterDevice, Mode::RUSR);
            let made = mknodat(CWD, at.join("null"), kind, mode, makedev(1, 3));
            made.map_err(|error| error.to_string())
        }),
        ("another owner", |at| {
            command(&mut Command::new("chown"), &["11:12"], &at.join("file"))
        }),
        ("a file of another owner", |at| {
            fs::write(at.join("file"), "changed").map_err(|error| error.to_string())
        }),
        ("a mode that runs as the group", |at| {
            let path = at.join("file");
            let mode = fs::Permissions::from_mode(0o6755);
            fs::set_permissions(&path, mode).map_err(|error| error.to_string())?;
            let found = fs::metadata(&path).map_err(|error| error.to_string())?;
            let has = found.mode() & 0o7777 == 0o6755;
            has.then_some(()).ok_or(format!("{:o}", found.mode()))
        }),
        ("file capabilities", |at| {
            command(
                &mut tool("SETCAP", "setcap"),
                &["cap_net_raw+ep"],
                &at.join("file"),
            )
        }),
        ("a file that is gone", |at| {
            fs::remove_file(at.join("gone")).map_err(|error| error.to_string())
        }),
        ("a socket", |at| {
            let bound = UnixListener::bind(at.join("socket"));
            bound.map(drop).map_err(|error| error.to_string())
        }),
        ("trusted attributes", |at| {
            let set = setxattr(
                at.join("file"),
                "trusted.test",
                b"value",
                XattrFlags::empty(),
            );
            set.map_err(|error| error.to_string())
        }),
        ("an immutable file", |at| {
            command(&mut tool("CHATTR", "chattr"), &["+i"], &at.join("file"))?;
            command(&mut tool("CHATTR", "chattr"), &["-i"], &at.join("file"))
        }),
    ];
    // The same without an overlay.
    let beside = place.at("beside");
    fs::create_dir(&beside).unwrap();
    for name in ["file", "gone"] {
        fs::write(beside.join(name), "content").unwrap();
    }
    let theirs = place.rootfs().join("theirs");
    for (what, deed) in deeds {
        match deed(&beside) {
            Ok(()) => assert_eq!(deed(&theirs), Ok(()), "{what}"),
            // Some file systems have no immutable files.
            Err(why) => {
                let must = std::env::var_os("CI").is_some() && what != "an immutable file";
                assert!(!must, "{what}: {why}");
                eprintln!("not looked at: {what}: {why}");
            }
        }
    }
}

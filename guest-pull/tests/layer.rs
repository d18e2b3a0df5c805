// SPDX-License-Identifier: Apache-2.0

//! Archives made into file systems: compared with GNU tar's extraction of the same archive, and what an archive says that
//! GNU tar has no word for.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/erofs_reader.rs"]
mod erofs_reader;
#[path = "support/host.rs"]
mod host;

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use guest_pull::layer::{self, Summary};
use tar::{EntryType, Header};

use host::{assert_equal, is_root, listing, mount_layer, run};

/// A tree with what the formats of archives write in ways of their own.
fn make_tree(root: &Path) {
    let write = |path: &str, content: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("a", b"a file");
    write("empty", b"");
    write("large", &b"line\n".repeat(300_000));
    // A path of ustar's two fields, and where the format can, longer ones.
    write(&format!("{}/{}", "d".repeat(90), "f".repeat(90)), b"x");
    write("deep/er/and/deeper", b"x");
    fs::hard_link(root.join("a"), root.join("deep/a-too")).unwrap();
    symlink("../a", root.join("deep/link")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    for (at, text) in [(100_000, "one"), (1_500_000, "two"), (2_999_000, "end")] {
        use std::os::unix::fs::FileExt as _;
        sparse.write_all_at(text.as_bytes(), at).unwrap();
    }
    let at = |name: &str| root.join(name);
    run(Command::new("mkfifo").arg(at("pipe")));
    run(Command::new("mknod").arg(at("tty")).args(["c", "5", "0"]));
    run(Command::new("mknod").arg(at("disk")).args(["b", "8", "17"]));
    run(Command::new("chmod").arg("6711").arg(at("empty")));
    run(Command::new("chown")
        .args(["--no-dereference", "1234:5678"])
        .arg(at("deep/link")));
    run(Command::new("chown").arg("60000:60001").arg(at("large")));
    run(Command::new("touch")
        .args(["--date", "@1500000000.123456789"])
        .arg(at("large")));
}

/// Each of GNU tar's formats, and its forms of files with holes where the format has one of its own, gives what GNU tar
/// extracts of it.
#[test]
fn an_archive_comes_out_as_gnu_tar_extracts_it() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: String| dir.path().join(name);
    let tree = at("tree".to_owned());
    make_tree(&tree);
    let long = "long ".repeat(40);
    let cases = [
        (
            "v7",
            &[
                "--exclude=disk",
                "--exclude=tty",
                "--exclude=pipe",
                "--exclude=ddd*",
            ][..],
        ),
        ("ustar", &[]),
        ("gnu", &["--sparse"]),
        ("posix", &["--xattrs", "--xattrs-include=*"]),
        ("posix", &["--sparse", "--sparse-version=0.0"]),
        ("posix", &["--sparse", "--sparse-version=0.1"]),
        ("posix", &["--sparse", "--sparse-version=1.0"]),
    ];
    for (number, (format, more)) in cases.into_iter().enumerate() {
        if format == "gnu" {
            // What the formats above can't hold.
            fs::create_dir(tree.join(&long)).unwrap();
            fs::write(tree.join(&long).join(&long), "x").unwrap();
            symlink(&long, tree.join("long-link")).unwrap();
            run(Command::new("chown")
                .arg("3000000:4000000")
                .arg(tree.join("deep")));
        }
        if number == 3 {
            let attribute = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(tree.join("a"), "user.note", b"a value\0of bytes", attribute)
                .unwrap();
        }
        let [archive, theirs, file, ours] =
            ["tar", "theirs", "erofs", "ours"].map(|name| at(format!("{number}-{format}.{name}")));
        fs::create_dir(&theirs).unwrap();
        let mut create = Command::new("tar");
        create
            .args(["--format", format, "--numeric-owner", "-C"])
            .arg(&tree);
        run(create.args(more).arg("-cf").arg(&archive).arg("."));
        let mut extract = Command::new("tar");
        extract.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-C"]);
        run(extract.arg(&theirs).arg("-xpf").arg(&archive));
        let archive = File::open(&archive).unwrap();
        let scratch = tempfile::tempfile().unwrap();
        layer::convert(
            archive,
            File::create(&file).unwrap(),
            scratch,
            true,
            [1; 16],
        )
        .unwrap();
        let _mounted = mount_layer(&file, &ours);
        assert_equal(&listing(&ours), &listing(&theirs));
    }
}

/// An entry: its type, its name, and the target of a link or the content of a file.
type Entry<'e> = (EntryType, &'e str, &'e str);

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Link;

fn convert(entries: &[Entry<'_>], file: &Path) -> Result<Summary, layer::Error> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, name, text) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        if *kind == FILE {
            header.set_size(text.len() as u64);
            archive
                .append_data(&mut header, name, text.as_bytes())
                .unwrap();
        } else {
            header.set_size(0);
            archive.append_link(&mut header, name, text).unwrap();
        }
    }
    let archive = archive.into_inner().unwrap();
    let scratch = tempfile::tempfile().unwrap();
    layer::convert(
        &archive[..],
        File::create(file).unwrap(),
        scratch,
        true,
        [1; 16],
    )
}

/// A hard link may come before its target, and before a link to it; a later entry of its name takes its place. What leads
/// to nothing is an error that names both.
#[test]
fn hard_links_may_come_before_their_targets() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [file, at] = ["erofs", "mounted"].map(|name| dir.path().join(name));
    let entries = [
        (LINK, "d/first", "d/target"),
        (LINK, "d/to-first", "d/first"),
        (LINK, "d/to-second", "d/second"),
        (LINK, "d/second", "d/target"),
        (LINK, "d/replaced", "d/target"),
        (FILE, "d/was", "gone"),
        (LINK, "d/was", "d/target"),
        (FILE, "d/target", "the target"),
        (FILE, "d/replaced", "replaced"),
    ];
    convert(&entries, &file).unwrap();
    let mounted = mount_layer(&file, &at);
    let inode = |name: &str| fs::metadata(at.join("d").join(name)).unwrap().ino();
    for name in ["first", "to-first", "second", "to-second", "was"] {
        assert_eq!(inode(name), inode("target"), "{name}");
    }
    assert_eq!(fs::metadata(at.join("d/target")).unwrap().nlink(), 6);
    assert_eq!(fs::read_to_string(at.join("d/was")).unwrap(), "the target");
    assert_eq!(
        fs::read_to_string(at.join("d/replaced")).unwrap(),
        "replaced"
    );
    drop(mounted);
    // They may be in a lower layer.
    for (entries, links) in [
        (&[(LINK, "a", "missing/b")][..], &[("/a", "/missing/b")][..]),
        (
            &[(LINK, "a", "b"), (LINK, "b", "a")],
            &[("/a", "/b"), ("/b", "/b")],
        ),
    ] {
        let found = convert(entries, &file).unwrap().links;
        let found: Vec<_> = found
            .iter()
            .map(|(path, target)| [path, target].map(|it| std::str::from_utf8(it).unwrap()))
            .collect();
        let links: Vec<_> = links
            .iter()
            .map(|(path, target)| [*path, *target])
            .collect();
        assert_eq!(found, links);
    }
    for (entries, named) in [
        (&[(LINK, "a", "a")][..], "itself"),
        (&[(LINK, "a", "d"), (FILE, "d/inner", "")], "d"),
        (&[(LINK, "a", "../b"), (FILE, "b", "")], "../b"),
    ] {
        let error = convert(entries, &file).unwrap_err().to_string();
        assert!(
            error.starts_with("entry ") && error.contains(&format!(" to {named}")),
            "{error}"
        );
    }
    let link = |number: usize| format!("link{number}");
    let names: Vec<_> = (0..20_000).map(link).collect();
    let entries: Vec<_> = names
        .iter()
        .map(|name| (LINK, name.as_str(), "x"))
        .collect();
    let error = convert(&entries, &file).unwrap_err().to_string();
    assert!(error.contains("more than 10000 hard links"), "{error}");
}

/// What was in a directory is gone with it, once a file has taken its place: a hard link to a name that comes only later,
/// and what is taken away there. Neither counts as a name of the file that it would lead to.
#[test]
fn what_waits_for_the_end_goes_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("erofs");
    let entries = [
        (LINK, "d/l", "x"),
        (FILE, "d/.wh.gone", ""),
        (LINK, "e/f/l", "x"),
        (FILE, "d", "a file"),
        (FILE, "e", "a file"),
        (FILE, "x", "the target"),
        (LINK, "later", "d-link"),
        (LINK, "d-link", "x"),
    ];
    let summary = convert(&entries, &file).unwrap();
    assert!(summary.links.is_empty(), "{:?}", summary.links);
    // It compares the number of links with the names that there are.
    let tree = erofs_reader::read(&fs::read(&file).unwrap()).unwrap();
    let names: Vec<_> = tree
        .keys()
        .map(|name| name.escape_ascii().to_string())
        .collect();
    assert_eq!(names, ["/", "/d", "/d-link", "/e", "/later", "/x"]);
    assert_eq!(tree[&b"/x"[..]].links, 3);
}

/// umoci writes what is gone from a directory also where a file has taken the directory's place: the file stays.
#[test]
fn a_file_stays_when_something_below_it_is_taken_away() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [file, at] = ["erofs", "mounted"].map(|name| dir.path().join(name));
    let entries = [
        (FILE, "etc/skel", "a file"),
        (FILE, "etc/skel/.wh.profile", ""),
        (FILE, "etc/skel/.wh..wh..opq", ""),
        (FILE, "etc/skel/deeper/.wh.x", ""),
        (FILE, "etc/.wh.gone", ""),
    ];
    convert(&entries, &file).unwrap();
    let _mounted = mount_layer(&file, &at);
    assert_eq!(fs::read_to_string(at.join("etc/skel")).unwrap(), "a file");
    let gone = fs::metadata(at.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
}

// SPDX-License-Identifier: Apache-2.0

//! What archives say of files: compared with what containerd extracts of the same image. The image has a directory for
//! each test, and is extracted once.

use std::sync::OnceLock;

use crate::archive_oracle::{Both, Listing, both};
use crate::archives_headers;
use crate::containerd::Containerd;
use crate::host::{TIME, is_root};
use crate::raw_tar::{CHARACTER, DIRECTORY, DISK, Entry, FILE, LINK, PIPE, SYMLINK, archive};

/// What a test has in the lower and in the upper layer.
pub type Layers = [Vec<Entry>; 2];

/// The layers of each test.
const ALL: [fn() -> Layers; 10] = [
    whiteouts,
    directories_without_entries,
    replaced,
    duplicates,
    hard_links,
    modes,
    capabilities,
    acls,
    attributes,
    devices,
];

/// The image of all tests here and in `archives_headers`, and after it layers whose ends are odd.
fn image() -> &'static Both {
    static BOTH: OnceLock<Both> = OnceLock::new();
    BOTH.get_or_init(|| {
        let mut layers = [Vec::new(), Vec::new()];
        for make in ALL.iter().chain(&archives_headers::ALL) {
            for (all, more) in layers.iter_mut().zip(make()) {
                all.extend(more);
            }
        }
        let mut archives: Vec<_> = layers.iter().map(|entries| archive(entries)).collect();
        archives.extend(archives_headers::odd_ends());
        both(&Containerd::start(), "all", &archives)
    })
}

/// Fails unless what is below a name of the root is as containerd has it, with these entries among it. The times of the
/// directories in `untimed`, which have no entries of their own, are not compared.
pub fn assert_as_containerd(top: &str, expected: &[&str], untimed: &[&str]) {
    if is_root() {
        image().assert_same(top, expected, untimed);
    }
}

fn whiteouts() -> Layers {
    let lower = vec![
        Entry::directory("whiteouts/"),
        Entry::file("whiteouts/gone", "x"),
        Entry::file("whiteouts/back", "before"),
        Entry::directory("whiteouts/directory/"),
        Entry::file("whiteouts/directory/inner", "x"),
        Entry::directory("whiteouts/opaque/"),
        Entry::file("whiteouts/opaque/lower", "x"),
        Entry::file("whiteouts/.wh..wh.plnk", "x"),
    ];
    let upper = vec![
        Entry::directory("whiteouts/"),
        Entry::new(FILE, "whiteouts/.wh.gone"),
        Entry::new(FILE, "whiteouts/.wh.back"),
        Entry::file("whiteouts/back", "after"),
        Entry::directory("whiteouts/.wh.directory/"),
        Entry::file("whiteouts/.wh.nothing", "with a content"),
        Entry::directory("whiteouts/opaque/"),
        Entry::file("whiteouts/opaque/before", "x"),
        Entry::new(FILE, "whiteouts/opaque/.wh..wh..opq"),
        Entry::file("whiteouts/opaque/after", "x"),
    ];
    [lower, upper]
}

/// What a layer takes away of lower ones is gone, and what it has itself is there, before the whiteout of a directory's
/// whole content and after it.
#[test]
fn whiteouts_take_away_what_lower_layers_have() {
    assert_as_containerd("whiteouts", &["back", "opaque/before", "opaque/after"], &[]);
}

fn directories_without_entries() -> Layers {
    let lower = vec![
        Entry::directory("implied/"),
        Entry::directory("implied/lower/")
            .mode(0o2711)
            .owner(5, 6)
            .pax(&[("SCHILY.xattr.user.note", b"kept")]),
    ];
    let lower = [
        lower,
        vec![Entry::directory("implied/opaque/").mode(0o700).owner(7, 8)],
    ]
    .concat();
    let upper = vec![
        Entry::new(FILE, "implied/opaque/.wh..wh..opq"),
        Entry::file("implied/opaque/file", "x"),
        Entry::file("implied/lower/file", "x"),
        Entry::file("implied/new/file", "x"),
    ];
    [lower, upper]
}

/// A directory that only its files tell of has mode, owner and attributes of the lower layer's; 0755 where there is none.
#[test]
fn directories_without_entries_are_as_the_lower_layers_have_them() {
    let expected = ["lower", "lower/file", "new", "new/file", "opaque/file"];
    assert_as_containerd("implied", &expected, &["", "/lower", "/new", "/opaque"]);
}

fn replaced() -> Layers {
    let lower = vec![
        Entry::directory("replaced/"),
        Entry::file("replaced/file-to-directory", "x"),
        Entry::directory("replaced/directory-to-file/"),
        Entry::file("replaced/directory-to-file/inner", "x"),
        Entry::directory("replaced/directory-to-link/"),
        Entry::file("replaced/directory-to-link/inner", "x"),
        Entry::link(SYMLINK, "replaced/link-to-directory", "target"),
        Entry::directory("replaced/target/"),
    ];
    let upper = vec![
        Entry::directory("replaced/"),
        Entry::directory("replaced/file-to-directory/"),
        Entry::file("replaced/file-to-directory/inner", "x"),
        Entry::file("replaced/directory-to-file", "x"),
        Entry::link(SYMLINK, "replaced/directory-to-link", "target"),
        Entry::directory("replaced/link-to-directory/"),
        Entry::file("replaced/link-to-directory/inner", "x"),
        // The same in one layer.
        Entry::file("replaced/here", "x"),
        Entry::directory("replaced/here/"),
        Entry::file("replaced/here/inner", "x"),
        Entry::directory("replaced/there/"),
        Entry::file("replaced/there/inner", "x"),
        Entry::file("replaced/there", "x"),
        // Entries below links: in the layer, whatever the link says.
        Entry::directory("replaced/way/"),
        Entry::link(SYMLINK, "replaced/link", "way"),
        Entry::file("replaced/link/below", "x"),
        Entry::directory("replaced/way/"),
        Entry::link(SYMLINK, "replaced/outside", "../../../../../replaced/way"),
        Entry::file("replaced/outside/within", "x"),
        Entry::directory("replaced/way/"),
        Entry::link(SYMLINK, "replaced/nowhere", "new"),
        Entry::file("replaced/nowhere/made", "x"),
        Entry::directory("replaced/new/"),
    ];
    [lower, upper]
}

/// Files become directories, and directories files or links; what is below a link goes where it leads, and never out of the
/// root.
#[test]
fn entries_replace_others_of_any_kind_and_links_lead_nowhere_else() {
    let expected = [
        "file-to-directory/inner",
        "directory-to-file",
        "directory-to-link",
        "link-to-directory/inner",
        "here/inner",
        "there",
        "way/below",
        "way/within",
        "new/made",
    ];
    assert_as_containerd("replaced", &expected, &[]);
}

fn duplicates() -> Layers {
    let upper = vec![
        Entry::directory("duplicates/").mode(0o700),
        Entry::file("duplicates/file", "first").mode(0o600),
        Entry::file("duplicates/file", "the second").mode(0o640),
        Entry::file("duplicates/linked", "both"),
        Entry::link(LINK, "duplicates/link", "duplicates/linked"),
        Entry::file("duplicates/linked", "alone"),
        Entry::directory("duplicates/").mode(0o711).owner(1, 2),
    ];
    [Vec::new(), upper]
}

/// Of entries with one name the last counts; what was linked to the first stays.
#[test]
fn of_duplicates_in_one_layer_the_last_wins() {
    assert_as_containerd("duplicates", &["file", "link", "linked"], &[]);
}

fn hard_links() -> Layers {
    let link = |name: &str, target: &str| Entry::link(LINK, name, target);
    let upper = vec![
        Entry::directory("links/"),
        Entry::file("links/setuid", "x").mode(0o4755).owner(7, 8),
        link("links/setuid-too", "links/setuid")
            .mode(0o4755)
            .owner(7, 8),
        link("links/chain", "links/setuid-too")
            .mode(0o4711)
            .owner(9, 8),
        Entry::file("links/noted", "x").pax(&[("SCHILY.xattr.user.note", b"kept")]),
        link("links/noted-too", "/links/./noted"),
        Entry::link(SYMLINK, "links/symbolic", "noted"),
        link("links/symbolic-too", "links/symbolic"),
        Entry::directory("links/directory/"),
        Entry::link(SYMLINK, "links/to-directory", "directory"),
        Entry::file("links/directory/inner", "x"),
        link("links/through", "links/to-directory/inner"),
        Entry::directory("links/directory/"),
        // The length of a link's content counts for nothing.
        link("links/long", "links/noted").number(crate::raw_tar::SIZE, 5000),
    ];
    [Vec::new(), upper]
}

/// Hard links have the inode of their target, and what the link's entry says of it.
#[test]
fn hard_links_share_an_inode() {
    let expected = [
        "setuid-too",
        "chain",
        "noted-too",
        "symbolic-too",
        "through",
        "long",
    ];
    assert_as_containerd("links", &expected, &[]);
}

fn modes() -> Layers {
    let upper = vec![
        Entry::directory("modes/").mode(0o1777),
        Entry::file("modes/setuid", "x").mode(0o4755).owner(1000, 0),
        Entry::file("modes/setgid", "x").mode(0o2711).owner(0, 1000),
        Entry::file("modes/all", "x").mode(0o7777).owner(1, 1),
        Entry::file("modes/none", "x").mode(0),
        // With the bits of the type, as some tools write it.
        Entry::file("modes/with-type", "x").mode(0o100_640),
        Entry::file("modes/far", "x").base_256(crate::raw_tar::MODE, 0o7_777_777_750),
    ];
    [Vec::new(), upper]
}

/// Modes are kept, with setuid, setgid and sticky; other bits are not.
#[test]
fn setuid_setgid_and_sticky_bits_are_kept() {
    let expected = ["setuid", "setgid", "all", "none", "with-type", "far"];
    assert_as_containerd("modes", &expected, &[]);
}

/// File capabilities of the second version, with this in the place of the permitted ones.
fn capability(permitted: u32) -> Vec<u8> {
    let mut value = 0x0200_0001_u32.to_le_bytes().to_vec();
    value.extend(permitted.to_le_bytes());
    value.resize(20, 0);
    value
}

fn capabilities() -> Layers {
    let key = "SCHILY.xattr.security.capability";
    let capable = |name: &str, value: &[u8]| {
        Entry::file(format!("capabilities/{name}"), "x").pax(&[(key, value)])
    };
    let mut third = capability(0x400);
    third[3] = 3;
    third.extend(1000_u32.to_le_bytes());
    let upper = vec![
        Entry::directory("capabilities/"),
        capable("bind", &capability(0x400)).mode(0o755),
        // The byte is a line break, which PAX headers have at the end of records too.
        capable("line-break", &capability(0x0a0a_0a0a)).mode(0o755),
        capable("of-a-namespace", &third).owner(1000, 1000),
    ];
    [Vec::new(), upper]
}

/// File capabilities are kept, whatever bytes they have.
#[test]
fn file_capabilities_are_kept() {
    let expected = ["bind", "line-break", "of-a-namespace"];
    assert_as_containerd("capabilities", &expected, &[]);
}

/// The kernel's form of an ACL.
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn acls() -> Layers {
    const NONE: u32 = u32::MAX;
    let value = acl(&[
        (1, 6, NONE),
        (2, 7, 1000),
        (4, 4, NONE),
        (0x10, 7, NONE),
        (0x20, 4, NONE),
    ]);
    let of_all = acl(&[
        (1, 7, NONE),
        (2, 7, 1000),
        (4, 7, NONE),
        (0x10, 7, NONE),
        (0x20, 7, NONE),
    ]);
    let plain = acl(&[(1, 7, NONE), (4, 7, NONE), (0x20, 7, NONE)]);
    let access = "SCHILY.xattr.system.posix_acl_access";
    let upper = vec![
        // The mode counts, also that of a link's entry.
        Entry::directory("acls-and-modes/"),
        Entry::directory("acls-and-modes/directory/")
            .mode(0o640)
            .pax(&[(access, &of_all)]),
        Entry::file("acls-and-modes/file", "x")
            .mode(0o4640)
            .pax(&[(access, &of_all)]),
        Entry::file("acls-and-modes/linked", "x")
            .mode(0o640)
            .pax(&[(access, &of_all)]),
        Entry::link(LINK, "acls-and-modes/link", "acls-and-modes/linked").mode(0o751),
        Entry::file("acls-and-modes/plain", "x")
            .mode(0o640)
            .pax(&[(access, &plain)]),
        Entry::file("acls-and-modes/none", "x").pax(&[(access, &acl(&[]))]),
        Entry::file("acls-and-modes/other-version", "x").pax(&[(access, b"\x03\0\0\0x")]),
        Entry::new(PIPE, "acls-and-modes/pipe").pax(&[(access, &of_all)]),
        Entry::link(SYMLINK, "acls-and-modes/symbolic", "x").pax(&[(access, &of_all)]),
        Entry::directory("acls/").mode(0o674).pax(&[
            ("SCHILY.xattr.system.posix_acl_access", &value),
            ("SCHILY.xattr.system.posix_acl_default", &value),
        ]),
        Entry::file("acls/file", "x")
            .mode(0o674)
            .pax(&[("SCHILY.xattr.system.posix_acl_access", &value)]),
        // star's own form, which containerd does not read. In a directory without an ACL that it would inherit.
        Entry::directory("acls-of-star/"),
        Entry::file("acls-of-star/file", "x").pax(&[(
            "SCHILY.acl.access",
            b"user::rw-,user:1000:rwx,group::r--,mask::rwx,other::r--",
        )]),
    ];
    [Vec::new(), upper]
}

/// ACLs in the kernel's form are kept; those in words mean nothing, as for containerd.
#[test]
fn posix_acls_are_kept() {
    assert_as_containerd("acls", &["file"], &[]);
    assert_as_containerd("acls-of-star", &["file"], &[]);
    let expected = ["directory", "file", "link", "plain", "none", "pipe"];
    assert_as_containerd("acls-and-modes", &expected, &[]);
}

fn attributes() -> Layers {
    let note = ("SCHILY.xattr.user.note", &b"a\0value\n of bytes"[..]);
    let long_trusted = &*format!("SCHILY.xattr.trusted.{}", "x".repeat(248));
    let upper = vec![
        Entry::directory("attributes/").pax(&[note]),
        Entry::file("attributes/file", "x").pax(&[
            note,
            ("SCHILY.xattr.security.other", b"x"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.empty", b""),
            // Names that no attribute can have, of a class that containerd leaves out.
            ("SCHILY.xattr.trusted.", b"x"),
            (long_trusted, b"x"),
            // Of those that come twice, the last counts.
            ("SCHILY.xattr.user.twice", b"first"),
            ("SCHILY.xattr.user.twice", b"second"),
            // Of no class that the kernel knows, and in the keys of other tools.
            ("SCHILY.xattr.other.class", b"x"),
            ("LIBARCHIVE.xattr.user.libarchive", b"eA=="),
            ("RHT.security.selinux", b"x"),
            ("comment", b"nothing"),
        ]),
        Entry::link(SYMLINK, "attributes/link", "file").pax(&[("SCHILY.xattr.security.l", b"x")]),
        // Only files and directories have those of users.
        Entry::link(SYMLINK, "attributes/user", "file").pax(&[note]),
        Entry::new(PIPE, "attributes/pipe").pax(&[note]),
        // A second entry of a directory adds to the first.
        Entry::directory("attributes/twice/").pax(&[note, ("SCHILY.xattr.user.a", b"1")]),
        Entry::directory("attributes/twice/")
            .mode(0o700)
            .pax(&[("SCHILY.xattr.user.a", b"2")]),
    ];
    [Vec::new(), upper]
}

/// Extended attributes of files and directories are kept byte by byte, but for overlayfs' own.
#[test]
fn user_and_security_attributes_are_kept() {
    assert_as_containerd(
        "attributes",
        &["file", "link", "user", "pipe", "twice"],
        &[],
    );
}

fn devices() -> Layers {
    let upper = vec![
        Entry::directory("devices/"),
        Entry::new(CHARACTER, "devices/null")
            .mode(0o666)
            .device(1, 3),
        Entry::new(CHARACTER, "devices/large").device(4095, 0o3_777_777),
        Entry::new(DISK, "devices/disk")
            .mode(0o660)
            .owner(0, 6)
            .device(8, 17),
        Entry::new(PIPE, "devices/pipe").mode(0o600),
        // A length says nothing of what has no content.
        Entry::new(PIPE, "devices/long").number(crate::raw_tar::SIZE, 1024),
        Entry::new(DIRECTORY, "devices/directory/").number(crate::raw_tar::SIZE, 4096),
    ];
    [Vec::new(), upper]
}

/// Devices and pipes are made as they are.
#[test]
fn devices_and_pipes_are_made() {
    let expected = ["null", "large", "disk", "pipe", "long", "directory"];
    assert_as_containerd("devices", &expected, &[]);
}

/// A layer that is listed twice is stacked twice: A, B, A is as the list says.
#[test]
fn a_layer_may_be_listed_twice() {
    if !is_root() {
        return;
    }
    let a = archive(&[
        Entry::directory("twice/"),
        Entry::file("twice/of-a", "a"),
        Entry::file("twice/of-both", "a"),
        Entry::new(FILE, "twice/.wh.of-b"),
    ]);
    let b = archive(&[
        Entry::directory("twice/").mode(0o700),
        Entry::file("twice/of-b", "b"),
        Entry::file("twice/of-both", "b"),
        Entry::new(FILE, "twice/.wh.of-a"),
    ]);
    let both = both(&Containerd::start(), "twice", &[a.clone(), b, a]);
    both.assert_same("twice", &["of-a", "of-both"], &[]);
}

/// A layer can hide all that is below it, as the image specification says. containerd writes the attribute for that too, but
/// overlayfs does not look at it on the root of a layer.
#[test]
fn a_whiteout_at_the_root_hides_all_lower_layers() {
    if !is_root() {
        return;
    }
    let lower = archive(&[Entry::directory("gone/"), Entry::file("gone/file", "x")]);
    let upper = archive(&[
        Entry::directory("kept/"),
        Entry::file("kept/file", "x"),
        Entry::new(FILE, ".wh..wh..opq"),
    ]);
    let both = both(&Containerd::start(), "hidden", &[lower, upper]);
    both.assert_same("kept", &["file"], &[]);
    assert!(!both.ours.contains_key("b'gone'"), "{:?}", both.ours);
    assert!(both.theirs.contains_key("b'gone'"), "{:?}", both.theirs);
}

/// The root directory is root's, with mode 0755, whatever its entry says, and has the entry's time, where containerd has that
/// of its extraction.
#[test]
fn the_root_directorys_own_entry_says_its_time_alone() {
    if !is_root() {
        return;
    }
    let note = [("SCHILY.xattr.user.note", &b"x"[..])];
    let root = Entry::directory("./").mode(0o700).owner(5, 6).pax(&note);
    let both = both(&Containerd::start(), "alone", &[archive(&[root])]);
    let (ours, theirs) = (&both.ours["b'.'"], &both.theirs["b'.'"]);
    assert_eq!(ours[..TIME], theirs[..TIME]);
    assert_eq!(ours[TIME + 1..], theirs[TIME + 1..]);
    assert_eq!(ours[TIME], "1500000000000000000");
}

/// Two things differ from containerd on purpose. `trusted.` attributes, which it drops, are kept, since programs with the
/// right to read them may have set them; and the label of SELinux, which it keeps where the machine has no SELinux, is of the
/// machine that made the image. A third can't be seen in an archive: files that are extracted into a directory with a default
/// ACL inherit it.
#[test]
fn trusted_attributes_and_labels_differ_from_containerd() {
    if !is_root() {
        return;
    }
    let of_all = acl(&[
        (1, 7, !0),
        (2, 7, 1000),
        (4, 7, !0),
        (0x10, 7, !0),
        (0x20, 7, !0),
    ]);
    let entries = [
        Entry::file("file", "x").pax(&[
            ("SCHILY.xattr.trusted.x", b"y"),
            ("SCHILY.xattr.security.selinux", b"z"),
        ]),
        Entry::directory("directory/").pax(&[("SCHILY.xattr.system.posix_acl_default", &of_all)]),
        Entry::file("directory/file", "x"),
    ];
    let both = both(&Containerd::start(), "differ", &[archive(&entries)]);
    let last = |listing: &Listing, name: &str| listing[name].last().unwrap().clone();
    let ours = last(&both.ours, "b'file'");
    assert!(
        ours.contains("trusted.x") && !ours.contains("selinux"),
        "{ours}"
    );
    let theirs = last(&both.theirs, "b'file'");
    assert!(
        !theirs.contains("trusted.x") && theirs.contains("selinux"),
        "{theirs}"
    );
    let inherited = |listing| last(listing, "b'directory/file'").contains("posix_acl_access");
    assert!(!inherited(&both.ours) && inherited(&both.theirs));
}

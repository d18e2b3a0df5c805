// SPDX-License-Identifier: Apache-2.0

//! kata's extension image as `make extension` makes it: a disk with a file system and the hashes by which it is verified.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

use crate::support::both::guest_pull;
use crate::support::daemon::{output, program};
use crate::support::kata_agent::{EXTENSION, pause_bundle, plan};

const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/extension/build");

/// Where Debian has the tools, and users do not look.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap())
}

/// Whether this machine has the tools. With `CI` it must.
fn has_tools() -> bool {
    let tools = ["mkfs.erofs", "fsck.erofs", "veritysetup", "sfdisk"];
    let path = path();
    let is_there = |tool: &&str| {
        path.split(':')
            .any(|directory| Path::new(directory).join(tool).exists())
    };
    let missing: Vec<_> = tools.iter().filter(|tool| !is_there(tool)).collect();
    assert!(
        missing.is_empty() || std::env::var_os("CI").is_none(),
        "this test needs {missing:?}"
    );
    missing.is_empty()
}

/// What a tool says, which must succeed.
fn tool(name: &str, args: &[&str]) -> String {
    let (stdout, stderr, code) = output(Command::new(name).env("PATH", path()).args(args));
    assert_eq!(code, Some(0), "{name} {args:?}: {stdout}{stderr}");
    stdout
}

/// The build with these words after the programs, below this directory.
fn build(directory: &Path, words: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::new(BUILD);
    command.env("PATH", path()).current_dir(directory);
    output(command.arg(program()).arg(guest_pull()).args(words))
}

/// The image, and what dm-verity needs to know of it.
struct Image {
    directory: tempfile::TempDir,
    params: BTreeMap<String, String>,
}

impl Image {
    /// Builds it from `bundle` in this directory.
    fn build(directory: tempfile::TempDir) -> Self {
        let (stdout, stderr, code) = build(directory.path(), &["bundle", "out/image"]);
        assert_eq!((stderr.as_str(), code), ("", Some(0)));
        let line = stdout.strip_suffix("\"\n").unwrap();
        let value = line.strip_prefix("verity_params = \"").unwrap();
        let file = directory.path().join("out/root_hash_coco-extension.txt");
        assert_eq!(fs::read_to_string(file).unwrap(), format!("{value}\n"));
        let pairs = value.split(',').map(|pair| pair.split_once('=').unwrap());
        let params = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let params: BTreeMap<_, _> = params.collect();
        let names: Vec<_> = params.keys().map(String::as_str).collect();
        let known = [
            "data_block_size",
            "data_blocks",
            "hash_block_size",
            "root_hash",
            "salt",
        ];
        assert_eq!(names, known);
        Self { directory, params }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.directory.path().join("out/image")).unwrap()
    }

    /// The partitions as files, as the kernel finds them: by the entries of the table in the first sector.
    fn partitions(&self, disk: &[u8]) -> [PathBuf; 2] {
        assert_eq!(disk[510..512], [0x55, 0xaa]);
        let number = |at: usize| {
            let bytes = disk[at..at + 4].try_into().unwrap();
            usize::try_from(u32::from_le_bytes(bytes)).unwrap() * 512
        };
        for unused in [446 + 32, 446 + 48] {
            assert_eq!(disk[unused..unused + 16], [0; 16]);
        }
        [0, 1].map(|index| {
            let entry = 446 + 16 * index;
            let (start, size) = (number(entry + 8), number(entry + 12));
            let file = self.directory.path().join(format!("partition{index}"));
            fs::write(&file, &disk[start..start + size]).unwrap();
            file
        })
    }

    /// Whether each block of the disk's first partition has the hash that the second one and the parameters say.
    fn is_verified(&self, disk: &[u8]) -> bool {
        let [data, hashes] = self.partitions(disk);
        let mut command = Command::new("veritysetup");
        command.env("PATH", path()).arg("verify");
        command.args([data, hashes]).arg(&self.params["root_hash"]);
        command.arg("--no-superblock");
        for name in ["hash_block_size", "data_block_size", "data_blocks", "salt"] {
            command.arg(format!(
                "--{}={}",
                name.replace('_', "-"),
                self.params[name]
            ));
        }
        output(&mut command).2 == Some(0)
    }

    /// The files of the image.
    fn extracted(&self) -> PathBuf {
        let [data, _] = self.partitions(&self.bytes());
        let into = self.directory.path().join("files");
        let extract = format!("--extract={}", into.display());
        let data = data.display().to_string();
        tool("fsck.erofs", &[&extract, "--preserve", &data]);
        into
    }
}

/// A directory with a pause bundle.
fn with_bundle() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    pause_bundle(&directory.path().join("bundle"));
    directory
}

/// Two builds of the same files are the same bits, whatever the order in which the files were made, their times and the
/// caller's umask are.
#[test]
fn it_is_the_same_each_time() {
    if !has_tools() {
        return;
    }
    let (first, second) = (with_bundle(), tempfile::tempdir().unwrap());
    let copy = "umask 077; mkdir bundle bundle/rootfs; for file in umoci.json rootfs/pause config.json; \
                do cp --preserve=mode \"$0/bundle/$file\" bundle/$file; done; chmod 755 bundle/rootfs; \
                touch -d @1 bundle/config.json";
    let mut shell = Command::new("sh");
    shell.args(["-c", copy]).arg(first.path());
    let (_, stderr, code) = output(shell.current_dir(second.path()));
    assert_eq!(code, Some(0), "{stderr}");
    let images = [first, second].map(Image::build);
    assert!(images[0].bytes() == images[1].bytes());
    assert_eq!(images[0].params, images[1].params);
}

/// dm-verity finds a change of any byte, in the file system and in its hashes. Another salt makes another root hash.
#[test]
fn a_changed_byte_is_found() {
    if !has_tools() {
        return;
    }
    let image = Image::build(with_bundle());
    let disk = image.bytes();
    assert!(image.is_verified(&disk));
    let [data, _] = image.partitions(&disk);
    tool("fsck.erofs", &[data.to_str().unwrap()]);
    let size = usize::try_from(fs::metadata(&data).unwrap().len()).unwrap();
    assert_eq!(
        size.to_string(),
        (image.params["data_blocks"].parse::<usize>().unwrap() * 4096).to_string()
    );
    let first = 1 << 20;
    for at in [first, first + size / 2, first + size - 1, first + size] {
        let mut changed = disk.clone();
        changed[at] ^= 1;
        assert!(!image.is_verified(&changed), "the byte {at} was changed");
    }

    let directory = with_bundle();
    let words = ["bundle", "image", "00ff"];
    let (stdout, stderr, code) = build(directory.path(), &words);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains(",salt=00ff,"), "{stdout}");
    assert!(!stdout.contains(&image.params["root_hash"]), "{stdout}");
}

/// The files: the manifest names programs that are there, for each level and variant, and what kata-agent reads besides.
/// The pause bundle has the owners and modes that it had.
#[test]
fn what_the_manifest_names_is_there() {
    if !has_tools() {
        return;
    }
    let directory = with_bundle();
    let is_root = geteuid().is_root();
    let pause = directory.path().join("bundle/rootfs/pause");
    // Without set-user-ID, which fsck.erofs loses when it sets the owner.
    fs::set_permissions(&pause, fs::Permissions::from_mode(0o1510)).unwrap();
    if is_root {
        chown(&pause, Some(65_535), Some(7)).unwrap();
    }
    symlink("pause", directory.path().join("bundle/rootfs/link")).unwrap();
    let image = Image::build(directory);
    let files = image.extracted();
    let inside = |path: &str| {
        files.join(
            path.strip_prefix(EXTENSION)
                .unwrap()
                .trim_start_matches('/'),
        )
    };
    for variables in [&[][..], &["attester_variant=nvidia"]] {
        for process in plan(Some(&files), variables) {
            let path = inside(&process.path);
            let mode = fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o755, "{}", process.path);
            let found = fs::read(&path).unwrap();
            assert!(found == fs::read(program()).unwrap(), "{}", process.path);
            // Where the daemon looks: beside its own file, wherever a link leads.
            let beside = fs::canonicalize(path).unwrap().with_file_name("guest-pull");
            let found = fs::read(beside).unwrap();
            assert!(found == fs::read(guest_pull()).unwrap());
        }
    }
    let provider = fs::read_to_string(files.join("etc/ocicrypt_config.json")).unwrap();
    let provider: serde_json::Value = serde_json::from_str(&provider).unwrap();
    let address = &provider["key-providers"]["attestation-agent"]["ttrpc"];
    assert_eq!(address, "unix:///run/confidential-containers/cdh.sock");
    let bundle = files.join("pause_bundle");
    let names = fs::read_dir(&bundle).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "rootfs"]);
    let pause = fs::metadata(bundle.join("rootfs/pause")).unwrap();
    assert_eq!(pause.mode() & 0o7777, 0o1510);
    if is_root {
        assert_eq!((pause.uid(), pause.gid()), (65_535, 7));
    }
    let link = fs::read_link(bundle.join("rootfs/link")).unwrap();
    assert_eq!(link, Path::new("pause"));
}

/// Each mistake is told with what to do.
#[test]
fn mistakes_are_told() {
    if !has_tools() {
        return;
    }
    let directory = with_bundle();
    let at = directory.path();
    fs::create_dir_all(at.join("no-config/rootfs")).unwrap();
    fs::create_dir(at.join("no-rootfs")).unwrap();
    fs::write(at.join("no-rootfs/config.json"), "{}").unwrap();
    for (words, said) in [
        (&["", "image"][..], "PAUSE_BUNDLE=DIR"),
        (
            &["missing", "image"],
            "PAUSE_BUNDLE=missing: there is no such directory",
        ),
        (
            &["no-config", "image"],
            "PAUSE_BUNDLE=no-config: it has no file config.json",
        ),
        (
            &["no-rootfs", "image"],
            "PAUSE_BUNDLE=no-rootfs: it has no directory rootfs",
        ),
        (
            &["bundle", "image", "xyz1"],
            "the salt must be hexadecimal: xyz1",
        ),
        (
            &["bundle", "image", "abc"],
            "the salt must have whole bytes",
        ),
        (&["bundle"], "usage: "),
    ] {
        let (stdout, stderr, code) = build(at, words);
        assert!(code != Some(0) && stdout.is_empty(), "{words:?}: {stdout}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
    let mut other = fs::read(guest_pull()).unwrap();
    other[18] ^= 0xff;
    fs::write(at.join("other"), other).unwrap();
    fs::set_permissions(at.join("other"), fs::Permissions::from_mode(0o755)).unwrap();
    for (puller, said) in [
        ("none", "none is missing; "),
        ("other", "and other are for different kinds of machines"),
    ] {
        let mut command = Command::new(BUILD);
        command.env("PATH", path()).current_dir(at).arg(program());
        let (_, stderr, code) = output(command.args([puller, "bundle", "image"]));
        assert!(code == Some(1) && stderr.contains(said), "{stderr}");
    }
    assert!(!at.join("image").exists());

    // A machine that has the programs which the script needs to get so far, and no more.
    let bin = at.join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["sh", "dirname"] {
        symlink(Path::new("/usr/bin").join(name), bin.join(name)).unwrap();
    }
    let mut command = Command::new(BUILD);
    command
        .env("PATH", &bin)
        .args(["a", "b", "bundle", "image"]);
    let (_, stderr, code) = output(command.current_dir(at));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.ends_with("apt-get install erofs-utils cryptsetup-bin fdisk\n"),
        "{stderr}"
    );
}

/// Without root, the caller's files become root's; those of others are refused, since they could not be copied as they are.
#[test]
fn it_is_built_without_root() {
    if !has_tools() || !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let directory = with_bundle();
    let at = directory.path();
    fs::set_permissions(at, fs::Permissions::from_mode(0o777)).unwrap();
    // Where any user can run them.
    for (from, name) in [(program(), "daemon"), (guest_pull(), "puller")] {
        fs::copy(from, at.join(name)).unwrap();
    }
    let build = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        command.args([
            "env",
            "TMPDIR=/tmp",
            BUILD,
            "daemon",
            "puller",
            "bundle",
            "image",
        ]);
        output(command.env("PATH", path()).current_dir(at))
    };
    let (_, stderr, code) = build();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("bundle/config.json belongs to another user"),
        "{stderr}"
    );
    tool(
        "chown",
        &["-R", "nobody", &at.join("bundle").display().to_string()],
    );
    let (_, stderr, code) = build();
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    let image = fs::read(at.join("image")).unwrap();
    let data = at.join("data");
    fs::write(&data, &image[1 << 20..image.len() - (1 << 20)]).unwrap();
    let extract = format!("--extract={}", at.join("files").display());
    tool(
        "fsck.erofs",
        &[&extract, "--preserve", &data.display().to_string()],
    );
    for name in ["usr/local/bin/guest-pull", "pause_bundle/rootfs/pause"] {
        let found = fs::metadata(at.join("files").join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (0, 0), "{name}");
    }
}

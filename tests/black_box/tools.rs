// SPDX-License-Identifier: Apache-2.0

//! The build host's tools for files: `unpack`, `pack --merge`, `keygen`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::daemon::{Root, command, run};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Every file below a directory, by its relative path, with its content.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                files.insert(name, fs::read(&path).unwrap_or_default());
            }
        }
    }
    files
}

fn unpack(root: &Root, text: &str, more: &[&str]) -> (String, Option<i32>) {
    root.write_resources(text);
    let [file, dir] = [root.resources(), root.path("out")].map(|path| path.display().to_string());
    let (_, stderr, code) = run(&[&["unpack", &file, "-C", &dir], more].concat());
    (stderr, code)
}

/// Files and directories are private; an entry with an old name is written to its path.
#[test]
fn unpack_writes_private_files_by_path() {
    let root = Root::new();
    let text = json!({"Credential": STANDARD.encode("{}"), "kbs:///a/b/c": STANDARD.encode([0, 255]),
        "/a/b/d": "", "Policy": STANDARD.encode("p"), "default/security-policy/test": STANDARD.encode("p")});
    // An empty value is served, and reported as empty.
    let (stderr, code) = unpack(&root, &text.to_string(), &[]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("entry \"/a/b/d\": the value is empty"),
        "{stderr}"
    );
    let expected: [(&str, &[u8]); 4] = [
        ("a/b/c", &[0, 255]),
        ("a/b/d", b""),
        ("default/credential/test", b"{}"),
        ("default/security-policy/test", b"p"),
    ];
    let expected = expected.map(|(name, content)| (name.to_owned(), content.to_vec()));
    assert_eq!(tree(&root.path("out")), BTreeMap::from(expected));
    for directory in ["out", "out/a", "out/a/b", "out/default/credential"] {
        assert_eq!(mode(&root.path(directory)), 0o700, "{directory}");
    }
    assert_eq!(mode(&root.path("out/a/b/c")), 0o600);
    assert_eq!(mode(&root.path("out/default/credential/test")), 0o600);
}

/// `unpack` restores what `pack` packed.
#[test]
fn pack_and_unpack_are_a_round_trip() {
    let root = Root::new();
    let bytes: Vec<u8> = (0..=255).collect();
    fs::write(root.path("f"), &bytes).unwrap();
    let [file, out, resource] = [
        root.path("packed.json").display().to_string(),
        root.path("out").display().to_string(),
        format!("--resource=a/b/c={}", root.path("f").display()),
    ];
    assert_eq!(run(&["pack", &resource, "-o", &file]).2, Some(0));
    let (stdout, stderr, code) = run(&["unpack", &file, "-C", &out]);
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    assert_eq!(stdout, format!("{out}/a/b/c: 256 bytes\n"));
    assert_eq!(fs::read(root.path("out/a/b/c")).unwrap(), bytes);
}

/// No name leads outside, and no symbolic link in the path is followed; the other entries are written.
#[test]
fn unpack_never_leaves_its_directory() {
    let root = Root::new();
    fs::create_dir_all(root.path("out/linked")).unwrap();
    fs::create_dir_all(root.path("outside/b")).unwrap();
    fs::write(root.path("outside/target"), "untouched").unwrap();
    symlink(root.path("outside"), root.path("out/first")).unwrap();
    symlink(root.path("outside"), root.path("out/linked/second")).unwrap();
    fs::create_dir_all(root.path("out/tag/b")).unwrap();
    symlink(root.path("outside/target"), root.path("out/tag/b/c")).unwrap();
    symlink(root.path("outside/new"), root.path("out/tag/b/dangling")).unwrap();
    fs::write(root.path("out/plain"), "a file").unwrap();
    let names = [
        "../outside/evil",
        "a/../evil",
        "a/b/..",
        "././evil",
        "../../evil",
        "/../outside/evil",
        "kbs:///../outside/evil",
        "first/b/evil",
        "linked/second/evil",
        "plain/b/evil",
        "a/b/c\u{0}d",
        "//etc/evil",
        "name",
        "a/b/c/d",
    ];
    let mut text = serde_json::Map::new();
    for name in names
        .iter()
        .chain(&["tag/b/c", "tag/b/dangling", "good/b/c"])
    {
        text.insert((*name).to_owned(), json!("eA=="));
    }
    text.insert("kbs+x:///a/b/evil".to_owned(), json!("eA=="));
    text.insert("good/b/broken".to_owned(), json!("!"));
    let text = Value::Object(text).to_string();
    for force in [&[][..], &["--force"]] {
        let (stderr, code) = unpack(&root, &text, force);
        assert_eq!(code, Some(1));
        for name in names {
            let name = name.strip_prefix("kbs://").unwrap_or(name);
            // As messages show it: without the redundant slash.
            let shown = match name {
                "//etc/evil" => name,
                name => name.strip_prefix('/').unwrap_or(name),
            };
            let shown = shown.replace('\0', "\\0");
            let entry = format!("entry \"{shown}\": not written: ");
            assert!(stderr.contains(&entry), "{shown}: {stderr}");
        }
        for part in ["entry \"good/b/broken\": not base64", "kbs+x:///a/b/evil"] {
            assert!(stderr.contains(part), "{stderr}");
        }
        assert_eq!(fs::read(root.path("out/good/b/c")).unwrap(), b"x");
        let outside = tree(&root.path("outside"));
        let expected = [("target".to_owned(), b"untouched".to_vec())];
        assert_eq!(outside, BTreeMap::from(expected));
        let everything = tree(root.dir());
        let evil = everything.keys().find(|name| name.contains("evil"));
        assert_eq!(evil, None);
    }
    // With --force the links themselves were replaced.
    for name in ["c", "dangling"] {
        let path = root.path("out/tag/b").join(name);
        assert!(fs::symlink_metadata(&path).unwrap().is_file(), "{name}");
        assert_eq!(fs::read(path).unwrap(), b"x");
    }
}

/// Existing files are left, unless `--force` is given; then the new file is private too.
#[test]
fn unpack_overwrites_only_when_told_to() {
    let root = Root::new();
    fs::create_dir_all(root.path("out/a/b")).unwrap();
    let path = root.path("out/a/b/c");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir_all(root.path("out/a/b/dir")).unwrap();
    let text = json!({"a/b/c": "bmV3", "a/b/d": "bmV3", "a/b/dir": "bmV3"}).to_string();
    let (stderr, code) = unpack(&root, &text, &[]);
    assert_eq!(code, Some(1));
    let said = "entry \"a/b/c\": not written: the file exists; --force replaces it";
    assert!(stderr.contains(said), "{stderr}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read(root.path("out/a/b/d")).unwrap(), b"new");
    let (stderr, code) = unpack(&root, &text, &["--force"]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("entry \"a/b/dir\": not written"),
        "{stderr}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(mode(&path), 0o600);
    assert!(root.path("out/a/b/dir").is_dir());
    let left: Vec<_> = tree(&root.path("out")).into_keys().collect();
    assert_eq!(left, ["a/b/c", "a/b/d"], "a temporary file is left");
}

/// If a name has two entries, the one that the daemon would serve is written; a keys file is recognized by
/// its name.
#[test]
fn unpack_writes_what_would_be_served() {
    let root = Root::new();
    let text = r#"{"Credential":"b2xk","default/credential/test":"cGF0aA==",
        "Policy":"b2xk","default/security-policy/test":"!"}"#;
    let (stderr, code) = unpack(&root, text, &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("with another value"), "{stderr}");
    let written = tree(&root.path("out"));
    assert_eq!(written["default/credential/test"], b"path");
    assert_eq!(written["default/security-policy/test"], b"old");

    let keys = json!({"default/key/1": STANDARD.encode([7; 32]), "default/key/2": "c2hvcnQ=",
        "key_id1": STANDARD.encode([7; 32])});
    root.write_keys(&keys.to_string());
    let [file, dir] = ["etc/aa-offline_fs_kbc-keys.json", "keys"]
        .map(|path| root.path(path).display().to_string());
    let (_, stderr, code) = run(&["unpack", &file, "-C", &dir]);
    assert_eq!(code, Some(1));
    for part in [
        "entry \"default/key/2\": decodes to 5 bytes",
        "entry \"key_id1\": not written: its name is not <repository>/<type>/<tag>",
        "2 problems, see above",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(
        tree(&root.path("keys")).into_keys().collect::<Vec<_>>(),
        ["default/key/1"]
    );
}

fn merge(root: &Root, file: &str, more: &[&str]) -> (String, String, Option<i32>) {
    let path = root.path("etc/merged.json");
    fs::write(&path, file).unwrap();
    let path = path.display().to_string();
    run(&[&["pack", "--merge", &path], more].concat())
}

/// A given entry replaces those of the same name, in place; everything else stays, byte for byte and in
/// order.
#[test]
fn pack_merges_into_what_is_there() {
    let root = Root::new();
    fs::write(root.path("new"), "new").unwrap();
    let new = root.path("new").display().to_string();
    let file = "{\"z/z/z\": \"eg\",\n \"Policy\" : \"b2xk\", \"a/b/c\":\"YQ\\u003d=\",\n\
        \"default/security-policy/test\":\"b2xk\", \"a/b/list\": [1,\n 2], \"name\":\"eA==\"}";
    let given = ["--policy", &new, "--resource", &format!("n/n/n={new}")];
    let (stdout, stderr, code) = merge(&root, file, &given);
    assert_eq!(code, Some(0), "{stderr}");
    let expected = "{\n  \"z/z/z\": \"eg\",\n  \"default/security-policy/test\": \"bmV3\",\n  \
        \"a/b/c\": \"YQ\\u003d=\",\n  \"a/b/list\": [1,\n 2],\n  \"name\": \"eA==\",\n  \
        \"n/n/n\": \"bmV3\"\n}\n";
    assert_eq!(stdout, expected);
    let said = "entry \"a/b/list\": an array instead of a string of base64";
    assert!(
        stderr.contains(said) && stderr.contains("kept as it is"),
        "{stderr}"
    );

    let (stdout, _, _) = merge(&root, file, &["--policy", &new, "--names", "old"]);
    assert!(stdout.contains("  \"Policy\": \"bmV3\",\n"), "{stdout}");
    assert!(!stdout.contains("security-policy"), "{stdout}");
    // Without arguments the output is the file itself, in the tool's own form.
    let (stdout, stderr, code) = merge(&root, r#"{"a/b/c":"eA=="}"#, &[]);
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    assert_eq!(stdout, "{\n  \"a/b/c\": \"eA==\"\n}\n");
    let (stdout, _, code) = merge(&root, "{}", &["--policy", &new]);
    assert_eq!(code, Some(0));
    assert_eq!(
        stdout,
        "{\n  \"default/security-policy/test\": \"bmV3\"\n}\n"
    );
}

/// A file that can't be merged is left as it is, even as the output.
#[test]
fn a_broken_file_is_not_merged_into() {
    let root = Root::new();
    fs::write(root.path("new"), "new").unwrap();
    let given = format!("--resource=a/b/c={}", root.path("new").display());
    let path = root.path("etc/merged.json");
    let output = path.display().to_string();
    for (file, part) in [
        ("", "empty; the file was left empty or is half-written"),
        ("{\"a/b/c\":\"YQ", "not JSON: the text ends too early"),
        ("{\"a/b/c\":\"YQ\n==\"}", "encode with `base64 -w 0`"),
        ("[]", "an array instead of an object"),
    ] {
        let (stdout, stderr, code) = merge(&root, file, &[&given, "-o", &output]);
        assert_eq!((stdout.as_str(), code), ("", Some(1)));
        assert!(
            stderr.contains("merged.json: ") && stderr.contains(part),
            "{stderr}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), file);
    }
    let (_, stderr, code) = run(&["pack", "--merge", "/nonexistent", &given]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("can't read /nonexistent"), "{stderr}");
    // In place, which is the usual use.
    let (_, stderr, code) = merge(
        &root,
        r#"{"a/b/c":"eA==","a/b/d":"eA=="}"#,
        &[&given, "-o", &output],
    );
    assert_eq!(code, Some(0), "{stderr}");
    let expected = "{\n  \"a/b/c\": \"bmV3\",\n  \"a/b/d\": \"eA==\"\n}\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

/// A fresh key is added in a private file; the others stay byte for byte, and none is replaced.
#[test]
fn keygen_adds_and_never_replaces() {
    let root = Root::new();
    let path = root.path("etc/keys.json");
    let keys = path.display().to_string();
    let keygen = |name: &str| run(&["keygen", name, "--keys", &keys]);
    let (stdout, stderr, code) = keygen("kbs:///default/key/k1");
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    // It is written as every upstream agent looks it up.
    assert_eq!(stdout, format!("{keys}: key default/key/k1 added\n"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\n  \"default/key/k1\": \""));
    assert_eq!(mode(&path), 0o600);
    let (_, stderr, code) = keygen("k2");
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    let text = fs::read_to_string(&path).unwrap();
    let found: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    let decoded: Vec<_> = found
        .values()
        .map(|key| STANDARD.decode(key).unwrap())
        .collect();
    assert_eq!(decoded.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32]);
    assert_ne!(decoded[0], decoded[1]);
    for name in [
        "kbs:///default/key/k1",
        "default/key/k1",
        "/default/key/k1",
        "kbs://host/default/key/k1?a=b",
        "k2",
    ] {
        let (stdout, stderr, code) = keygen(name);
        assert_eq!((stdout.as_str(), code), ("", Some(1)), "{name}");
        assert!(stderr.contains("keys are never replaced"), "{stderr}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let left = fs::read_dir(root.path("etc")).unwrap().count();
    assert_eq!(left, 1, "a temporary file is left");

    // A file in another form, with a broken entry, that everybody can read.
    let before = "{ \"a/b/c\" : \"!\",\r\n\t\"x\":\"\\u0041\" }\n\n";
    fs::write(&path, before).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(keygen("k1").2, Some(0));
    let after = fs::read_to_string(&path).unwrap();
    let (head, tail) = before.split_at(before.find(" }").unwrap());
    assert!(after.starts_with(head) && after.ends_with(tail), "{after}");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(keygen("a/b/c").2, Some(1));
    for broken in ["", "{", "[]"] {
        fs::write(&path, broken).unwrap();
        let (_, stderr, code) = keygen("k1");
        assert_eq!(code, Some(1));
        assert!(stderr.contains("keys.json: "), "{stderr}");
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    assert_eq!(keygen("k1").2, Some(1));
    for name in ["", "a\nb", "kbs+x:///a/b/c", &"x".repeat(101)] {
        assert_eq!(keygen(name).2, Some(2), "{name}");
    }
}

/// Many runs at once lose no key.
#[test]
fn keygen_at_once_loses_none() {
    let root = Root::new();
    let path = root.path("etc/keys.json");
    let mut running: Vec<_> = (0..8)
        .map(|number| {
            let mut command = command();
            command.args(["keygen", &format!("default/key/{number}"), "--keys"]);
            command.arg(&path).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for process in &mut running {
        assert!(process.wait().unwrap().success());
    }
    let keys: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(keys.as_object().unwrap().len(), 8);
}

/// `check` finds no problem in what `keygen` writes; if the disk is full, the old file stays.
#[test]
fn keygen_is_whole_or_nothing() {
    let root = Root::new();
    let path = root.path("etc/keys.json").display().to_string();
    assert_eq!(
        run(&["keygen", "default/key/1", "--keys", &path]).2,
        Some(0)
    );
    let (stdout, _, code) = run(&["check", &path]);
    assert_eq!(code, Some(0), "{stdout}");
    let before = fs::read_to_string(&path).unwrap();
    // A limit on the size of files stands for a full disk.
    let script = format!(
        "trap '' XFSZ; ulimit -f 0; exec '{}' keygen default/key/2 --keys '{path}'",
        crate::support::daemon::program().display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    let left = fs::read_dir(root.path("etc")).unwrap().count();
    assert_eq!(left, 1, "a temporary file is left");
}

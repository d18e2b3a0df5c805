// SPDX-License-Identifier: Apache-2.0

//! What signature checks need beside the policy: whether it looks like what it should be.

use crate::resource::problem::{Problem, Severity};

/// A sigstore configuration, containers-registries.d(5), which says where signatures are.
pub fn sigstore(bytes: &[u8]) -> Vec<Problem> {
    let known = ["docker:", "default-docker:"];
    let is_known = |line: &str| known.iter().any(|key| line.trim_end().starts_with(key));
    match std::str::from_utf8(bytes) {
        Ok(text) if text.lines().any(is_known) => Vec::new(),
        _ => vec![Problem::of_file(
            Severity::Warning,
            "sigstore-config",
            "is no sigstore configuration: it has neither \"docker:\" nor \"default-docker:\"; clients find \
             no signatures by it",
            "write it as containers-registries.d(5) has it",
        )],
    }
}

/// A cosign public key: PEM.
pub fn cosign(bytes: &[u8]) -> Vec<Problem> {
    key(
        bytes,
        "cosign-key",
        "-----BEGIN PUBLIC KEY-----",
        |_| false,
        "write the public key with `cosign public-key --key cosign.key`",
    )
}

/// A GPG keyring, armoured or not.
pub fn gpg(bytes: &[u8]) -> Vec<Problem> {
    // RFC 9580, 4.2: a packet begins with a set bit; the tag of a public key is 6, in either format.
    let is_binary = |first: u8| first & 0b1111_1100 == 0b1001_1000 || first == 0b1100_0110;
    key(
        bytes,
        "gpg-keyring",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----",
        is_binary,
        "write the public keys with `gpg --export KEY`",
    )
}

fn key(
    bytes: &[u8],
    code: &'static str,
    begin: &str,
    is_binary: impl Fn(u8) -> bool,
    fix: &str,
) -> Vec<Problem> {
    let text = bytes.trim_ascii_start();
    if text.starts_with(begin.as_bytes()) || bytes.first().copied().is_some_and(is_binary) {
        return Vec::new();
    }
    let is_private = |part: &[u8]| part == b" PRIVATE KEY";
    let (severity, what) = if text.starts_with(b"-----BEGIN") && text.windows(12).any(is_private) {
        (Severity::Error, "is a private key, which belongs on no VM")
    } else {
        (
            Severity::Error,
            "is no public key in a form that clients read; signatures can't be verified",
        )
    };
    vec![Problem::of_file(severity, code, what, fix)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recognised() {
        assert!(sigstore(b"# x\ndocker:\n  quay.io:\n    sigstore: file:///x\n").is_empty());
        assert_eq!(sigstore(b"{}").len(), 1);
        assert!(cosign(b"-----BEGIN PUBLIC KEY-----\nhunter2\n").is_empty());
        assert!(gpg(&[0x99, 1, 0x0d]).is_empty());
        assert!(gpg(&[0xc6, 1]).is_empty());
        assert!(gpg(b"\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n").is_empty());
        for found in [
            cosign(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nhunter2\n"),
            gpg(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\nhunter2\n"),
        ] {
            assert!(found[0].what.contains("private"), "{found:?}");
        }
        for found in [cosign(b"hunter2"), gpg(b"hunter2"), gpg(&[0x95])] {
            assert!(found[0].what.contains("no public key"), "{found:?}");
            assert!(!found[0].to_string().contains("hunter"));
        }
    }
}

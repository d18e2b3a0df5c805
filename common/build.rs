// SPDX-License-Identifier: Apache-2.0

//! Generates Rust code from `protos/` into `OUT_DIR`.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The packages, one `.proto` file each, with the doc comment of the generated module.
const PACKAGES: &[(&str, &str)] = &[
    ("api", "Package `api`: what confidential-data-hub serves."),
    (
        "attestation_agent",
        "Package `attestation_agent`: what the attestation-agent serves since 2024.",
    ),
    (
        "getresource",
        "Package `getresource`: what the attestation-agent of 2023 serves.",
    ),
    (
        "guest_pull",
        "Package `guest_pull`: what guest-pull tells the daemon while it pulls an image.",
    ),
    (
        "offline_fs_kbc",
        "Package `offline_fs_kbc`: the status of this daemon.",
    ),
    (
        "keyprovider",
        "Package `keyprovider`: the key-provider protocol of ocicrypt.",
    ),
];

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let protos: Vec<PathBuf> = PACKAGES
        .iter()
        .map(|(name, _)| Path::new("protos").join(name).with_extension("proto"))
        .collect();
    protobuf_codegen::Codegen::new()
        .pure()
        .out_dir(&out)
        .inputs(&protos)
        .include("protos")
        // No reflection: nothing here prints a message, and reflection would be a third of the code.
        .customize(protobuf_codegen::Customize::default().lite_runtime(true))
        .run()
        .map_err(io::Error::other)?;

    // The generator's mod.rs starts with an inner attribute, which rustc refuses in an included file.
    let modules: String = PACKAGES
        .iter()
        .map(|(name, about)| format!("/// {about}\npub mod {name};\n"))
        .collect();
    fs::write(out.join("mod.rs"), modules)?;

    println!("cargo::rerun-if-changed=protos");
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}

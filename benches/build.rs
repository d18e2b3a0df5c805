// SPDX-License-Identifier: Apache-2.0

//! Generates the service of the baseline server that uses the ttrpc crate.

use std::error::Error;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["../common/protos/getresource.proto"])
        .include("../common/protos")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    // The generator's mod.rs starts with an inner attribute, which rustc refuses in an included file.
    fs::write(
        format!("{out}/generated.rs"),
        "pub mod getresource;\npub mod getresource_ttrpc;\n",
    )?;
    println!("cargo::rerun-if-changed=../common/protos");
    Ok(())
}

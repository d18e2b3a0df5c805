// SPDX-License-Identifier: Apache-2.0

//! Generates the service that the floor on the ttrpc crate's server has.

use std::error::Error;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["../protos/getresource.proto"])
        .include("../protos")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    // The generator's own mod.rs starts with an inner attribute, which rustc refuses where a file is
    // included into a module.
    fs::write(
        format!("{out}/generated.rs"),
        "pub mod getresource;\npub mod getresource_ttrpc;\n",
    )?;
    println!("cargo::rerun-if-changed=../protos");
    Ok(())
}

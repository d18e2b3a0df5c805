// SPDX-License-Identifier: Apache-2.0

//! Lets the linker leave the symbols out of the released program: half a megabyte.
//!
//! The workspace's profile says `strip`, but cargo forgets that for a package with an optimisation level of its own.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("PROFILE").is_some_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--discard-all");
    }
}

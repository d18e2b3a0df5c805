// SPDX-License-Identifier: Apache-2.0

//! Lets the linker leave the symbols out of the released program: half a megabyte. (The workspace's profile says `strip`, but
//! cargo forgets that for a package with an optimisation level of its own.) And lets the program start with older C libraries
//! than that of the machine which links it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("PROFILE").is_some_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--discard-all");
        // The standard library uses these functions where they are. A linker that knows them (glibc 2.39) has the program ask for
        // that version of the C library, and older ones would not start it.
        for function in ["pidfd_spawnp", "pidfd_getpid"] {
            println!("cargo::rustc-link-arg-bins=-Wl,--defsym={function}=0");
        }
    }
}

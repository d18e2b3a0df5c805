// SPDX-License-Identifier: Apache-2.0

//! Archives whose entries the input chooses, out of all kinds and of few names: deeper than changed bytes get.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::any_archive::{Allowed, Choices, any_archive};
use offline_fs_kbc_fuzz::layers::check;

fuzz_target!(|input: &[u8]| {
    check(&any_archive(&mut Choices::new(input, Allowed::Everything)));
});

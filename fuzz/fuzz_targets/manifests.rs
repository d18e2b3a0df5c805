// SPDX-License-Identifier: Apache-2.0

//! Files that carry a credential or a configuration to a VM: Kubernetes manifests, initdata, cdh.toml, aa.toml,
//! registries.conf and signature storage configurations. No finding contains a part of a value, whatever reads the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::problem::Problem;
use offline_fs_kbc::{initdata, kubernetes, lint};
use offline_fs_kbc_fuzz::{assert_error_is_clean, assert_no_secret, assert_one_line, marked};

fuzz_target!(|input: &[u8]| {
    let input = marked(input);
    let _ = Form::of(&input);
    match kubernetes::read(&input) {
        Ok(manifest) => {
            check(&manifest.problems);
            for secret in &manifest.secrets {
                assert_no_secret(&format!("{:?}", secret.credentials));
            }
        }
        Err(error) => assert_error_is_clean(&error),
    }
    match initdata::read(&input) {
        Ok(initdata) => check(&initdata.lint()),
        Err(error) => assert_error_is_clean(&error),
    }
    check(&lint::policy::lint(&input, &|_| Some(&[])));
    if let Ok(text) = std::str::from_utf8(&input) {
        check(&lint::component::cdh(text));
        check(&lint::component::aa(text));
        check(&lint::registries::registries(text));
        check(&lint::registries::sigstore(text));
    }
});

fn check(problems: &[Problem]) {
    for problem in problems {
        assert_one_line(&problem.to_string());
        assert_no_secret(&problem.to_string());
    }
}

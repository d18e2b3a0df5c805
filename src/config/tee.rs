// SPDX-License-Identifier: Apache-2.0

//! Which TEE the VM runs in, as far as the kernel shows it. Nothing is attested.

use offline_fs_kbc::resource::file;

use crate::config::Root;

/// What the kernel shows in a guest of each TEE, in the order in which the upstream attestation-agent looks. That agent
/// looks for some of these devices in /dev and for others by a report that it asks for; the unit shows no devices, and
/// the daemon asks for no report.
const GUESTS: [(&str, &str); 4] = [
    ("/sys/class/misc/tdx_guest", "tdx"),
    ("/sys/devices/platform/sev-guest", "snp"),
    ("/sys/class/misc/csv-guest", "csv"),
    ("/sys/devices/platform/arm-cca-dev", "cca"),
];

/// This is 1 in a guest of IBM Secure Execution.
const SECURE_EXECUTION: &str = "/sys/firmware/uv/prot_virt_guest";

/// The name of the TEE, as the upstream agent gives it; `sample` if none shows, which is that agent's name too.
pub fn name(root: &Root) -> &'static str {
    let found = GUESTS.iter().find(|(path, _)| root.path(path).exists());
    match found {
        Some((_, name)) => name,
        None if file::read(&root.path(SECURE_EXECUTION))
            .is_ok_and(|content| content.text.starts_with(b"1")) =>
        {
            "se"
        }
        None => "sample",
    }
}

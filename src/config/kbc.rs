// SPDX-License-Identifier: Apache-2.0

//! Which KBC the VM is configured for. If it is another one, this daemon is not the one that the VM needs.

use std::env;

use offline_fs_kbc::resource::file;
use offline_fs_kbc::resource::name::KBC_NAME;
use offline_fs_kbc::text::Quoted;

use crate::config::Root;

/// kata-agent's configuration.
const AGENT_CONFIG: &str = "/etc/agent-config.toml";

/// The kernel's command line.
const KERNEL_COMMAND_LINE: &str = "/proc/cmdline";

/// The environment variable with the same setting.
const ENVIRONMENT: &str = "AA_KBC_PARAMS";

/// A message for each place that configures another KBC.
pub fn mismatches(root: &Root) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |place: &str, params: Option<String>| {
        // `name::uri`; "null" stands for no URI.
        let name = params
            .as_deref()
            .and_then(|params| params.split("::").next());
        found.extend(name.and_then(|name| mismatch(place, name)));
    };
    look(ENVIRONMENT, env::var(ENVIRONMENT).ok());
    let read = |path| Some(file::read(&root.path(path)).ok()?.text);
    look(
        &format!("aa_kbc_params in {AGENT_CONFIG}"),
        read(AGENT_CONFIG).and_then(|text| of_agent_config(&text)),
    );
    look(
        "agent.aa_kbc_params on the kernel command line",
        read(KERNEL_COMMAND_LINE).and_then(|text| of_command_line(&text)),
    );
    found
}

/// A message if `name`, found at `place`, is another KBC.
pub fn mismatch(place: &str, name: &str) -> Option<String> {
    let name = name.trim();
    (!name.is_empty() && name != KBC_NAME).then(|| {
        format!(
            "{place} asks for the KBC {}, but this daemon is {KBC_NAME} and can't fetch from that KBC; \
             install that KBC's agent, or write {KBC_NAME}::null",
            Quoted(name)
        )
    })
}

fn of_agent_config(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    // Only this line is parsed, so that the syntax of the rest of kata-agent's file does not matter.
    let line = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "aa_kbc_params").then_some(value)
    })?;
    let value = line.trim();
    let quote = value.chars().next().filter(|c| ['"', '\''].contains(c))?;
    Some(value[1..].split(quote).next()?.to_owned())
}

fn of_command_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    // If a parameter is given twice, kata-agent uses the last one.
    let params = text.split_ascii_whitespace();
    let mut params = params.filter_map(|param| param.strip_prefix("agent.aa_kbc_params="));
    params
        .next_back()
        .map(|value| value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_are_read() {
        let config = b"# x\nserver_addr = \"a\"\naa_kbc_params = \"cc_kbc::http://h\" # y\n";
        assert_eq!(of_agent_config(config).as_deref(), Some("cc_kbc::http://h"));
        assert_eq!(of_agent_config(b"aa_kbc_params_x = \"a\"\n"), None);
        let line = b"ro agent.aa_kbc_params=a::b quiet agent.aa_kbc_params=offline_fs_kbc::null\n";
        assert_eq!(
            of_command_line(line).as_deref(),
            Some("offline_fs_kbc::null")
        );
        assert_eq!(of_command_line(b"ro quiet\n"), None);
    }

    #[test]
    fn only_another_name_is_a_mismatch() {
        assert_eq!(mismatch("x", "offline_fs_kbc"), None);
        assert_eq!(mismatch("x", ""), None);
        let text = mismatch("x", "cc_kbc").unwrap_or_default();
        assert!(text.starts_with("x asks for the KBC \"cc_kbc\""), "{text}");
    }
}

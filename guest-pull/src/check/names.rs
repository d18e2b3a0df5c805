// SPDX-License-Identifier: Apache-2.0

//! Name resolution, as the worker has it: by files, and by name servers. It can't ask services of the VM by unix sockets.

use crate::check::{Finding, Root};

/// What resolves names: resolv.conf(5).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// In which order: nsswitch.conf(5). Without the file, name servers are asked.
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// The address at which systemd-resolved answers: systemd-resolved.service(8).
const STUB: &str = "127.0.0.53";

/// The same with port 53, as the kernel's list of sockets has it: proc_net_udp(5).
const STUB_LISTENS: [&str; 2] = ["3500007F:0035", "7F000035:0035"];

/// The sockets of the network namespace, if the kernel has such a list.
const SOCKETS: &str = "/proc/net/udp";

/// Whether names can be resolved. That no name server is there may be right in an image: what starts the network writes
/// them.
pub(super) fn look(root: Root<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let fix = "write `nameserver ADDRESS` lines, or have DHCP, systemd-resolved or kata (dns of the pod) write them before \
               the first pull; a name in /etc/hosts needs none";
    let text = root.text(RESOLV_CONF);
    let servers = text.as_deref().map(servers).unwrap_or_default();
    if servers.is_empty() {
        let what = match text {
            None => format!("{RESOLV_CONF} is not there"),
            Some(_) => format!("{RESOLV_CONF} names no name server"),
        };
        let what = format!(
            "{what}: only registries in /etc/hosts, and those named by addresses, are found"
        );
        let code = "name-resolution";
        found.push(match root.other {
            None => Finding::warning(code, what, fix),
            Some(_) => Finding::note(code, what, fix),
        });
    }
    if let Some(sources) = root.text(NSSWITCH).as_deref().and_then(sources) {
        let lacks = |name: &str| !sources.iter().any(|source| source == name);
        if lacks("dns") {
            found.push(Finding::warning(
                "name-resolution",
                format!(
                    "the line hosts: of {NSSWITCH} has no dns, and guest-pull's worker can't ask services by unix sockets \
                     (resolve, nscd): names of name servers are not found"
                ),
                format!("add dns to the line hosts: of {NSSWITCH}"),
            ));
        }
        if lacks("files") {
            found.push(Finding::warning(
                "name-resolution",
                format!(
                    "the line hosts: of {NSSWITCH} has no files: names in /etc/hosts are not found"
                ),
                format!("add files to the line hosts: of {NSSWITCH}"),
            ));
        }
    }
    let is_stub_alone = !servers.is_empty() && servers.iter().all(|server| *server == STUB);
    let sockets = root.text(SOCKETS).filter(|_| is_stub_alone);
    let listens = |text: &str| STUB_LISTENS.iter().any(|at| text.contains(at));
    if sockets.is_some_and(|text| !listens(&text)) {
        found.push(Finding::warning(
            "name-resolution",
            format!("{RESOLV_CONF} names {STUB} alone, and nobody listens there: no name is found on name servers"),
            "`systemctl enable --now systemd-resolved.service`, without DNSStubListener=no; or name another server",
        ));
    }
    found
}

/// The addresses of name servers.
fn servers(text: &str) -> Vec<&str> {
    let words = text.lines().map(str::split_whitespace);
    let servers = words.filter_map(|mut words| {
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)
    });
    servers.collect()
}

/// What the line for hosts names; none if there is no such line.
fn sources(text: &str) -> Option<Vec<String>> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let line = lines
        .filter_map(|line| line.trim().strip_prefix("hosts:"))
        .next_back()?;
    // Actions stand in brackets.
    Some(line.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Comments, actions and other lines are passed over.
    #[test]
    fn files_are_read() {
        let text = "# nameserver 1.1.1.1\nsearch a\n nameserver\t10.0.0.2 # x\nnameserver\n";
        assert_eq!(servers(text), ["10.0.0.2"]);
        let text = "passwd: files\nhosts: files [NOTFOUND=return] resolve # dns\n";
        let found = sources(text).unwrap();
        assert!(found.iter().any(|it| it == "files") && !found.iter().any(|it| it == "dns"));
        assert_eq!(sources("passwd: files\n"), None);
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Spellings of one name. A registry can be written in several ways that lead to the same server, and what a policy or a
//! configuration says of one of them is not to be evaded by another.

use std::net::Ipv6Addr;

use common::auth_json::image::ImageName;

/// The name with its registry in the spelling that people use.
pub(crate) fn plainest(image: &ImageName) -> ImageName {
    let registry = image.registry.to_ascii_lowercase();
    let registry = registry.strip_suffix(":443").unwrap_or(&registry);
    let registry = match registry.trim_end_matches('.') {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    ImageName {
        registry: address(registry).unwrap_or_else(|| registry.to_owned()),
        ..image.clone()
    }
}

/// An address of IPv6 in its shortest form, with what follows it; none if it is something else.
fn address(registry: &str) -> Option<String> {
    let (address, port) = registry.strip_prefix('[')?.split_once(']')?;
    let address: Ipv6Addr = address.parse().ok()?;
    Some(format!("[{address}]{port}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What leads to the same server has one spelling.
    #[test]
    fn registries_have_one_spelling() {
        for (name, wanted) in [
            ("Quay.IO:443/a/b:1", "quay.io/a/b:1"),
            ("quay.io./a/b:1", "quay.io/a/b:1"),
            ("registry-1.docker.io/a/b:1", "docker.io/a/b:1"),
            ("[0:0::0001]:5000/a:1", "[::1]:5000/a:1"),
            ("[0:0::0001]:443/a:1", "[::1]/a:1"),
            ("quay.io:8443/a:1", "quay.io:8443/a:1"),
        ] {
            let name = ImageName::parse(name).unwrap();
            assert_eq!(plainest(&name).to_string(), wanted);
        }
    }
}

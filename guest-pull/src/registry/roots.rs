// SPDX-License-Identifier: Apache-2.0

//! The certificates of authorities that a registry's certificate may be signed by.

use ureq::tls::{Certificate, PemItem, parse_pem};

/// Those of the system, or where it has none, Mozilla's, which are built in; and additional ones in PEM.
///
/// # Errors
///
/// If an additional one is not a certificate: its number, beginning with 1.
pub fn roots(additional: &[String]) -> Result<Vec<Certificate<'static>>, usize> {
    with_additional(system_roots(), additional)
}

/// Where systems have theirs: Debian and what comes of it, Fedora and what comes of it, SUSE, Alpine.
pub const PLACES_OF_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whether the system has any.
pub fn has_system_roots() -> bool {
    let system = rustls_native_certs::load_native_certs().certs;
    !system.is_empty()
}

/// Those of the system, or where it has none, Mozilla's, which are built in.
pub fn system_roots() -> Vec<Certificate<'static>> {
    let system = rustls_native_certs::load_native_certs().certs;
    let mut roots: Vec<_> = system
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    if roots.is_empty() {
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        roots.extend(built_in.map(|certificate| Certificate::from_der(certificate).to_owned()));
    }
    roots
}

/// These, and additional ones in PEM.
///
/// # Errors
///
/// If an additional one is not a certificate: its number, beginning with 1.
pub fn with_additional(
    mut roots: Vec<Certificate<'static>>,
    additional: &[String],
) -> Result<Vec<Certificate<'static>>, usize> {
    for (at, text) in additional.iter().enumerate() {
        let before = roots.len();
        for item in parse_pem(text.as_bytes()) {
            if let PemItem::Certificate(certificate) = item.map_err(|_| at + 1)? {
                roots.push(certificate);
            }
        }
        if roots.len() == before {
            return Err(at + 1);
        }
    }
    Ok(roots)
}

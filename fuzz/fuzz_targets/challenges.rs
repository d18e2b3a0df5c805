// SPDX-License-Identifier: Apache-2.0

//! Headers of registries: WWW-Authenticate, Retry-After, Content-Range and Location.
//!
//! The first byte selects the header; the rest are lines.

#![no_main]

use std::time::Duration;

use guest_pull::registry::challenge::{Challenge, choose};
use guest_pull::registry::url::{has_tls, host_of, resolve, same_origin};
use guest_pull::registry::{is_rest, retry_after};
use libfuzzer_sys::fuzz_target;
use ureq::http::header::{DATE, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderValue};

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    let (one, other) = text.split_once('\n').unwrap_or((&text, ""));
    match first % 4 {
        0 => challenge(text.split('\n').map(str::to_owned)),
        1 => wait(one, other),
        2 => range(one, other),
        _ => redirect(one, other),
    }
});

/// A challenge that is read comes back from its plainest form.
fn challenge(headers: impl Iterator<Item = String>) {
    let Some(challenge) = choose(headers) else {
        return;
    };
    let Challenge::Bearer {
        realm,
        service,
        scopes,
        error,
    } = &challenge
    else {
        return;
    };
    assert!(!realm.is_empty());
    for scope in scopes {
        assert!(!scope.is_empty() && !scope.contains(char::is_whitespace));
    }
    let quoted = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{name}=\"{value}\"")
    };
    let mut parameters = vec![quoted("realm", realm)];
    parameters.extend(service.iter().map(|service| quoted("service", service)));
    parameters.push(quoted("scope", &scopes.join(" ")));
    parameters.extend(error.iter().map(|error| quoted("error", error)));
    let header = format!("Bearer {}", parameters.join(", "));
    assert_eq!(choose([header].into_iter()), Some(challenge));
}

/// Seconds are what they say, and a date is never before the registry's own.
fn wait(after: &str, date: &str) {
    let (Ok(after_value), Ok(date)) = (
        HeaderValue::from_bytes(after.as_bytes()),
        HeaderValue::from_bytes(date.as_bytes()),
    ) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, after_value.clone());
    headers.insert(DATE, date);
    let found = retry_after(&headers);
    if let (Ok(text), Ok(seconds)) = (after_value.to_str(), after.trim().parse()) {
        assert_eq!(found, Some(Duration::from_secs(seconds)), "{text}");
    }
    headers.insert(DATE, after_value);
    if let Some(wait) = retry_after(&headers).filter(|_| after.trim().parse::<u64>().is_err()) {
        assert_eq!(wait, Duration::ZERO, "{after} is before itself");
    }
}

/// What is taken for the rest of a blob begins where it must, and the plain form is taken.
fn range(text: &str, numbers: &str) {
    let mut numbers = numbers
        .split(' ')
        .map(|number| number.parse().unwrap_or(7_u64));
    let mut next = || numbers.next().unwrap_or(9);
    let (from, size) = (next(), next());
    if is_rest(text, from, size) {
        let first = text["bytes ".len()..].split('-').next();
        assert_eq!(
            first.and_then(|first| first.parse().ok()),
            Some(from),
            "{text}"
        );
        assert!(!is_rest(text, from ^ 1, size), "{text}");
    }
    let last = size.saturating_sub(1);
    assert!(is_rest(&format!("bytes {from}-{last}/{size}"), from, size));
    assert!(!is_rest(
        &format!("bytes {from}-{last}/{}", size ^ 1),
        from,
        size
    ));
}

/// A redirect leads to a place with a scheme, and never away from TLS; a path stays with its server.
fn redirect(url: &str, location: &str) {
    let _ = (host_of(url), same_origin(url, location));
    let Some(to) = resolve(url, location) else {
        return;
    };
    let scheme = to.split("://").next().unwrap_or_default();
    assert!(
        ["http", "https"].contains(&&*scheme.to_ascii_lowercase()),
        "{to}"
    );
    assert!(has_tls(&to) || !has_tls(url), "{url} to {to}");
    assert!(same_origin(&to, &to));
    if location.starts_with('/') && !location.starts_with("//") {
        assert!(same_origin(url, &to), "{url} to {to}");
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The addresses of names, by the C library, in a thread that is not waited for longer than a request has time.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::Builder;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::time::Duration;

use crate::failure::Failure;
use crate::memory::STACK;

/// The library's own, but for its threads: where the kernel makes none, the library's panics.
#[derive(Debug)]
pub(super) struct Resolving;

/// That the kernel makes no thread.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoThread(String);

impl Resolver for Resolving {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (send, receive) = sync_channel(1);
        let (uri, config) = (uri.clone(), config.clone());
        // Without a timeout, the library starts no thread.
        let without = NextTimeout {
            after: Duration::NotHappening,
            ..timeout
        };
        let resolving = move || {
            // Nobody may wait any more.
            let _ = send.send(DefaultResolver::default().resolve(&uri, &config, without));
        };
        let thread = Builder::new().stack_size(STACK).spawn(resolving);
        thread.map_err(|error| {
            let text = Failure::no_thread(&error).message;
            Error::Io(io::Error::other(NoThread(text)))
        })?;
        let found = receive.recv_timeout(*timeout.after);
        found.map_err(|_| Error::Timeout(timeout.reason))?
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What the service manager hands over at the start: sockets to listen on, and connections that
//! outlived another process.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use offline_fs_kbc::server::fdstore::is_connection;
use offline_fs_kbc::server::listener::{Address, Bound};
use offline_fs_kbc::server::{Kept, notify};
use tracing::{error, info, warn};

use crate::config::{Choice, Role, Sockets};
use crate::sys;

/// What this process was started with.
#[derive(Default)]
pub struct Activation {
    listeners: Vec<(Role, Address, Bound)>,
    connections: Vec<(PathBuf, UnixStream, String)>,
}

impl Activation {
    /// Takes what this process was started with. What can't be used is logged and closed.
    ///
    /// To be called before any descriptor is opened for long.
    pub fn take() -> Self {
        let mut activation = Self::default();
        let descriptors = sys::take_descriptors().unwrap_or_else(|error| {
            error!("can't take the descriptors that the service manager announces: {error}");
            Vec::new()
        });
        for (descriptor, name) in descriptors {
            if is_connection(&name) {
                activation.add_connection(descriptor, name);
            } else {
                activation.add_listener(descriptor, &name);
            }
        }
        activation
    }

    fn add_listener(&mut self, descriptor: OwnedFd, name: &str) {
        let Some(role) = Role::of_descriptor(name) else {
            error!(
                "a descriptor {name:?} was handed over and is not used; in the socket unit, write \
                 FileDescriptorName= getresource, keyprovider, attestation or cdh"
            );
            return;
        };
        match Bound::handed_over(UnixListener::from(descriptor)) {
            Ok((address, bound)) => self.listeners.push((role, address, bound)),
            Err(error) => error!(
                "the descriptor {name} that was handed over is not used: {error}; in the socket \
                 unit, write ListenStream= with an absolute path"
            ),
        }
    }

    fn add_connection(&mut self, descriptor: OwnedFd, name: String) {
        let stream = UnixStream::from(descriptor);
        let address = stream
            .set_nonblocking(true)
            .and_then(|()| stream.local_addr());
        let path = match &address {
            Ok(address) => address.as_pathname(),
            Err(_) => None,
        };
        match path {
            Some(path) => self.connections.push((path.to_owned(), stream, name)),
            // Nothing is lost: its client is gone, or it never was a connection of ours.
            None => notify::remove(&name),
        }
    }

    /// Puts the sockets in the place of those that `sockets` would have by default. What a flag says
    /// otherwise holds beside; only `none` leaves a socket out.
    ///
    /// Gives the addresses to serve beyond those of `sockets`.
    pub fn choose(&mut self, sockets: &mut Sockets) -> Vec<(Address, Vec<Role>)> {
        let mut beyond = Vec::new();
        self.listeners.retain(|(role, address, _)| {
            let choice = sockets.choice(*role);
            match choice {
                None => *choice = Some(Choice::At(address.clone())),
                Some(Choice::At(chosen)) if chosen == address => {}
                Some(Choice::At(_)) => beyond.push((address.clone(), vec![*role])),
                Some(Choice::Off) => {
                    warn!(
                        "{address} is switched off, and nobody answers there; disable its socket unit"
                    );
                    return false;
                }
            }
            true
        });
        beyond
    }

    /// The socket at the address, if it was handed over.
    pub fn listener(&mut self, address: &Address) -> Option<Bound> {
        let at = self.listeners.iter().position(|(_, at, _)| at == address)?;
        Some(self.listeners.swap_remove(at).2)
    }

    /// The connections that were accepted at the address.
    pub fn connections(&mut self, address: &Address) -> Vec<Kept> {
        let (at, elsewhere) = std::mem::take(&mut self.connections)
            .into_iter()
            .partition(|(path, _, _)| path == address.path());
        self.connections = elsewhere;
        let at: Vec<(PathBuf, UnixStream, String)> = at;
        let kept = at.into_iter().filter_map(|(_, stream, name)| {
            let stream = tokio::net::UnixStream::from_std(stream).ok()?;
            Some((stream, name))
        });
        kept.collect()
    }

    /// Closes the connections that belong to no address that is served.
    pub fn close_rest(self) {
        for (path, _, name) in self.connections {
            let path: &Path = &path;
            info!(
                "a connection to {} is closed: that is not served any more",
                path.display()
            );
            notify::remove(&name);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Socket activation: the descriptors that the service manager passes at the start, which are listening
//! sockets, and connections of an earlier process from the descriptor store.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use offline_fs_kbc::server::fdstore::is_connection;
use offline_fs_kbc::server::listener::{Address, BoundSocket};
use offline_fs_kbc::server::{StoredConnection, notify};
use tracing::{error, info, warn};

use crate::config::{Choice, Role, Sockets};
use crate::sys;

/// The descriptors that this process was started with.
#[derive(Default)]
pub struct Activation {
    listeners: Vec<(Role, Address, BoundSocket)>,
    connections: Vec<(PathBuf, UnixStream, String)>,
}

impl Activation {
    /// Takes the descriptors. Those that can't be used are closed, and the log says why.
    ///
    /// To be called before the process opens descriptors of its own.
    pub fn take() -> Self {
        let mut activation = Self::default();
        let descriptors = sys::take_descriptors().unwrap_or_else(|error| {
            error!("can't use the descriptors that the service manager announces: {error}");
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
                "unknown descriptor {name:?} from the service manager; in the socket unit, write \
                 FileDescriptorName= getresource, keyprovider, attestation or cdh"
            );
            return;
        };
        match BoundSocket::from_activation(UnixListener::from(descriptor)) {
            Ok((address, bound)) => self.listeners.push((role, address, bound)),
            Err(error) => error!(
                "can't use the descriptor {name} from the service manager: {error}; in the socket \
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
            // Its client is gone, or it is not a connection of this daemon.
            None => notify::remove(&name),
        }
    }

    /// Uses the sockets from the service manager instead of the defaults of `sockets`. If a flag gives
    /// another address, both are served; only `none` leaves a socket out.
    ///
    /// Returns the addresses to serve in addition to those of `sockets`.
    pub fn assign_to(&mut self, sockets: &mut Sockets) -> Vec<(Address, Vec<Role>)> {
        let mut additional = Vec::new();
        self.listeners.retain(|(role, address, _)| {
            let choice = sockets.choice(*role);
            match choice {
                None => *choice = Some(Choice::At(address.clone())),
                Some(Choice::At(chosen)) if chosen == address => {}
                Some(Choice::At(_)) => additional.push((address.clone(), vec![*role])),
                Some(Choice::Off) => {
                    warn!(
                        "{address} is switched off, so clients that connect there get no answer; disable its socket unit"
                    );
                    return false;
                }
            }
            true
        });
        additional
    }

    /// The socket from the service manager at this address.
    pub fn listener(&mut self, address: &Address) -> Option<BoundSocket> {
        let at = self.listeners.iter().position(|(_, at, _)| at == address)?;
        Some(self.listeners.swap_remove(at).2)
    }

    /// The stored connections that were accepted at this address.
    pub fn connections(&mut self, address: &Address) -> Vec<StoredConnection> {
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

    /// Closes the stored connections whose address is not served any more.
    pub fn close_unserved(self) {
        for (path, _, name) in self.connections {
            let path: &Path = &path;
            info!(
                "closed a connection to {}, which is not served any more",
                path.display()
            );
            notify::remove(&name);
        }
    }
}

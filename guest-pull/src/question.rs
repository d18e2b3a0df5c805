// SPDX-License-Identifier: Apache-2.0

//! What only the daemon has, and the worker needs while it works.

use zeroize::Zeroizing;

use crate::registry::Login;

/// What the worker asks the mounter for, since it can't ask the daemon: nothing else is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The login for a place anew, since its registry refuses the one that it had: the number of the place.
    Login(usize),
    /// The key of an encrypted layer: the provider's name, and the annotation's packet.
    Key {
        /// The key provider that the annotation names.
        provider: String,
        /// The packet, as the annotation has it, decoded.
        packet: Vec<u8>,
    },
}

/// What the mounter answers.
pub enum Answer {
    /// The login of today, if there is one.
    Login(Option<Login>),
    /// The key's options, as the provider gives them.
    Key(Zeroizing<Vec<u8>>),
}

// SPDX-License-Identifier: Apache-2.0

//! What the worker asks the mounter for: layers' files, and what only the daemon has. Nothing else is answered.

use std::fs::File;
use std::io;

use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::failure::Failure;
use crate::registry::Login;

/// What the worker asks.
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
    /// A signature by GPG in a storage of the VM.
    Signature(Wanted),
    /// Whether a layer is stored, or else the files to make it.
    Claim {
        /// The digest of its archive.
        layer: Digest,
        /// How many bytes its blob has.
        bytes: u64,
    },
    /// The layer is made.
    Finish(Digest),
    /// The layer can't be made.
    Release(Digest),
    /// To hold a layer, if it is stored, so that it is not evicted for the room of another one.
    Hold(Digest),
    /// More room in the store for a layer that had too little.
    Room(Digest),
}

/// Which signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The URL of the storage: one of those in the rules that the worker has.
    pub storage: String,
    /// The digest that is signed.
    pub digest: Digest,
    /// The number of the signature, beginning with 1.
    pub number: usize,
}

/// What the mounter answers.
pub enum Answer {
    /// The login of today, if there is one.
    Login(Option<Login>),
    /// The key's options, as the provider gives them.
    Key(Zeroizing<Vec<u8>>),
    /// The signature, if it is there.
    Signature(Option<Vec<u8>>),
    /// The layer is stored.
    Stored,
    /// Another pull is making the layer; of room, there may be more when the layers are made that are being made. Ask again.
    Busy,
    /// The layer is to be made, into these files.
    Make(Files),
    /// It is done; of room, whether there is more now; of a layer to hold, whether it is stored.
    Done(bool),
}

/// The files of a layer that is being made, all empty at first. Who has them can write these, and no other.
#[derive(Debug)]
pub struct Files {
    /// Becomes the layer.
    pub layer: File,
    /// Becomes the notes about it.
    pub notes: File,
    /// For what need not stay. It has no name.
    pub scratch: File,
}

impl Files {
    /// The same files again.
    ///
    /// # Errors
    ///
    /// If there are too many descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            layer: self.layer.try_clone()?,
            notes: self.notes.try_clone()?,
            scratch: self.scratch.try_clone()?,
        })
    }
}

/// Answers the worker.
pub type Ask<'a> = dyn Fn(&Question) -> Result<Answer, Failure> + Sync + 'a;

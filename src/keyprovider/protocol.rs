// SPDX-License-Identifier: Apache-2.0

//! ocicrypt's key-provider protocol, as clients use it over ttrpc.

use std::fmt::Write as _;

use crate::json::{self, Member};
use crate::keyprovider::Error;
use crate::keyprovider::annotation::Packet;
use common::base64;

/// The most members of an object of the protocol.
pub(super) const MAX_MEMBERS: usize = 100;

/// The packet that a request asks to unwrap.
///
/// Only the annotation is used. The parameters next to it (`dc`) name the KBC in requests of 2023, and are of
/// no use in later ones.
///
/// # Errors
///
/// [`Error::Protocol`] and [`Error::Packet`].
pub fn read_unwrap(text: &[u8]) -> Result<Packet, Error> {
    let fault = |text: &str| Error::Protocol(text.to_owned());
    let request =
        json::members(text, MAX_MEMBERS).map_err(|error| Error::Protocol(error.to_string()))?;
    if json::string(&request, "op").is_some_and(|op| op != "keyunwrap") {
        return Err(fault("its op is not \"keyunwrap\""));
    }
    let parameters =
        json::value(&request, "keyunwrapparams").ok_or_else(|| fault("no \"keyunwrapparams\""))?;
    let parameters = json::members(parameters.as_bytes(), MAX_MEMBERS)
        .map_err(|_| fault("\"keyunwrapparams\" is not an object"))?;
    packet(&parameters)
}

/// The packet among the members of `keyunwrapparams`.
pub(super) fn packet(parameters: &[Member<'_>]) -> Result<Packet, Error> {
    let fault = |text: &str| Error::Protocol(text.to_owned());
    let annotation = json::string(parameters, "annotation")
        .ok_or_else(|| fault("no string \"annotation\" in \"keyunwrapparams\""))?;
    let annotation = base64::decode(&annotation)
        .map_err(|error| Error::Protocol(format!("\"annotation\" is {error}")))?;
    Packet::parse(&annotation)
}

/// The answer with the unwrapped bytes as a JSON array of numbers, which is what the released services over
/// ttrpc write and ocicrypt-rs reads.
///
/// The RPC crate takes a plain vector; the program's allocator wipes it when it is freed.
pub fn write_unwrapped(bytes: &[u8]) -> Vec<u8> {
    const BEFORE: &str = r#"{"keyunwrapresults":{"optsdata":["#;
    const AFTER: &str = "]}}";
    // Allocate all of it at once, since a string that grows leaves copies in memory.
    let room = BEFORE.len() + bytes.len() * "255,".len() + AFTER.len();
    let mut text = String::with_capacity(room);
    text.push_str(BEFORE);
    for (index, byte) in bytes.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{byte}");
    }
    text.push_str(AFTER);
    text.into_bytes()
}

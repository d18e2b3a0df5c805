// SPDX-License-Identifier: Apache-2.0

//! The methods that a socket offers, and what a call reports to the log.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use protobuf::Message;
use ttrpc::{Code, Request, Response, Status, get_status};

use crate::server::output::Reply;
use crate::text::{Escaped, Quoted};

/// An answer, or the status of a refusal.
pub type Result<T> = std::result::Result<T, Status>;

/// The work on a request, whose result is the answer.
pub type Later = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Answers a request, or gives the work whose result is the answer.
type Call = dyn Fn(&Request, &mut Notes, Reply<'_>) -> Result<Option<Later>> + Send + Sync;

/// One method of a service.
pub struct Method {
    /// The service's name, with its package.
    pub service: &'static str,
    /// The method's name.
    pub name: &'static str,
    /// Both as ttrpc writes them, `/service/method`, for the log.
    pub path: Arc<str>,
    call: Box<Call>,
}

impl Method {
    /// A method that takes a request of one type and gives an answer of another.
    pub fn new<Q: Message, A: Message>(
        service: &'static str,
        name: &'static str,
        answer: impl Fn(Q, &mut Notes) -> Result<A> + Send + Sync + 'static,
    ) -> Self {
        Self::with(service, name, move |request, notes, reply| {
            reply.send(&answer(decode(&request.payload)?, notes)?)?;
            Ok(None)
        })
    }

    /// A method that takes a request of one type and always refuses.
    pub fn refused<Q: Message>(
        service: &'static str,
        name: &'static str,
        refuse: impl Fn(Q, &mut Notes) -> Status + Send + Sync + 'static,
    ) -> Self {
        Self::with(service, name, move |request, notes, _| {
            Err(refuse(decode(&request.payload)?, notes))
        })
    }

    /// A method whose answer takes long. Other requests of the same connection are answered meanwhile.
    pub fn later<Q: Message>(
        service: &'static str,
        name: &'static str,
        begin: impl Fn(Q, &Request, &mut Notes) -> Result<Later> + Send + Sync + 'static,
    ) -> Self {
        Self::with(service, name, move |request, notes, _| {
            begin(decode(&request.payload)?, request, notes).map(Some)
        })
    }

    fn with(
        service: &'static str,
        name: &'static str,
        call: impl Fn(&Request, &mut Notes, Reply<'_>) -> Result<Option<Later>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            service,
            name,
            path: format!("/{service}/{name}").into(),
            call: Box::new(call),
        }
    }

    /// Answers a request, or gives the work whose result is the answer.
    ///
    /// # Errors
    ///
    /// The status of the refusal; the caller removes what was written of an answer.
    pub fn call(
        &self,
        request: &Request,
        notes: &mut Notes,
        reply: Reply<'_>,
    ) -> Result<Option<Later>> {
        (self.call)(request, notes, reply)
    }
}

fn decode<Q: Message>(payload: &[u8]) -> Result<Q> {
    Q::parse_from_bytes(payload).map_err(|_| {
        get_status(
            Code::INVALID_ARGUMENT,
            "the request's payload does not decode",
        )
    })
}

/// What a call reports to the log, besides its answer.
#[derive(Debug, Default)]
pub struct Notes {
    /// What the call is about.
    pub subject: Subject,
    /// What the answer makes the client do, where that is not what a person would expect.
    pub consequence: Option<Consequence>,
    /// Whether the call is left out of the request log, such as a call for the status.
    pub is_unlogged: bool,
}

/// What a call is about: the name of a resource, never a value. It is formatted only when it is shown.
#[derive(Clone, Debug, Default)]
pub enum Subject {
    /// Nothing that has a name.
    #[default]
    None,
    /// A name in the form in which it is looked up.
    Name(Arc<str>),
    /// A name as the peer sent it.
    Quoted(Arc<str>),
    /// A text of this program.
    Text(Arc<str>),
}

impl Subject {
    /// The length of the text in bytes. If the peer chose the text, it can be as long as a frame.
    pub fn size(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Name(text) | Self::Quoted(text) | Self::Text(text) => text.len(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Name(text) => Escaped(text).fmt(f),
            Self::Quoted(text) => Quoted(text).fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// What an answer makes a client do: a phrase that follows the client's name.
#[derive(Debug)]
pub struct Consequence {
    /// The phrase.
    pub text: String,
    /// Whether somebody has something to fix.
    pub is_warning: bool,
}

// SPDX-License-Identifier: Apache-2.0

//! What the HTTP library does not know of proxies: a request without TLS is handed to the proxy whole, with the full URL
//! in its first line. The library would ask the proxy for a tunnel (CONNECT), which proxies allow to port 443 alone.

use ureq::Error;
use ureq::config::Config;
use ureq::http::uri::Scheme;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

/// Connects to servers, through the proxy of the agent's configuration if it has one.
#[derive(Debug)]
pub(super) struct Forwarding {
    default: DefaultConnector,
    /// The configuration with which the proxy itself is reached.
    direct: Config,
}

impl Forwarding {
    pub(super) fn new(direct: Config) -> Self {
        Self {
            default: DefaultConnector::default(),
            direct,
        }
    }
}

impl Connector<()> for Forwarding {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let proxy = details.config.proxy();
        let proxy = proxy.filter(|_| details.uri.scheme() == Some(&Scheme::HTTP));
        let (Some(proxy), Some(server)) = (proxy, details.uri.authority()) else {
            return self.default.connect(details, chained);
        };
        let addrs = details
            .resolver
            .resolve(proxy.uri(), &self.direct, details.timeout)?;
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let transport = self.default.connect(&to_proxy, chained)?;
        Ok(transport.map(|proxy| {
            let forwarded = Forwarded {
                proxy,
                origin: format!("http://{server}"),
                begins: true,
            };
            Box::new(forwarded) as Box<dyn Transport>
        }))
    }
}

/// A connection to a proxy, for requests to one server.
#[derive(Debug)]
struct Forwarded {
    proxy: Box<dyn Transport>,
    /// The beginning of the server's URLs.
    origin: String,
    /// Whether what is sent next begins a request.
    begins: bool,
}

impl Transport for Forwarded {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.proxy.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if !self.begins {
            return self.proxy.transmit_output(amount, timeout);
        }
        // `GET /path` becomes `GET http://server/path`.
        let output = self.proxy.buffers().output();
        let more = self.origin.len();
        let head = output.get(..amount).unwrap_or_default();
        let path = head.iter().position(|byte| *byte == b' ').map(|at| at + 1);
        let (Some(path), true) = (path, amount + more <= output.len()) else {
            return Err(Error::ConnectProxyFailed(
                "the request is too long".to_owned(),
            ));
        };
        output.copy_within(path..amount, path + more);
        if let Some(room) = output.get_mut(path..path + more) {
            room.copy_from_slice(self.origin.as_bytes());
        }
        self.begins = false;
        self.proxy.transmit_output(amount + more, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // The answer: what is sent after it is another request.
        self.begins = true;
        self.proxy.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.proxy.is_open()
    }

    // TLS to the proxy is none to the server, and this one is asked without.
}

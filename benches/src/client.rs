// SPDX-License-Identifier: Apache-2.0

//! The load: one client that waits for each answer, and many clients with many requests in flight.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::wire::{self, HEADER};

/// How long an answer may take before a measurement is given up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request, and the length of its answer.
#[derive(Clone)]
pub struct Exchange {
    /// The bytes of one request.
    pub request: Vec<u8>,
    /// The length of one answer, header included.
    pub answer: usize,
}

/// A connection with one request in flight at a time.
pub struct Client {
    stream: UnixStream,
    exchange: Exchange,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects without sending a request.
    pub fn connect(socket: &Path, exchange: &Exchange) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            exchange: exchange.clone(),
            buffer: vec![0; exchange.answer],
        })
    }

    /// Sends the request and waits for the whole answer.
    pub fn ask(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.exchange.request)?;
        self.stream.read_exact(&mut self.buffer)
    }

    /// The latency of each of `requests` requests, in µs.
    pub fn latencies(&mut self, requests: usize) -> Vec<f64> {
        (0..requests)
            .map(|_| {
                let start = Instant::now();
                self.ask().expect("an answer");
                start.elapsed().as_nanos() as f64 / 1e3
            })
            .collect()
    }
}

/// Sends a request to a ttrpc server, which must answer with `bytes` bytes, and returns the length of the
/// answer.
pub fn learn(socket: &Path, request: &[u8], bytes: usize) -> io::Result<Exchange> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let body = receive(&mut stream)?;
    let resource = wire::resource(&body).map_err(|code| io::Error::other(format!("{code:?}")))?;
    assert_eq!(resource.len(), bytes, "another resource");
    Ok(Exchange {
        request: request.to_vec(),
        answer: HEADER + body.len(),
    })
}

/// The body of the next frame.
pub fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; wire::body_length(&header)];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// The number of answers per second on `connections` connections with `in_flight` requests each.
pub fn throughput(
    socket: &Path,
    exchange: &Exchange,
    connections: usize,
    in_flight: usize,
    time: Duration,
) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                let (socket, exchange) = (socket.to_owned(), exchange.clone());
                tokio::task::spawn_local(pipeline(socket, exchange, in_flight, start + time))
            })
            .collect();
        let mut answers = 0;
        for task in tasks {
            answers += task.await.expect("a task").expect("answers");
        }
        answers as f64 / start.elapsed().as_secs_f64()
    })
}

/// Keeps `in_flight` requests in flight until `end`; returns how many were answered.
async fn pipeline(
    socket: std::path::PathBuf,
    exchange: Exchange,
    in_flight: usize,
    end: Instant,
) -> io::Result<u64> {
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    let burst = exchange.request.repeat(in_flight);
    stream.write_all(&burst).await?;
    let mut buffer = vec![0; (64 << 10).max(exchange.answer)];
    let (mut answers, mut begun) = (0, 0);
    while Instant::now() < end {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        begun += read;
        let whole = begun / exchange.answer;
        begun %= exchange.answer;
        answers += whole as u64;
        let more = whole * exchange.request.len();
        stream.write_all(&burst[..more]).await?;
    }
    Ok(answers)
}

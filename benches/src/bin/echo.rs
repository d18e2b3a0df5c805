// SPDX-License-Identifier: Apache-2.0

//! The floor of every figure: a bare tokio server that answers each IN bytes with OUT bytes.
//!
//! `echo SOCKET IN OUT`

use std::env;
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

fn main() -> io::Result<()> {
    let mut args = env::args().skip(1);
    let mut next = || args.next().ok_or(io::ErrorKind::InvalidInput);
    let socket = next()?;
    let request: usize = next()?.parse().map_err(io::Error::other)?;
    let answer: usize = next()?.parse().map_err(io::Error::other)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = UnixListener::bind(socket)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(echo(stream, request, answer));
            }
        })
}

async fn echo(mut stream: UnixStream, request: usize, answer: usize) -> io::Result<()> {
    let mut input = vec![0; 4096];
    let mut output = Vec::new();
    let mut begun = 0;
    loop {
        let read = stream.read(&mut input).await?;
        if read == 0 {
            return Ok(());
        }
        begun += read;
        output.resize(begun / request * answer, b'x');
        begun %= request;
        stream.write_all(&output).await?;
    }
}

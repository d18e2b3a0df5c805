// SPDX-License-Identifier: Apache-2.0

//! Starting another program.
//!
//! The standard library's `Command` can also fork, and brings fork(2) with the C library's streams into a static binary:
//! 21 KB more than this takes.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// The most that is read of what a program says: far more than an error has.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// Starts a program with this environment, and gives it these descriptors as its standard input, output and error; where
/// there is none, it has this process's. A name without a slash is looked for in `PATH`.
///
/// # Errors
///
/// If it can't be started; `NotFound` if it isn't there.
pub fn start(
    program: &OsStr,
    args: &[OsString],
    streams: [Option<BorrowedFd<'_>>; 3],
) -> io::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    for (number, stream) in (0..).zip(streams) {
        if let Some(stream) = stream {
            actions.add_dup2(stream.as_raw_fd(), number)?;
        }
    }
    // This process ignores SIGPIPE, and programs expect that it ends them.
    let mut attributes = PosixSpawnAttr::init()?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGPIPE);
    attributes.set_sigdefault(&signals)?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
    let program = text(program)?;
    let mut arguments = vec![program.clone()];
    for argument in args {
        arguments.push(text(argument)?);
    }
    let mut environment = Vec::new();
    for (name, value) in env::vars_os() {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        environment.extend(CString::new(variable));
    }
    Ok(posix_spawnp(
        &program,
        &actions,
        &attributes,
        &arguments,
        &environment,
    )?)
}

/// How a program ended, and what it said.
pub struct Ended {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub output: Vec<u8>,
    /// Its standard error.
    pub error: Vec<u8>,
}

/// Runs a program to its end, with this file as its standard input.
///
/// # Errors
///
/// If it can't be started; `NotFound` if it isn't there.
pub fn run(program: &OsStr, args: &[OsString], input: &File) -> io::Result<Ended> {
    // In memory, so that nothing is left, whatever ends this process.
    let memory = || memfd_create(c"output", MFdFlags::MFD_CLOEXEC).map(File::from);
    let (mut output, mut error) = (memory()?, memory()?);
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()].map(Some);
    let pid = start(program, args, streams)?;
    let status = loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, status)) => break Some(status),
            Ok(WaitStatus::Signaled(..)) => break None,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    Ok(Ended {
        status,
        output: read(&mut output)?,
        error: read(&mut error)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sh(script: &str) -> Ended {
        let input = File::open("/dev/null").unwrap();
        run("sh".as_ref(), &["-c".into(), script.into()], &input).unwrap()
    }

    /// A program gets its arguments, this environment and its streams, and its end is told apart.
    #[test]
    fn programs_run() {
        let ended = sh("echo \"$PATH\"; echo b >&2; exit 3");
        assert_eq!(ended.status, Some(3));
        let path = env::var("PATH").unwrap();
        assert_eq!(ended.output, format!("{path}\n").as_bytes());
        assert_eq!(ended.error, b"b\n");
        assert_eq!(sh("kill -9 $$").status, None);
        // A reader that is gone ends it.
        assert_eq!(sh("yes | true").status, Some(0));
        let input = File::open("/dev/null").unwrap();
        let missing = run("/nonexistent/program".as_ref(), &[], &input);
        assert_eq!(missing.err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Programs that run beside a measurement or a soak and end with it.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to start.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often is looked whether a server can be reached.
const LOOK: Duration = Duration::from_millis(10);

/// A process that is killed when this is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a server without standard input and output, and waits until it can be reached.
    ///
    /// # Errors
    ///
    /// If it can't be started, ends, or can't be reached in time.
    pub fn server(command: &mut Command, is_there: impl Fn() -> bool) -> Result<Self, String> {
        let program = command.get_program().to_owned();
        let failed = |what: String| format!("{program:?}: {what}");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut running = Self(child.map_err(|error| failed(error.to_string()))?);
        let end = Instant::now() + PATIENCE;
        while !is_there() {
            if let Ok(Some(status)) = running.0.try_wait() {
                return Err(failed(format!("it ended: {status}")));
            }
            if Instant::now() > end {
                return Err(failed("it does not answer".to_owned()));
            }
            thread::sleep(LOOK);
        }
        Ok(running)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

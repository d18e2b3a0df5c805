// SPDX-License-Identifier: Apache-2.0

//! How long servers are waited for.

use std::time::Duration;

/// How long a server may take to answer a connection. Then it is tried again.
pub(super) const CONNECT: Duration = Duration::from_secs(15);

/// How long a server may send nothing, before its answer or within. Then the connection counts as cut, and it is asked again
/// for the rest: long enough for lost packets, and short enough for several tries in a minute. Who is asked again may take
/// longer until its answer begins ([`crate::registry::connection::answer_time`]).
pub(super) const STALL: Duration = Duration::from_secs(15);

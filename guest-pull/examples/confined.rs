// SPDX-License-Identifier: Apache-2.0

//! A worker that, in place of pulling, tries what somebody would try who has taken it over.
//!
//! The tests start it as the mounter starts a worker. It tells what worked, by name. The name by which it is started says
//! which part of the confinement is left out, so that the tests can tell that each part stops something that no other does.

#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use guest_pull::worker::confinement::Part;
use guest_pull::worker::{self, Failure, Kind, Request};
use serde_json::Value;

/// System calls that no crate has, or has only in a form that looks first whether they can work.
mod raw {
    #![allow(unsafe_code)]

    /// Makes a system call whose pointers lead to memory that outlives it; says whether the kernel took it up: it did not
    /// say that there is no such call, or that this process may not make it.
    pub fn taken_up(number: libc::c_long, arguments: [usize; 6]) -> bool {
        succeeds(number, arguments) || {
            let error = std::io::Error::last_os_error();
            let refused = [libc::ENOSYS, libc::EPERM, libc::EACCES];
            !error
                .raw_os_error()
                .is_some_and(|code| refused.contains(&code))
        }
    }

    /// Makes one that has an effect only on this process.
    pub fn succeeds(number: libc::c_long, arguments: [usize; 6]) -> bool {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: the kernel checks the pointers; those that are given lead to memory that lives longer than the call.
        unsafe { libc::syscall(number, a, b, c, d, e, f) >= 0 }
    }

    /// Starts a process, which ends at once.
    pub fn forks() -> bool {
        // SAFETY: the new process has copies of everything, and makes one call.
        unsafe {
            match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
                0 => libc::_exit(0),
                result => result > 0,
            }
        }
    }
}

/// `CAP_SYS_ADMIN` of the kernel's `include/uapi/linux/capability.h`.
const SYS_ADMIN: usize = 21;

/// What there is to try, which the test has prepared.
struct Targets {
    /// A file that everybody may read.
    readable: PathBuf,
    /// A file that root alone may read.
    secret: PathBuf,
    /// A directory that everybody may write.
    writable: PathBuf,
    /// A socket that everybody may connect to.
    open_socket: PathBuf,
    /// A socket of the daemon, which root alone may connect to.
    daemon_socket: PathBuf,
    /// Another process.
    process: usize,
    /// A port of this machine on which somebody listens.
    port: u16,
}

impl Targets {
    /// As they come before a certificate.
    fn of(request: &Request) -> Self {
        let value: Value =
            serde_json::from_str(request.certificates[0].lines().next().unwrap()).unwrap();
        let path = |name: &str| PathBuf::from(value[name].as_str().unwrap());
        Self {
            readable: path("readable"),
            secret: path("secret"),
            writable: path("writable"),
            open_socket: path("open_socket"),
            daemon_socket: path("daemon_socket"),
            process: value["process"].as_u64().unwrap() as usize,
            port: value["port"].as_u64().unwrap() as u16,
        }
    }
}

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    let left_out = name.to_str().and_then(|name| name.strip_prefix("without-"));
    let left_out = left_out.map(|name| Part::parse(name).unwrap());
    let parts: Vec<_> = Part::ALL
        .into_iter()
        .filter(|part| Some(*part) != left_out)
        .collect();
    let ran = worker::run_as(&parts, &|request, mounter| {
        match name.to_str() {
            Some("noisy") => log_without_end(),
            Some("boasts") => say(&[r#"{"confinement":{}}"#]),
            Some("starts-twice") => say(&[r#"{"started":{}}"#; 2]),
            Some("counts-without-end") => say(&[r#"{"layer":{}}"#; 1_001]),
            // Each has an answer.
            Some("deaf") => say(&[r#"{"ask":{"login":99}}"#; 100_000]),
            _ => {}
        }
        let targets = Targets::of(request);
        let worked: Vec<_> = all(&targets)
            .into_iter()
            .filter(|(_, worked)| *worked)
            .collect();
        let mut names: Vec<_> = worked.into_iter().map(|(name, _)| name).collect();
        // The mounter's own parts: what it answers does not depend on the worker's.
        for (name, question) in asked() {
            if mounter.ask(&question).is_ok() {
                names.push(name);
            }
        }
        Err(Failure::new(Kind::Other, names.join(" ")))
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs many lines, long ones, and what is none.
fn log_without_end() {
    let mut log = io::stderr();
    log.write_all(b"\x1b[2J\rguest-pull: \xff\0\n").unwrap();
    log.write_all(&[b'x'; 100_000]).unwrap();
    for _ in 0..100_000 {
        log.write_all(b"\nguest-pull: registry.example/a:1: it is mounted")
            .unwrap();
    }
}

/// Writes lines to the mounter, and reads nothing.
fn say(lines: &[&str]) {
    use std::os::fd::AsFd as _;
    let mounter = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut mounter = UnixStream::from(mounter);
    for line in lines {
        // The mounter may have ended it.
        if writeln!(mounter, "{line}").is_err() {
            break;
        }
    }
    loop {
        std::thread::park();
    }
}

/// What a worker could ask that is none of its business.
fn asked() -> Vec<(&'static str, guest_pull::question::Question)> {
    use guest_pull::digest::Digest;
    use guest_pull::question::{Question, Wanted};
    vec![
        ("ask:a-login-of-another-place", Question::Login(1)),
        (
            "ask:a-file-as-a-signature",
            Question::Signature(Wanted {
                storage: "file:///etc/shadow".to_owned(),
                digest: Digest::of(b""),
                number: 1,
            }),
        ),
        (
            "ask:finish-of-another-layer",
            Question::Finish(Digest::of(b"x")),
        ),
    ]
}

/// Each attempt, and whether it worked.
fn all(targets: &Targets) -> Vec<(&'static str, bool)> {
    let mut all = files(targets);
    all.extend(processes(targets));
    all.extend(sockets(targets));
    all.extend(log());
    all.extend(kernel());
    all.extend(resources());
    all
}

fn files(targets: &Targets) -> Vec<(&'static str, bool)> {
    let Targets {
        readable, writable, ..
    } = targets;
    let new = |name: &str| writable.join(name);
    let there = writable.join("there");
    vec![
        ("read:/etc/shadow", fs::read("/etc/shadow").is_ok()),
        ("read:resources-file", fs::read(&targets.secret).is_ok()),
        ("read:readable-file", fs::read(readable).is_ok()),
        ("read:directory", fs::read_dir(writable).is_ok()),
        ("write:new-file", fs::write(new("a"), "x").is_ok()),
        (
            "write:shorten",
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&there)
                .is_ok(),
        ),
        (
            "write:append",
            OpenOptions::new().append(true).open(&there).is_ok(),
        ),
        ("write:directory", fs::create_dir(new("b")).is_ok()),
        ("write:link", fs::hard_link(&there, new("c")).is_ok()),
        ("write:symlink", symlink("/", new("d")).is_ok()),
        ("write:rename", fs::rename(&there, new("e")).is_ok()),
        ("write:remove", fs::remove_file(&there).is_ok()),
        (
            "write:mode",
            fs::set_permissions(&there, fs::Permissions::from_mode(0o777)).is_ok(),
        ),
        (
            "write:device",
            rustix::fs::mknodat(
                rustix::fs::CWD,
                new("f"),
                rustix::fs::FileType::CharacterDevice,
                rustix::fs::Mode::RWXU,
                rustix::fs::makedev(1, 3),
            )
            .is_ok(),
        ),
        (
            "run:program",
            Command::new("/bin/true")
                .status()
                .is_ok_and(|status| status.success()),
        ),
    ]
}

fn processes(targets: &Targets) -> Vec<(&'static str, bool)> {
    let other = targets.process;
    let proc = Path::new("/proc").join(other.to_string());
    let mut buffer = [0_u8; 64];
    let local = [buffer.as_mut_ptr() as usize, buffer.len()];
    let vector = local.as_ptr() as usize;
    vec![
        ("process:seen", fs::symlink_metadata(&proc).is_ok()),
        (
            "process:environment",
            fs::read(proc.join("environ")).is_ok_and(|text| !text.is_empty()),
        ),
        (
            "process:memory",
            OpenOptions::new().read(true).open(proc.join("mem")).is_ok(),
        ),
        (
            "process:memory-by-call",
            raw::taken_up(libc::SYS_process_vm_readv, [other, vector, 1, vector, 1, 0]),
        ),
        (
            "process:trace",
            raw::taken_up(
                libc::SYS_ptrace,
                [libc::PTRACE_SEIZE as usize, other, 0, 0, 0, 0],
            ),
        ),
        (
            "process:signal",
            raw::taken_up(libc::SYS_kill, [other, 0, 0, 0, 0, 0]),
        ),
        (
            "process:signal-all",
            raw::taken_up(libc::SYS_kill, [usize::MAX, 0, 0, 0, 0, 0]),
        ),
        (
            "process:descriptor",
            raw::taken_up(libc::SYS_pidfd_open, [other, 0, 0, 0, 0, 0]),
        ),
        (
            "process:limits",
            raw::taken_up(
                libc::SYS_prlimit64,
                [other, libc::RLIMIT_NOFILE as usize, 0, local[0], 0, 0],
            ),
        ),
        ("process:new", raw::forks()),
    ]
}

/// What can be done to what the mounter logs to, beside writing lines.
fn log() -> Vec<(&'static str, bool)> {
    let log = libc::STDERR_FILENO as usize;
    let flags = (libc::O_NONBLOCK | libc::O_WRONLY) as usize;
    vec![
        (
            "log:shorten",
            raw::succeeds(libc::SYS_ftruncate, [log, 0, 0, 0, 0, 0]),
        ),
        (
            "log:overwrite",
            raw::succeeds(
                libc::SYS_pwrite64,
                [log, c"x".as_ptr() as usize, 1, 0, 0, 0],
            ),
        ),
        (
            "log:read",
            raw::succeeds(libc::SYS_lseek, [log, 0, libc::SEEK_SET as usize, 0, 0, 0]),
        ),
        (
            "log:flags",
            raw::taken_up(
                libc::SYS_fcntl,
                [log, libc::F_SETFL as usize, flags, 0, 0, 0],
            ),
        ),
    ]
}

fn sockets(targets: &Targets) -> Vec<(&'static str, bool)> {
    let socket = |family: libc::c_int, kind: libc::c_int| {
        raw::succeeds(
            libc::SYS_socket,
            [family as usize, kind as usize, 0, 0, 0, 0],
        )
    };
    // A kernel without the protocol says so, after it has looked for a module.
    let speaks = |kind: libc::c_int, protocol: libc::c_int| {
        let arguments = [libc::AF_INET, kind, protocol, 0, 0, 0];
        raw::taken_up(libc::SYS_socket, arguments.map(|number| number as usize))
    };
    vec![
        (
            "socket:open-to-all",
            UnixStream::connect(&targets.open_socket).is_ok(),
        ),
        (
            "socket:of-the-daemon",
            UnixStream::connect(&targets.daemon_socket).is_ok(),
        ),
        ("socket:pair", UnixStream::pair().is_ok()),
        ("socket:raw", socket(libc::AF_INET, libc::SOCK_RAW)),
        ("socket:packet", socket(libc::AF_PACKET, libc::SOCK_RAW)),
        ("socket:netlink", socket(libc::AF_NETLINK, libc::SOCK_RAW)),
        ("socket:vsock", socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
        ("socket:ping", speaks(libc::SOCK_DGRAM, libc::IPPROTO_ICMP)),
        ("socket:sctp", speaks(libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
        ("socket:dccp", speaks(libc::SOCK_DCCP, libc::IPPROTO_DCCP)),
        (
            "socket:mptcp",
            speaks(libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        ),
        (
            "socket:udp-lite",
            speaks(libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        ),
        ("socket:listen", TcpListener::bind("127.0.0.1:0").is_ok()),
        // What it is there for: if this failed, the rest would prove nothing. The other end answers when it has looked at
        // this process from outside.
        (
            "network",
            TcpStream::connect(("127.0.0.1", targets.port))
                .is_ok_and(|mut stream| stream.read_exact(&mut [0]).is_ok()),
        ),
    ]
}

fn kernel() -> Vec<(&'static str, bool)> {
    let here = c"/".as_ptr() as usize;
    let tmpfs = c"tmpfs".as_ptr() as usize;
    let zero = [0_usize; 16];
    let pointer = zero.as_ptr() as usize;
    let none = [0; 6];
    vec![
        (
            "kernel:mount",
            raw::taken_up(libc::SYS_mount, [tmpfs, here, tmpfs, 0, 0, 0]),
        ),
        (
            "kernel:new-mount",
            raw::taken_up(libc::SYS_fsopen, [tmpfs, 0, 0, 0, 0, 0]),
        ),
        (
            "kernel:unmount",
            raw::taken_up(
                libc::SYS_umount2,
                [
                    c"/proc".as_ptr() as usize,
                    libc::MNT_DETACH as usize,
                    0,
                    0,
                    0,
                    0,
                ],
            ),
        ),
        (
            "kernel:root",
            raw::taken_up(libc::SYS_chroot, [here, 0, 0, 0, 0, 0]),
        ),
        (
            "kernel:user-namespace",
            raw::taken_up(
                libc::SYS_unshare,
                [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0],
            ),
        ),
        (
            "kernel:mount-namespace",
            raw::taken_up(
                libc::SYS_unshare,
                [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0],
            ),
        ),
        (
            "kernel:network-namespace",
            raw::taken_up(
                libc::SYS_unshare,
                [libc::CLONE_NEWNET as usize, 0, 0, 0, 0, 0],
            ),
        ),
        (
            "kernel:module",
            raw::taken_up(
                libc::SYS_delete_module,
                [c"none".as_ptr() as usize, 0, 0, 0, 0, 0],
            ),
        ),
        (
            "kernel:bpf",
            raw::taken_up(libc::SYS_bpf, [5, pointer, 72, 0, 0, 0]),
        ),
        (
            "kernel:perf",
            raw::taken_up(libc::SYS_perf_event_open, [pointer, 0, 0, 0, 0, 0]),
        ),
        (
            "kernel:keys",
            raw::taken_up(libc::SYS_keyctl, [0, usize::MAX, 0, 0, 0, 0]),
        ),
        (
            "kernel:rings",
            raw::taken_up(libc::SYS_io_uring_setup, [1, pointer, 0, 0, 0, 0]),
        ),
        (
            "kernel:faults",
            raw::taken_up(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
        ),
        (
            "kernel:host-name",
            raw::taken_up(libc::SYS_sethostname, [here, 1, 0, 0, 0, 0]),
        ),
        ("kernel:clock", raw::taken_up(libc::SYS_settimeofday, none)),
        (
            "kernel:log",
            raw::taken_up(libc::SYS_syslog, [10, 0, 0, 0, 0, 0]),
        ),
        (
            "kernel:swap",
            raw::taken_up(libc::SYS_swapoff, [here, 0, 0, 0, 0, 0]),
        ),
        ("kernel:root-user", raw::taken_up(libc::SYS_setuid, none)),
        ("kernel:groups", raw::taken_up(libc::SYS_setgroups, none)),
        (
            "kernel:capabilities",
            raw::taken_up(
                libc::SYS_prctl,
                [libc::PR_CAPBSET_READ as usize, SYS_ADMIN, 0, 0, 0, 0],
            ),
        ),
        (
            "kernel:dumpable",
            raw::taken_up(
                libc::SYS_prctl,
                [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0],
            ),
        ),
        (
            "kernel:memory-file",
            raw::taken_up(libc::SYS_memfd_create, [here, 0, 0, 0, 0, 0]),
        ),
        ("kernel:watch", raw::taken_up(libc::SYS_inotify_init1, none)),
        (
            "user:root",
            nix::unistd::getuid().is_root() || nix::unistd::geteuid().is_root(),
        ),
    ]
}

fn resources() -> Vec<(&'static str, bool)> {
    let (read, write, run) = (1, 2, 4);
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let map = |length: usize, rights: usize| {
        raw::succeeds(libc::SYS_mmap, [0, length, rights, private, usize::MAX, 0])
    };
    vec![
        // Never touched, so that it costs nothing where it works.
        ("limit:memory", map(1 << 30, read | write)),
        ("limit:code", map(4096, read | write | run)),
        ("limit:descriptors", descriptors() > 300),
    ]
}

/// How many descriptors there can be, up to some.
fn descriptors() -> usize {
    let mut held = Vec::new();
    while held.len() < 400 {
        match std::net::UdpSocket::bind("0.0.0.0:0").or_else(|_| dup()) {
            Ok(socket) => held.push(socket),
            Err(_) => break,
        }
    }
    held.len()
}

/// The mounter's socket once more, which stands for any.
fn dup() -> io::Result<std::net::UdpSocket> {
    use std::os::fd::AsFd as _;
    io::stdin().as_fd().try_clone_to_owned().map(Into::into)
}

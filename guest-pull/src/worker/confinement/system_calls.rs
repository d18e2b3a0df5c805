// SPDX-License-Identifier: Apache-2.0

//! The system calls that the worker can make: seccomp(2).
//!
//! What is not in the list fails as if the kernel did not have it (ENOSYS). The C library and Rust's take another way then,
//! where they have one. So a list that a later C library outgrows costs a pull, and not the worker's life without a word.
//!
//! The list is for glibc, of the architectures for which seccompiler makes filters (x86_64, aarch64, riscv64). Elsewhere there
//! is none, and the program only compiles.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Those that may be called with any arguments. They work on what the process has, or only tell something.
const ALLOWED: &[libc::c_long] = &[
    // Its files, its connections, and the mounter's.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_close,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmmsg,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_ppoll,
    // Memory, threads, time.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    // Who looks up a name of one part adds the domain of the host.
    libc::SYS_uname,
];

/// What the C library calls instead of a newer call where the architecture still has it.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_time, libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// What the C library calls to look at a file by its name, which needs no right of Landlock.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
const LOOK: &[libc::c_long] = &[libc::SYS_newfstatat, libc::SYS_readlinkat];
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
const LOOK: &[libc::c_long] = &[libc::SYS_readlinkat];

/// What `open` may not be asked for: to write, make or shorten a file.
const OPEN_MORE: libc::c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;

/// How many bytes have come, which the resolver asks for: `FIONREAD` of the kernel's `asm-generic/ioctls.h`.
const FIONREAD: u64 = 0x541b;

/// Not to wait at a connection, or to wait: `FIONBIO` there.
const FIONBIO: u64 = 0x5421;

/// The part of a socket's type that isn't a flag: `SOCK_TYPE_MASK` of the kernel's `include/linux/net.h`.
const SOCKET_KIND: u64 = 0xf;

/// Restricts this process, which has one thread.
pub(super) fn restrict() -> Result<(), String> {
    let arch = TargetArch::try_from(ARCH)
        .map_err(|_| format!("there is no list for {ARCH}; the unit's list holds"))?;
    let program = program(arch).map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}

fn program(arch: TargetArch) -> Result<BpfProgram, Error> {
    let any = ALLOWED.iter().chain(OLDER).chain(LOOK);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = any.map(|call| (*call, Vec::new())).collect();
    let condition = |(argument, operator, value)| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let ways = conditional().into_iter();
    for (call, all) in ways.chain(sockets().map(|all| (libc::SYS_socket, all))) {
        let all = all.into_iter().map(condition);
        let way = SeccompRule::new(all.collect::<Result<_, _>>()?)?;
        rules.entry(call).or_default().push(way);
    }
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(rules, missing, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}

/// The number of an argument, and what it must be.
type Condition = (u8, SeccompCmpOp, u64);

/// The kinds of sockets: TCP and UDP, over IPv4 and IPv6. Of local sockets, those of the bus and of other services are open to
/// everybody. Other protocols of the internet (SCTP, DCCP, L2TP, MPTCP, ICMP) are kernel code that a pull needs nothing of, and
/// the kernel would load modules for them.
fn sockets() -> impl Iterator<Item = Vec<Condition>> {
    let kinds = [
        (libc::SOCK_STREAM, [0, libc::IPPROTO_TCP]),
        (libc::SOCK_DGRAM, [0, libc::IPPROTO_UDP]),
    ];
    let families = [libc::AF_INET, libc::AF_INET6].into_iter();
    families.flat_map(move |family| {
        kinds.into_iter().flat_map(move |(kind, protocols)| {
            protocols.map(|protocol| {
                vec![
                    (0, SeccompCmpOp::Eq, family as u64),
                    (1, SeccompCmpOp::MaskedEq(SOCKET_KIND), kind as u64),
                    (2, SeccompCmpOp::Eq, protocol as u64),
                ]
            })
        })
    })
}

/// Those that may be called in some ways alone: each way with its conditions.
fn conditional() -> Vec<(libc::c_long, Vec<Condition>)> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let number = |value: libc::c_int| value as u64;
    let none_of = |flags: libc::c_int| MaskedEq(number(flags));
    vec![
        (
            libc::SYS_openat,
            vec![(2, none_of(OPEN_MORE), number(libc::O_RDONLY))],
        ),
        // No memory can be both written and run, and none that could be written can be run later: code that comes by an
        // error in a parser can't be. (Who runs code by other means can write it to the scratch file and map that.)
        (libc::SYS_mmap, vec![(2, none_of(libc::PROT_EXEC), 0)]),
        (libc::SYS_mmap, vec![(2, none_of(libc::PROT_WRITE), 0)]),
        (libc::SYS_mprotect, vec![(2, none_of(libc::PROT_EXEC), 0)]),
        // Threads, and no processes.
        (
            libc::SYS_clone,
            vec![(0, none_of(libc::CLONE_THREAD), number(libc::CLONE_THREAD))],
        ),
        (libc::SYS_ioctl, vec![(1, Eq, FIONREAD)]),
        (libc::SYS_ioctl, vec![(1, Eq, FIONBIO)]),
        // Not to set the flags of a file, which the mounter shares: F_SETFL.
        (libc::SYS_fcntl, vec![(1, Eq, number(libc::F_GETFL))]),
        (libc::SYS_fcntl, vec![(1, Eq, number(libc::F_GETFD))]),
        (libc::SYS_fcntl, vec![(1, Eq, number(libc::F_SETFD))]),
        (
            libc::SYS_fcntl,
            vec![(1, Eq, number(libc::F_DUPFD_CLOEXEC))],
        ),
        // The names of threads.
        (libc::SYS_prctl, vec![(0, Eq, number(libc::PR_SET_NAME))]),
    ]
}

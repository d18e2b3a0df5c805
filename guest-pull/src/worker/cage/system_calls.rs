// SPDX-License-Identifier: Apache-2.0

//! The system calls that the worker can make: seccomp(2).
//!
//! What is not in the list fails as if the kernel did not have it (ENOSYS). The C library and Rust's take another way then,
//! where they have one. So a list that a later C library outgrows costs a pull, and not the worker's life without a word.

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

/// Files are looked at by name only where Landlock lets them.
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
    for (call, conditions) in conditional() {
        let list = conditions.into_iter().map(|(argument, operator, value)| {
            let length = SeccompCmpArgLen::Dword;
            let condition = SeccompCondition::new(argument, length, operator, value)?;
            Ok(SeccompRule::new(vec![condition])?)
        });
        rules.insert(call, list.collect::<Result<_, Error>>()?);
    }
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(rules, missing, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}

/// The number of an argument, and what it must be.
type Condition = (u8, SeccompCmpOp, u64);

/// Those that may be called in some ways alone, each of which has one condition.
fn conditional() -> Vec<(libc::c_long, Vec<Condition>)> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let number = |value: libc::c_int| value as u64;
    let none_of = |flags: libc::c_int| MaskedEq(number(flags));
    vec![
        // No local sockets: those of the bus and of other services are open to everybody.
        (
            libc::SYS_socket,
            vec![
                (0, Eq, number(libc::AF_INET)),
                (0, Eq, number(libc::AF_INET6)),
            ],
        ),
        (
            libc::SYS_openat,
            vec![(2, none_of(OPEN_MORE), number(libc::O_RDONLY))],
        ),
        // Nothing that can be written can be run.
        (
            libc::SYS_mmap,
            vec![
                (2, none_of(libc::PROT_EXEC), 0),
                (2, none_of(libc::PROT_WRITE), 0),
            ],
        ),
        (libc::SYS_mprotect, vec![(2, none_of(libc::PROT_EXEC), 0)]),
        // Threads, and no processes.
        (
            libc::SYS_clone,
            vec![(0, none_of(libc::CLONE_THREAD), number(libc::CLONE_THREAD))],
        ),
        (libc::SYS_ioctl, vec![(1, Eq, FIONREAD), (1, Eq, FIONBIO)]),
        (
            libc::SYS_fcntl,
            vec![
                (1, Eq, number(libc::F_GETFL)),
                (1, Eq, number(libc::F_SETFL)),
                (1, Eq, number(libc::F_GETFD)),
                (1, Eq, number(libc::F_SETFD)),
                (1, Eq, number(libc::F_DUPFD_CLOEXEC)),
            ],
        ),
        // The names of threads.
        (libc::SYS_prctl, vec![(0, Eq, number(libc::PR_SET_NAME))]),
    ]
}

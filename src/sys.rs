// SPDX-License-Identifier: Apache-2.0

//! All the `unsafe` code of this program but the heap's (`common::heap`): the calls that return free memory and the
//! program's code to the system, and taking over the descriptors that systemd passes at the start.
//!
//! None of these has a safe form: the C library's and the kernel's calls that return memory have no safe wrapper, and
//! nothing proves that a descriptor's number has no other owner.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::Once;
use std::sync::atomic::AtomicU8;

use common::heap::WipingAllocator;

/// Wipes whatever it frees: the daemon has little but secrets in memory.
#[global_allocator]
static HEAP: WipingAllocator<{ usize::MAX }> = WipingAllocator;

/// The descriptors that the service manager passed to this process, with their names. A second call returns
/// none.
///
/// # Errors
///
/// If the environment announces descriptors that are not open.
pub fn take_descriptors() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: Once = Once::new();
    let mut first = false;
    TAKEN.call_once(|| first = true);
    if !first {
        return Ok(Vec::new());
    }
    let descriptors = sd_notify::listen_fds_with_names()?;
    Ok(descriptors
        // SAFETY: the environment says that this very process was started with them, and each was
        // found open just now. The program opens nothing before it comes here, and it comes here once,
        // so nobody else owns them.
        .map(|(descriptor, name)| (unsafe { OwnedFd::from_raw_fd(descriptor) }, name))
        .collect())
}

/// Has the kernel remove child processes that have ended, since nobody waits for them.
pub fn remove_ended_children() {
    // SAFETY: all bits of the action may be zero: the default handler, and no signals blocked. The kernel only reads it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_NOCLDWAIT;
        libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
    }
}

/// Returns free heap memory to the system; glibc does not do that by itself.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time and takes no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

unsafe extern "C" {
    /// The linker's symbols for the first byte of the program and for the first byte after its code. Between
    /// them is the read-only part of the file: headers, constants and code.
    static __executable_start: u8;
    static etext: u8;
}

/// A writable variable, to check that the range of code contains none.
static WRITABLE: AtomicU8 = AtomicU8::new(1);

/// The pages of the program's code and constants: the first address and the length in bytes.
fn code() -> Option<(*mut libc::c_void, usize)> {
    // On every architecture the page size divides this.
    const PAGE: usize = 64 << 10;
    let first = (&raw const __executable_start)
        .addr()
        .next_multiple_of(PAGE);
    let after = (&raw const etext).addr() / PAGE * PAGE;
    let writable = (&raw const WRITABLE).addr();
    // If a linker put variables into this range, they would be lost.
    if after <= first || (first..after).contains(&writable) {
        return None;
    }
    let start = (&raw const __executable_start).with_addr(first);
    Some((start.cast_mut().cast(), after - first))
}

/// Unlocks the pages of the program's code and constants, so that the kernel can drop them when memory is
/// short. They hold no secrets.
pub fn unlock_code() {
    if let Some((first, length)) = code() {
        // SAFETY: it changes nothing that is read or written. An error changes nothing at all.
        unsafe {
            libc::munlock(first, length);
        }
    }
}

/// Drops those pages. The kernel reads a page again from the file or the page cache when it is next used.
/// Most of the code that has run is that of the command line and the start, which does not run again.
pub fn release_code() {
    if let Some((first, length)) = code() {
        // SAFETY: whole pages between two of the linker's marks, all of them of the program's file, private
        // and mapped without the right to write. So what is read there after is what was read before.
        // An error, as for pages that are locked, changes nothing.
        unsafe {
            libc::madvise(first, length, libc::MADV_DONTNEED);
        }
    }
}

/// Functions of the C library, smaller than its own. In a static binary those bring its message catalogues, with
/// conversion between character sets and loading of libraries, its formatting and its scanner of numbers along: a tenth
/// of the program, which never uses any of it.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod smaller {
    use libc::{c_char, c_int, c_uint, pthread_attr_t, pthread_t, size_t};
    use nix::errno::Errno;

    /// A message in the program's language, which without setlocale(3), as here, is the message itself: dcgettext(3), by
    /// the name under which the C library calls it.
    #[unsafe(no_mangle)]
    extern "C" fn __dcgettext(_: *const c_char, message: *const c_char, _: c_int) -> *const c_char {
        message
    }

    /// The message of an error number: strerror_r(3), as POSIX has it. Rust's standard library calls it.
    // SAFETY: as with the C library's, the caller gives a buffer of this length; no byte beyond it is written.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn __xpg_strerror_r(
        number: c_int,
        buffer: *mut c_char,
        length: size_t,
    ) -> c_int {
        let text = Errno::from_raw(number).desc();
        let Some(most) = length.checked_sub(1) else {
            return libc::ERANGE;
        };
        let shown = text.len().min(most);
        // SAFETY: `shown` bytes and a NUL fit into `length`, and the text is no part of the caller's buffer.
        unsafe {
            buffer.copy_from_nonoverlapping(text.as_ptr().cast(), shown);
            *buffer.add(shown) = 0;
        }
        0
    }

    /// Where a thread's stack is, which this one does not know: pthread_getattr_np(3). The standard library asks, so that it
    /// can say "stack overflow" before the kernel ends the process; the kernel does that all the same.
    #[unsafe(no_mangle)]
    extern "C" fn pthread_getattr_np(_: pthread_t, _: *mut pthread_attr_t) -> c_int {
        libc::ENOSYS
    }

    /// Ends the process because of a bug that the C library found in itself or in its caller: what assert(3) calls. It says
    /// the same as the C library's own, without the format machinery that this takes.
    // SAFETY: as with the C library's, both are texts that end in a NUL.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn __assert_fail(
        assertion: *const c_char,
        file: *const c_char,
        _: c_uint,
        _: *const c_char,
    ) -> ! {
        // SAFETY: the texts end in a NUL, and write(2) reads no more than their length.
        unsafe {
            for text in [
                file,
                c": Assertion failed: ".as_ptr(),
                assertion,
                c"\n".as_ptr(),
            ] {
                libc::write(libc::STDERR_FILENO, text.cast(), libc::strlen(text));
            }
            libc::abort()
        }
    }
}

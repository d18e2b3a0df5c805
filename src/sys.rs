// SPDX-License-Identifier: Apache-2.0

//! What the compiler can't check, and all the `unsafe` there is: the heap, which is wiped where it is
//! freed and given back where a crowd has gone, the program's code, which is given back too, and the
//! descriptors that a process is started with.
//!
//! An allocator can't be written without, the C library's and the kernel's calls that give memory back have
//! no safe form, and that a number is a descriptor of nobody else is a promise.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::Once;
use std::sync::atomic::AtomicU8;

use zeroize::Zeroize as _;

/// The system's allocator, which overwrites what it is given back.
///
/// Secrets wipe themselves; but a message has its bytes in plain vectors, those of an answer and those that came
/// with a request.
struct Wiping;

// SAFETY: every call is handed on to the system's allocator with the caller's own arguments, so its
// guarantees are this one's. `realloc` is the trait's own: it allocates, copies and deallocates, so
// that a block that moves is wiped too.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `block` is one of `layout.size()` bytes that was allocated
        // here and is no longer used. Its bytes may be uninitialised, so they are written through the
        // pointer and never read; `MaybeUninit` bytes may hold anything.
        unsafe {
            let bytes = block.cast::<std::mem::MaybeUninit<u8>>();
            std::slice::from_raw_parts_mut(bytes, layout.size()).zeroize();
            System.dealloc(block, layout);
        }
    }
}

#[global_allocator]
static HEAP: Wiping = Wiping;

/// The descriptors that the service manager started this process with, named; none at a second call.
///
/// # Errors
///
/// Where the environment announces them and they aren't there.
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

/// Gives memory that is free back to the system, where the C library doesn't by itself.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time and takes no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

unsafe extern "C" {
    /// Where the linker put the first byte of the program, and the first after its code. Between them is
    /// what the file has and nobody writes to: headers, constants, code.
    static __executable_start: u8;
    static etext: u8;
}

/// Stands for the program's variables.
static WRITABLE: AtomicU8 = AtomicU8::new(1);

/// The pages of the program's code and constants: where they begin, and how many bytes they are.
fn code() -> Option<(*mut libc::c_void, usize)> {
    // A page is this large or a part of it, on every machine.
    const PAGE: usize = 64 << 10;
    let first = (&raw const __executable_start)
        .addr()
        .next_multiple_of(PAGE);
    let after = (&raw const etext).addr() / PAGE * PAGE;
    let writable = (&raw const WRITABLE).addr();
    // No linker lays it out so; one that did would have its variables lost.
    if after <= first || (first..after).contains(&writable) {
        return None;
    }
    let start = (&raw const __executable_start).with_addr(first);
    Some((start.cast_mut().cast(), after - first))
}

/// Lets the pages of the program's code and constants be given back when memory is short. They hold no secret.
pub fn unlock_code() {
    if let Some((first, length)) = code() {
        // SAFETY: it changes nothing that is read or written. An error changes nothing at all.
        unsafe {
            libc::munlock(first, length);
        }
    }
}

/// Gives those pages back, which the kernel reads again from the file, or from its cache, where they are used.
/// Most of what ran is the command line and the start, which don't come again.
pub fn give_code_back() {
    if let Some((first, length)) = code() {
        // SAFETY: whole pages between two of the linker's marks, all of them of the program's file, private
        // and mapped without the right to write. So what is read there after is what was read before.
        // An error, as for pages that are locked, changes nothing.
        unsafe {
            libc::madvise(first, length, libc::MADV_DONTNEED);
        }
    }
}

/// Three functions of the C library, smaller than its own. In a static binary those bring its message catalogues, with
/// conversion between character sets and loading of libraries, and its scanner of floating-point numbers along: a tenth
/// of the program, which never uses any of it.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod smaller {
    use libc::{c_char, c_int, pthread_attr_t, pthread_t, size_t};
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
}

// SPDX-License-Identifier: Apache-2.0

//! What the compiler can't check, and all the `unsafe` there is: the heap, which is wiped where it is
//! freed and given back where a crowd has gone, and the descriptors that a process is started with.
//!
//! An allocator can't be written without, the C library's call that gives memory back has no safe
//! form, and that a number is a descriptor of nobody else is a promise.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::Once;

use zeroize::Zeroize as _;

/// The system's allocator, which overwrites what it is given back.
///
/// Secrets wipe themselves; but the RPC crates copy an answer twice on its way to the socket, and
/// those copies are plain vectors.
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

// SPDX-License-Identifier: Apache-2.0

//! The heap of both programs, which overwrites what it frees.
//!
//! Secrets wipe themselves, but libraries (for protobuf, JSON, HTTP and TLS) hold the bytes of requests and answers in plain
//! vectors.
//!
//! All unsafe code of this crate is here: `GlobalAlloc` is an unsafe trait.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;

use zeroize::Zeroize as _;

/// The system's allocator, which overwrites each block of up to `LARGEST` bytes before it frees it.
pub struct WipingAllocator<const LARGEST: usize>;

// SAFETY: every call is handed on to the system's allocator with the caller's own arguments, so its guarantees are this one's.
unsafe impl<const LARGEST: usize> GlobalAlloc for WipingAllocator<LARGEST> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `block` is one of `layout.size()` bytes that was allocated here and is no longer
        // used. Its bytes may be uninitialised, so they are written through the pointer and never read; `MaybeUninit` bytes
        // may hold anything.
        unsafe {
            if layout.size() <= LARGEST {
                let bytes = block.cast::<MaybeUninit<u8>>();
                std::slice::from_raw_parts_mut(bytes, layout.size()).zeroize();
            }
            System.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; and the caller promises that `size` is not 0, and no larger than a layout may be. The two blocks
        // do not overlap, since both are allocated. The old one stays as it is if there is no new one.
        unsafe {
            if layout.size() > LARGEST {
                return System.realloc(block, layout, size);
            }
            // The system's would leave what was in the old block behind.
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

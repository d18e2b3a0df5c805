// SPDX-License-Identifier: Apache-2.0

//! Calls of the kernel that no crate of the tree has: ioctl(2) for loop devices, fcntl(2) for leases,
//! close_range(2), and signal(2).
//!
//! All unsafe code of the program is here.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use thiserror::Error;

/// `LOOP_CTL_GET_FREE` of the kernel's `include/uapi/linux/loop.h`.
const GET_FREE: libc::Ioctl = 0x4c82;

/// `LOOP_CONFIGURE` there, since Linux 5.8.
const CONFIGURE: libc::Ioctl = 0x4c0a;

/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR`: the device goes when nobody holds it.
const FLAGS: u32 = 1 | 4;

/// `F_SETSIG` of the kernel's `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// `F_SETLEASE` of `include/uapi/linux/fcntl.h`.
const F_SETLEASE: libc::c_int = 1024;

/// How often another device is asked for, if another process was faster.
const ATTEMPTS: usize = 100;

/// Where loop devices are asked for.
const CONTROL: &str = "/dev/loop-control";

/// What to do where there is none.
pub const OF_LOOP: &str = "load the module loop, unmount what is not needed, or use Linux 6.12 or later, which needs none for a \
                           store on a disk";

/// Why there is no loop device. The kernel's numbers mean something else here than of files.
#[derive(Debug, Error)]
#[error("{what}: {error}; {OF_LOOP}")]
pub struct NoDevice {
    what: String,
    /// What the kernel says.
    pub error: io::Error,
}

/// `struct loop_config`, with `struct loop_info64` in it.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Puts a loop device over a file, read-only, for kernels before 6.12, which can't mount EROFS from a file. It goes when what
/// is returned is dropped and nothing is mounted from it.
///
/// # Errors
///
/// If the kernel has no loop devices, or gives none.
pub fn attach(file: &File) -> Result<(File, PathBuf), NoDevice> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let control = options.open(CONTROL);
    let control = control.map_err(no_device("/dev/loop-control can't be opened"))?;
    for _ in 0..ATTEMPTS {
        // SAFETY: this ioctl takes no pointer.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        if number < 0 {
            return Err(no_device("the kernel makes no more")(
                io::Error::last_os_error(),
            ));
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).open(&path);
        let device = device.map_err(no_device(&format!("{} can't be opened", path.display())))?;
        let config = Config {
            fd: file.as_raw_fd() as u32,
            block_size: 4096,
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: FLAGS,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
            reserved: [0; 8],
        };
        // SAFETY: the pointer leads to a whole `struct loop_config`, which the kernel only reads.
        if unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) } == 0 {
            return Ok((device, path));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(no_device("the kernel takes no file")(error));
        }
    }
    Err(no_device("other processes take each one that is free")(
        io::Error::from_raw_os_error(libc::EBUSY),
    ))
}

fn no_device(what: &str) -> impl FnOnce(io::Error) -> NoDevice {
    let what = what.to_owned();
    move |error| NoDevice { what, error }
}

/// Has writing beyond the limit of files' sizes fail, as other writing does, where it would end the process.
pub fn take_no_signal_for_large_files() {
    // SAFETY: no function of ours is called for the signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Who else has a file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nobody.
    None,
    /// Somebody.
    Some,
    /// The file system can't tell.
    Unknown,
}

/// Who can write a file, which is open for reading here. The kernel gives a read lease only if nobody can, neither by a
/// descriptor nor by memory that is shared with the file: fcntl(2).
///
/// # Errors
///
/// If the kernel refuses for another reason.
pub fn writers(file: &File) -> io::Result<Others> {
    others(file, libc::F_RDLCK)
}

/// Who else has a file open, which is open for reading here: processes, and the kernel for what is mounted from it. The
/// kernel gives a write lease only if nobody has.
///
/// # Errors
///
/// If the kernel refuses for another reason.
pub fn users(file: &File) -> io::Result<Others> {
    others(file, libc::F_WRLCK)
}

fn others(file: &File, lease: libc::c_int) -> io::Result<Others> {
    let call = |command, value: libc::c_int| {
        // SAFETY: these commands take a number, and no pointer.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // Who opens the file at this moment has the kernel send a signal here. SIGIO, which it sends unless told otherwise, would
    // end the process.
    call(F_SETSIG, libc::SIGURG)?;
    let leased = call(F_SETLEASE, lease);
    match leased {
        Ok(()) => {
            call(F_SETLEASE, libc::F_UNLCK)?;
            Ok(Others::None)
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Others::Some),
            Some(libc::EINVAL) => Ok(Others::Unknown),
            _ => Err(error),
        },
    }
}

/// The first descriptor after the standard ones.
const FIRST_OTHER: libc::c_uint = 3;

/// Closes all descriptors but the standard ones, which this process has from who started the mounter. It is for the start of
/// the process, before it has opened any.
pub fn close_inherited() {
    // SAFETY: nothing in this process owns one of them yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER, libc::c_uint::MAX, 0) };
    if closed == 0 {
        return;
    }
    // Kernels before 5.9 don't have the call. The list has the directory itself too, which is closed by then.
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let listed: Vec<libc::c_int> = names.collect();
    for descriptor in listed
        .into_iter()
        .filter(|number| *number >= FIRST_OTHER as libc::c_int)
    {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
}

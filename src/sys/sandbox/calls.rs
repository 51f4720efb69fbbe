//! The system calls that the daemon's processes make, in groups.
//!
//! Some calls have different names, depending on architecture and C library. Calls that the crate `libc` does not name
//! are numbers from the kernel's tables (arch/*/syscall*.tbl).

use libc::*;

/// Memory management, signal return and exit.
pub const BASIC: &[c_long] = &[
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_getpid,
    SYS_restart_syscall,
    SYS_rt_sigreturn,
    SYS_exit,
    SYS_exit_group,
];
/// Reading, writing and closing open descriptors.
pub const READ_WRITE: &[c_long] = &[SYS_read, SYS_write, SYS_writev, SYS_close];
/// Changing inotify watches.
pub const WATCH: &[c_long] = &[SYS_inotify_add_watch, SYS_inotify_rm_watch];
/// Reading and writing a file at an offset, locking it, and flushing it to disk.
pub const AT_OFFSETS: &[c_long] = &[SYS_flock, SYS_fdatasync, own::PREAD, own::PWRITE];
/// Seeking in an open file.
pub const SEEK: &[c_long] = &[SYS_lseek, own::LSEEK];
/// Waiting for descriptors, and reading clocks.
pub const WAIT: &[c_long] = &[SYS_ppoll, own::PPOLL, own::POLL, SYS_clock_gettime, own::CLOCK];
/// Reading the metadata of a file. musl uses `stat` for a path, glibc `statx` or `fstatat`.
pub const METADATA: &[c_long] = &[SYS_statx, own::STAT, own::FSTAT, own::FSTATAT];
/// Opening a file by name.
pub const OPEN: &[c_long] = &[SYS_openat, own::OPEN, own::FCNTL];
/// Sending and receiving on a connected socket.
pub const MESSAGES: &[c_long] = &[SEND, SYS_recvfrom, own::SEND, own::RECV];
/// The call that may name a destination: allowed only if its fifth argument, the address, is null.
pub(super) const SEND: c_long = SYS_sendto;
/// Calls that set a memory protection, their third argument: allowed without PROT_EXEC only.
pub(super) const MAP: &[c_long] = &[SYS_mprotect, own::MMAP];
pub(super) use own::ARCHITECTURE;

#[cfg(target_arch = "x86_64")]
mod own {
    use libc::*;
    /// `AUDIT_ARCH_X86_64` in linux/audit.h.
    pub const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
    pub const LSEEK: c_long = SYS_lseek;
    pub const PREAD: c_long = SYS_pread64;
    pub const PWRITE: c_long = SYS_pwrite64;
    pub const PPOLL: c_long = SYS_ppoll;
    pub const POLL: c_long = SYS_poll;
    pub const CLOCK: c_long = SYS_clock_gettime;
    pub const STAT: c_long = SYS_stat;
    pub const FSTAT: c_long = SYS_fstat;
    pub const FSTATAT: c_long = SYS_newfstatat;
    pub const OPEN: c_long = SYS_open;
    pub const FCNTL: c_long = SYS_fcntl;
    pub const SEND: c_long = SYS_sendto;
    pub const RECV: c_long = SYS_recvfrom;
    pub const MMAP: c_long = SYS_mmap;
}

/// Architectures with the kernel's generic table (include/uapi/asm-generic/unistd.h).
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
mod own {
    use libc::*;
    pub const ARCHITECTURE: Option<u32> = Some(if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_00f3 });
    pub const LSEEK: c_long = SYS_lseek;
    pub const PREAD: c_long = SYS_pread64;
    pub const PWRITE: c_long = SYS_pwrite64;
    pub const PPOLL: c_long = SYS_ppoll;
    pub const POLL: c_long = SYS_ppoll;
    pub const CLOCK: c_long = SYS_clock_gettime;
    pub const STAT: c_long = SYS_newfstatat;
    pub const FSTAT: c_long = SYS_fstat;
    pub const FSTATAT: c_long = SYS_newfstatat;
    pub const OPEN: c_long = SYS_openat;
    pub const FCNTL: c_long = SYS_fcntl;
    pub const SEND: c_long = SYS_sendto;
    pub const RECV: c_long = SYS_recvfrom;
    pub const MMAP: c_long = SYS_mmap;
}

/// 32-bit architectures: both the old calls and those with 64-bit time.
#[cfg(any(target_arch = "arm", target_arch = "x86"))]
mod own {
    use libc::*;
    const ARM: bool = cfg!(target_arch = "arm");
    pub const ARCHITECTURE: Option<u32> = Some(if ARM { 0x4000_0028 } else { 0x4000_0003 });
    pub const LSEEK: c_long = SYS__llseek;
    pub const PREAD: c_long = SYS_pread64;
    pub const PWRITE: c_long = SYS_pwrite64;
    /// `ppoll_time64`.
    pub const PPOLL: c_long = 414;
    pub const POLL: c_long = SYS_poll;
    /// `clock_gettime64`.
    pub const CLOCK: c_long = 403;
    pub const STAT: c_long = SYS_stat64;
    pub const FSTAT: c_long = SYS_fstat64;
    pub const FSTATAT: c_long = SYS_fstatat64;
    pub const OPEN: c_long = SYS_open;
    pub const FCNTL: c_long = SYS_fcntl64;
    /// `send` and `recv` of arm. x86 has neither.
    pub const SEND: c_long = if ARM { 289 } else { SYS_sendto };
    pub const RECV: c_long = if ARM { 291 } else { SYS_recvfrom };
    pub const MMAP: c_long = SYS_mmap2;
}

/// 32-bit architecture: both the old calls and those with 64-bit time.
#[cfg(target_arch = "mips")]
mod own {
    use libc::*;
    pub const ARCHITECTURE: Option<u32> = Some(if cfg!(target_endian = "big") { 8 } else { 0x4000_0008 });
    pub const LSEEK: c_long = SYS__llseek;
    /// `pread64` and `pwrite64`.
    pub const PREAD: c_long = 4200;
    pub const PWRITE: c_long = 4201;
    /// `ppoll_time64`.
    pub const PPOLL: c_long = 4414;
    pub const POLL: c_long = SYS_poll;
    /// `clock_gettime64`.
    pub const CLOCK: c_long = 4403;
    pub const STAT: c_long = SYS_stat64;
    pub const FSTAT: c_long = SYS_fstat64;
    /// `fstatat64`.
    pub const FSTATAT: c_long = 4293;
    pub const OPEN: c_long = SYS_open;
    pub const FCNTL: c_long = SYS_fcntl64;
    pub const SEND: c_long = SYS_send;
    pub const RECV: c_long = SYS_recv;
    pub const MMAP: c_long = SYS_mmap2;
}

/// Other architectures: there is no filter, so the numbers are not used.
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "arm",
    target_arch = "x86",
    target_arch = "mips"
)))]
mod own {
    use libc::*;
    pub const ARCHITECTURE: Option<u32> = None;
    pub const LSEEK: c_long = SYS_lseek;
    pub const PREAD: c_long = SYS_lseek;
    pub const PWRITE: c_long = SYS_lseek;
    pub const PPOLL: c_long = SYS_ppoll;
    pub const POLL: c_long = SYS_ppoll;
    pub const CLOCK: c_long = SYS_clock_gettime;
    pub const STAT: c_long = SYS_statx;
    pub const FSTAT: c_long = SYS_statx;
    pub const FSTATAT: c_long = SYS_statx;
    pub const OPEN: c_long = SYS_openat;
    pub const FCNTL: c_long = SYS_openat;
    pub const SEND: c_long = SYS_sendto;
    pub const RECV: c_long = SYS_recvfrom;
    pub const MMAP: c_long = SYS_munmap;
}

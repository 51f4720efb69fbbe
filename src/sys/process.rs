//! This process: its signals, its descriptors, daemonizing.

use super::{check, file};
use std::ffi::{CStr, OsStr, c_char};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::parent_id;
use std::ptr;

unsafe extern "C" {
    /// This process's environment (environ(7)).
    pub(super) static environ: *const *mut c_char;
}

/// A signal that the supervisor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: reload the configuration.
    Reload,
    /// SIGTERM or SIGINT: terminate.
    Terminate,
    /// SIGCHLD: a child has exited.
    Child,
}

/// A signalfd(2) for SIGHUP, SIGTERM, SIGINT and SIGCHLD: readable while one of them is pending.
pub struct Signals(File);

impl Signals {
    /// Blocks SIGHUP and SIGCHLD. SIGTERM and SIGINT still kill the process until [`Signals::block_termination`].
    pub fn block() -> io::Result<Self> {
        // The parent process may have set SIGCHLD to be ignored, which is inherited; then wait(2) would not work.
        // SAFETY: SIG_DFL is no function of ours.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        mask(libc::SIG_BLOCK, &set(&[libc::SIGHUP, libc::SIGCHLD]))?;
        let signals = set(&[libc::SIGHUP, libc::SIGTERM, libc::SIGINT, libc::SIGCHLD]);
        // SAFETY: the set is valid for reads, and -1 asks for a new descriptor.
        let fd = check(unsafe { libc::signalfd(-1, &raw const signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: `fd` was just opened and nothing else owns it.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Blocks SIGTERM and SIGINT too, so that [`Signals::next`] returns them.
    pub fn block_termination(&self) -> io::Result<()> {
        mask(libc::SIG_BLOCK, &set(&[libc::SIGTERM, libc::SIGINT]))
    }

    /// Takes the next pending signal, if there is one.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        // `struct signalfd_siginfo`, which starts with the signal's number.
        let mut information = [0; size_of::<libc::signalfd_siginfo>()];
        match (&self.0).read(&mut information) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
            Ok(_) => {
                let [a, b, c, d, ..] = information;
                Ok(Some(match i32::from_ne_bytes([a, b, c, d]) {
                    libc::SIGHUP => Signal::Reload,
                    libc::SIGCHLD => Signal::Child,
                    _ => Signal::Terminate,
                }))
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sets a child's signal mask, which it has inherited from the supervisor. SIGTERM kills the child. SIGHUP and the
/// terminal's ^C (SIGINT) stay blocked: the supervisor handles them.
pub fn leave_signals_to_supervisor() -> io::Result<()> {
    mask(libc::SIG_SETMASK, &set(&[libc::SIGHUP, libc::SIGINT]))
}

/// Sets the process name that `ps` and `top` show; the kernel cuts it to 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: the name is a C string that lives through the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set is initialised, and the numbers are signals.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}

fn mask(how: libc::c_int, signals: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is valid for reads, and the old one is not requested.
    match unsafe { libc::sigprocmask(how, signals, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns the value of an environment variable.
pub fn variable(name: &str) -> Option<&'static OsStr> {
    // SAFETY: the environment is a list of strings, each ended by a null byte, and a null pointer. Nothing changes it.
    unsafe {
        let mut at = environ;
        while !(*at).is_null() {
            let value = CStr::from_ptr(*at).to_bytes().strip_prefix(name.as_bytes());
            if let Some(value) = value.and_then(|value| value.strip_prefix(b"=")) {
                return Some(OsStr::from_bytes(value));
            }
            at = at.add(1);
        }
    }
    None
}

/// Standard output (1) or standard error (2), without the buffers and the lock of `std::io`.
pub fn standard(number: i32) -> ManuallyDrop<File> {
    // SAFETY: the program opens /dev/null at its start for descriptors that are closed, and nothing of ours closes these two.
    ManuallyDrop::new(unsafe { File::from_raw_fd(number) })
}

/// Returns whether standard error is connected to systemd's journal: JOURNAL_STREAM (systemd.exec(5)) names its device
/// and inode.
pub fn stderr_is_journal() -> bool {
    let Some(stream) = variable("JOURNAL_STREAM") else { return false };
    standard(2).metadata().is_ok_and(|found| *stream == *format!("{}:{}", found.st_dev(), found.st_ino()))
}

/// Returns whether the parent process is called `name` (at most 15 bytes, proc(5)).
pub fn parent_is(name: &str) -> bool {
    file::kernel_text(&format!("/proc/{}/comm", parent_id())).trim_ascii() == name
}

/// Takes ownership of a descriptor that was inherited from the supervisor. Call it once for each.
pub fn inherited(number: i32) -> OwnedFd {
    // SAFETY: the supervisor opened this descriptor for us, and nothing else in this process owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// A process that has gone into the background. The foreground process exits with 0 when [`Background::ready`] is
/// called in the background process, and with 1 if the background process exits before.
pub struct Background(UnixStream);

impl Background {
    /// Forks and starts a new session if that is `wanted`; then it returns in the child only.
    pub fn start_if(wanted: bool) -> io::Result<Option<Self>> {
        if !wanted {
            return Ok(None);
        }
        let (mut foreground, background) = UnixStream::pair()?;
        // SAFETY: this process has one thread, so the child may do anything.
        match check(unsafe { libc::fork() })? {
            0 => {
                // SAFETY: setsid takes nothing.
                check(unsafe { libc::setsid() })?;
                Ok(Some(Self(background)))
            }
            _ => {
                drop(background);
                let ready = foreground.read(&mut [0]).is_ok_and(|length| length == 1);
                // SAFETY: _exit takes a number; all cleanup is left to the child.
                unsafe { libc::_exit(if ready { 0 } else { 1 }) }
            }
        }
    }

    /// Reports success to the foreground process and detaches from the terminal. Standard input stays open if
    /// `keep_input` is set, because the log is read from it.
    pub fn ready(mut self, keep_input: bool) -> io::Result<()> {
        silence(if keep_input { 1..=2 } else { 0..=2 })?;
        self.0.write_all(b"+")
    }
}

/// Reports readiness to the service manager, if NOTIFY_SOCKET names its socket (sd_notify(3)).
pub fn notify_ready() -> io::Result<()> {
    let Some(path) = variable("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

/// Redirects standard error to /dev/null.
pub fn silence_stderr() -> io::Result<()> {
    silence(2..=2)
}

fn silence(descriptors: RangeInclusive<libc::c_int>) -> io::Result<()> {
    let null = file::open("/dev/null".as_ref(), libc::O_RDWR)?;
    for descriptor in descriptors {
        // SAFETY: dup2 takes two descriptors and touches no memory.
        check(unsafe { libc::dup2(null.as_raw_fd(), descriptor) })?;
    }
    Ok(())
}

/// Closes every descriptor except 0, 1 and 2, since the parent process may have left others open.
pub fn close_inherited() -> io::Result<()> {
    // Collected first and closed afterwards: the directory that is being read has a descriptor too.
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Some(Ok(fd @ 3..)) = entry?.file_name().to_str().map(str::parse::<libc::c_int>) {
            open.push(fd);
        }
    }
    for fd in open {
        // SAFETY: close touches no memory, and nothing of ours is open yet.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Raises the limit of open descriptors (RLIMIT_NOFILE) to `files`, if it is lower. Above the hard limit it needs
/// CAP_SYS_RESOURCE.
pub fn raise_file_limit(files: u32) -> io::Result<()> {
    let (files, limit) = (libc::rlim_t::from(files), file_limit()?);
    if limit.rlim_cur >= files {
        return Ok(());
    }
    set_file_limit(libc::rlimit { rlim_cur: files, rlim_max: limit.rlim_max.max(files) })
}

/// Raises the limit of open descriptors to `files`, or else to the hard limit. Returns the resulting limit.
pub fn raise_file_limit_up_to(files: u32) -> io::Result<u32> {
    if raise_file_limit(files).is_err() {
        let limit = file_limit()?;
        set_file_limit(libc::rlimit { rlim_cur: limit.rlim_max, ..limit })?;
    }
    Ok(u32::try_from(file_limit()?.rlim_cur).unwrap_or(u32::MAX))
}

fn file_limit() -> io::Result<libc::rlimit> {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: prlimit fills the structure that it is given.
    check(unsafe { libc::prlimit(0, libc::RLIMIT_NOFILE, ptr::null(), limit.as_mut_ptr()) })?;
    // SAFETY: filled above.
    Ok(unsafe { limit.assume_init() })
}

fn set_file_limit(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: the structure is valid for reads.
    check(unsafe { libc::prlimit(0, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut()) }).map(drop)
}

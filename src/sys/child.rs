//! Child processes, by posix_spawn(3). `std::process::Command` would add 12 KB to the program.

use super::process::{self, environ};
use super::{check, file, pipe, uninterrupted};
use crate::error::failure;
use std::env;
use std::ffi::{CString, OsStr, c_char, c_int};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::ptr;
use std::time::Duration;

/// A child process.
pub struct Child {
    id: libc::pid_t,
    /// Set once the child has been reaped, when its ID may be reused.
    exit_status: Option<ExitStatus>,
}

impl Child {
    /// Starts `program` by the name `name` with `args`. `descriptors` become its descriptors 0 to 3; `None` inherits
    /// ours, except for 3. Without an `environment` it inherits ours too.
    fn start(
        program: &Path,
        name: &str,
        args: &mut dyn Iterator<Item = &OsStr>,
        environment: Option<&[CString]>,
        descriptors: [Option<BorrowedFd<'_>>; 4],
    ) -> io::Result<Self> {
        let mut strings = vec![CString::new(name)?];
        for arg in args {
            strings.push(CString::new(arg.as_bytes())?);
        }
        let (program, args) = (CString::new(program.as_os_str().as_bytes())?, pointers(&strings));
        let environment = environment.map(pointers);
        let (mut id, mut actions, mut attributes) = (0, MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: the two `init` functions initialise what the others use; all strings and arrays, each ended by a
        // null pointer, live through the call, and nothing else changes the environment.
        let failed = unsafe {
            let mut failed = libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            for (number, fd) in (0..).zip(descriptors) {
                if let (0, Some(fd)) = (failed, fd) {
                    failed = libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), fd.as_raw_fd(), number);
                }
            }
            // We ignore SIGPIPE, which a child would inherit.
            let mut pipe = MaybeUninit::uninit();
            libc::sigemptyset(pipe.as_mut_ptr());
            libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
            if failed == 0 {
                failed = libc::posix_spawnattr_init(attributes.as_mut_ptr());
            }
            if failed == 0 {
                libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), pipe.as_ptr());
                libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), libc::POSIX_SPAWN_SETSIGDEF as libc::c_short);
                let environment = environment.as_ref().map_or(environ, |environment| environment.as_ptr());
                failed = libc::posix_spawn(
                    &raw mut id,
                    program.as_ptr(),
                    actions.as_ptr(),
                    attributes.as_ptr(),
                    args.as_ptr(),
                    environment,
                );
            }
            libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
            failed
        };
        if failed == 0 { Ok(Self { id, exit_status: None }) } else { Err(io::Error::from_raw_os_error(failed)) }
    }

    /// Returns the child's exit status; `None` while it is running.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.reap(libc::WNOHANG)
    }

    /// Waits up to 0.5 s for the child to exit; `None` if it is still running.
    pub fn wait_briefly(&mut self) -> Option<ExitStatus> {
        for _ in 0..50 {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Kills the child (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        if self.exit_status.is_none() {
            // SAFETY: kill touches no memory, and the id is the child's until it is reaped.
            unsafe { libc::kill(self.id, libc::SIGKILL) };
            self.reap(0);
        }
    }

    fn reap(&mut self, options: c_int) -> Option<ExitStatus> {
        if self.exit_status.is_none() {
            let mut status = 0;
            // SAFETY: the pointer is valid for writes.
            let reaped = uninterrupted(|| check(unsafe { libc::waitpid(self.id, &raw mut status, options) }));
            if reaped.is_ok_and(|id| id == self.id) {
                self.exit_status = Some(ExitStatus::from_raw(status));
            }
        }
        self.exit_status
    }
}

/// Returns the strings' addresses followed by a null pointer, as execve(2) expects.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr().cast_mut()).collect();
    pointers.push(ptr::null_mut());
    pointers
}

/// This same binary, and its name as a child.
const SELF: &str = "/proc/self/exe";
const NAME: &str = "knockknock";

/// Starts this same binary as a child with `args`. `input`, `output` and `further` become its descriptors 0, 1 and 3;
/// it inherits standard error, and standard input if `input` is `None`, and has an empty environment.
pub fn restart_self(
    args: &[&OsStr],
    input: Option<BorrowedFd<'_>>,
    output: BorrowedFd<'_>,
    further: Option<BorrowedFd<'_>>,
) -> io::Result<Child> {
    #[allow(unused_mut)]
    let mut environment = Vec::new();
    #[cfg(feature = "hooks")]
    for (name, value) in env::vars().filter(|(name, _)| name.starts_with("KNOCKKNOCK_")) {
        environment.push(CString::new(format!("{name}={value}"))?);
    }
    let descriptors = [input, Some(output), None, further];
    Child::start(SELF.as_ref(), NAME, &mut args.iter().copied(), Some(&environment), descriptors)
}

/// Starts this same binary as a child with `args` and our environment. Its output and its errors go to `output`.
pub fn start_copy(args: &[&OsStr], output: BorrowedFd<'_>) -> io::Result<Child> {
    Child::start(SELF.as_ref(), NAME, &mut args.iter().copied(), None, [None, Some(output), Some(output), None])
}

/// Directories of the system's administration programs, which a user's PATH may lack.
const ADMINISTRATION: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";

/// Returns the first file of that name in the directories of `path`, a list like PATH, for which `accept` is true.
pub fn find(program: &OsStr, path: &OsStr, accept: fn(&Path) -> bool) -> Option<PathBuf> {
    for directory in env::split_paths(path) {
        let file = directory.join(program);
        if accept(&file) {
            return Some(file);
        }
    }
    None
}

/// Returns whether `file` may be a system program. An empty entry in PATH means the working directory, where none is.
fn is_system_program(file: &Path) -> bool {
    file.is_absolute() && file.is_file()
}

/// Runs a system program with `input` as its standard input, and returns its standard output. If it fails, the error
/// is the first line of its standard error.
pub fn run(program: &str, args: &[&str], input: &str) -> io::Result<String> {
    let (name, path) = (OsStr::new(program), process::variable("PATH").unwrap_or_default());
    let found = |path: &OsStr| find(name, path, is_system_program);
    let file = found(path).or_else(|| found(ADMINISTRATION.as_ref())).ok_or(io::ErrorKind::NotFound)?;
    let ((stdin, writer), (stdout, output)) = (pipe::ends()?, pipe::ends()?);
    let (mut writer, stdout) = (File::from(writer), File::from(stdout));
    let (mut stderr, errors) = UnixStream::pair()?;
    // Only the beginning is read, at the end. Output beyond the pipe's buffer is lost, but does not block the program.
    errors.set_nonblocking(true)?;
    let descriptors = [Some(stdin.as_fd()), Some(output.as_fd()), Some(errors.as_fd()), None];
    let mut child = Child::start(&file, program, &mut args.iter().map(OsStr::new), None, descriptors)?;
    drop((stdin, output, errors));
    // A write fails when the program exits before it has read everything; its standard error says why.
    let _ = writer.write_all(input.as_bytes());
    drop(writer);
    let read = file::read_to_end(&stdout);
    let status = child.reap(0);
    let bytes = read?;
    if status.is_some_and(|status| status.success()) {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    stderr.set_nonblocking(true)?;
    let mut start = [0; 4096];
    let length = stderr.read(&mut start).unwrap_or(0);
    let start = String::from_utf8_lossy(start.get(..length).unwrap_or_default());
    Err(failure(start.lines().next().unwrap_or("it failed without an error message").trim_ascii().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_input_and_its_output_is_returned() {
        assert_eq!(run("cat", &[], "in\nput").unwrap(), "in\nput");
        assert_eq!(run("sh", &["-c", "echo \"$0 $#\"", "a b", "c"], "").unwrap(), "a b 1\n");
        assert_eq!(run("sh", &["-c", "kill -PIPE $$; echo ignored"], "").unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(run("knockknock-no-such-program", &[], "").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_failed_program_is_quoted_with_the_first_line_of_its_standard_error() {
        let failed = run("sh", &["-c", "echo out; echo first >&2; echo second >&2; exit 3"], "").unwrap_err();
        assert_eq!(failed.to_string(), "first");
        let endless = run("sh", &["-c", "echo first >&2; head -c 10000000 /dev/zero >&2; exit 3"], "").unwrap_err();
        assert_eq!(endless.to_string(), "first");
        assert_eq!(run("false", &[], "").unwrap_err().to_string(), "it failed without an error message");
    }

    #[test]
    fn a_child_is_reaped_once() {
        let mut child =
            Child::start("/bin/sleep".as_ref(), "sleep", &mut [OsStr::new("100")].into_iter(), None, [None; 4])
                .unwrap();
        assert_eq!(child.try_wait(), None);
        child.kill();
        assert_eq!(child.try_wait().map(|status| status.signal()), Some(Some(libc::SIGKILL)));
        child.kill();
        assert_eq!(child.try_wait(), child.wait_briefly());
    }
}

//! Threads, by pthread_create(3). `std::thread` would add 16 KB for thread names, panics and stack overflows. A stack
//! overflow hits the guard page and kills the process, as with `std`.

use std::ffi::c_void;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

/// The work of a thread.
pub type Work = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A running thread. If it is dropped, the thread continues.
pub struct Thread(libc::pthread_t);

impl Thread {
    /// Starts a thread with a stack of `stack` bytes.
    pub fn start(stack: usize, work: Work) -> io::Result<Self> {
        let (mut attributes, mut thread) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        let work = Box::into_raw(Box::new(work));
        // SAFETY: pthread_attr_init initialises the attributes before the others read them; `run` owns `work` from here
        // on, unless no thread was started.
        let failed = unsafe {
            libc::pthread_attr_init(attributes.as_mut_ptr());
            match libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack) {
                0 => libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run, work.cast()),
                failed => failed,
            }
        };
        if failed == 0 {
            // SAFETY: pthread_create has filled it.
            return Ok(Self(unsafe { thread.assume_init() }));
        }
        // SAFETY: no thread took it.
        drop(unsafe { Box::from_raw(work) });
        Err(io::Error::from_raw_os_error(failed))
    }

    /// Waits until the thread has ended. Returns the result of its work.
    pub fn join(self) -> io::Result<()> {
        let mut error = ptr::null_mut();
        // SAFETY: the thread is neither joined nor detached yet, and never will be, since `self` is not dropped.
        unsafe { libc::pthread_join(ManuallyDrop::new(self).0, &raw mut error) };
        match error.addr() {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error as i32)),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: the thread is neither joined nor detached yet.
        unsafe { libc::pthread_detach(self.0) };
    }
}

/// Runs in the new thread. Returns the error number of the work, 0 for none.
extern "C" fn run(work: *mut c_void) -> *mut c_void {
    // SAFETY: `Thread::start` made it, and left it to this thread.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    ptr::without_provenance_mut(match work() {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO) as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_hands_back_what_its_work_returned() {
        let started = |result: io::Result<()>| Thread::start(1 << 16, Box::new(move || result)).unwrap();
        assert!(started(Ok(())).join().is_ok());
        let error = started(Err(io::Error::from_raw_os_error(libc::EPIPE))).join().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(started(Err(io::Error::other("of our own"))).join().is_err());
        assert!(Thread::start(usize::MAX, Box::new(|| Ok(()))).is_err());
    }

    #[test]
    fn a_dropped_thread_runs_on() {
        let (bell, rope) = std::sync::mpsc::channel();
        drop(Thread::start(1 << 16, Box::new(move || bell.send(7).map_err(io::Error::other))).unwrap());
        assert_eq!(rope.recv(), Ok(7));
    }
}

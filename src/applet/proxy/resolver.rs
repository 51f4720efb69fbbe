//! Resolves names in threads, because the system's resolver blocks its caller. Each thread handles one question.

use crate::knocker;
use crate::sys::thread::Thread;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A thread's stack size in bytes; the C library's resolver keeps its buffers there.
const STACK: usize = 256 << 10;

/// Names in order, each with its addresses, or none if it could not be resolved.
pub type Addresses = Vec<(String, Vec<SocketAddr>)>;

/// The kind of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A host that a client requested.
    Host,
    /// The names of all profiles.
    Profiles,
}

/// Resolves names without blocking.
pub struct Resolver {
    shared: Arc<Shared>,
    /// Readable while there are answers.
    pub wakeup: UnixStream,
}

/// State shared by the threads and the event loop.
struct Shared {
    answers: Mutex<Vec<(Question, Addresses)>>,
    waker: UnixStream,
}

impl Resolver {
    /// Creates a resolver without threads.
    pub fn new() -> io::Result<Self> {
        let (wakeup, waker) = UnixStream::pair()?;
        for end in [&wakeup, &waker] {
            end.set_nonblocking(true)?;
        }
        Ok(Self { shared: Arc::new(Shared { answers: Mutex::default(), waker }), wakeup })
    }

    /// Resolves `names` in a new thread. If no thread can be started, the answer has no addresses.
    pub fn ask(&self, question: Question, names: Vec<String>) {
        let (shared, asked) = (Arc::clone(&self.shared), names.clone());
        let resolve = move || {
            shared.answer(question, asked, |name| knocker::addresses(name, 0).unwrap_or_default());
            Ok(())
        };
        if Thread::start(STACK, Box::new(resolve)).is_err() {
            self.shared.answer(question, names, |_| Vec::new());
        }
    }

    /// Removes and returns all answers.
    pub fn answers(&mut self) -> Vec<(Question, Addresses)> {
        let mut bytes = [0; 64];
        while self.wakeup.read(&mut bytes).is_ok_and(|length| length > 0) {}
        std::mem::take(&mut *self.shared.lock())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<(Question, Addresses)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, question: Question, names: Vec<String>, resolve: fn(&str) -> Vec<SocketAddr>) {
        let mut addresses = Vec::new();
        for name in names {
            let found = resolve(&name);
            addresses.push((name, found));
        }
        self.lock().push((question, addresses));
        // If the socket is full, the event loop has not read it yet and will find this answer too.
        let _ = (&self.waker).write(&[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll;
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn every_question_is_answered() {
        let mut resolver = Resolver::new().unwrap();
        for number in 0..200 {
            resolver.ask(Question::Host, vec![format!("127.0.0.{number}")]);
        }
        resolver.ask(Question::Profiles, ["127.0.0.1", "no name", "::1"].map(String::from).to_vec());
        let mut answers = Vec::new();
        while answers.len() < 201 {
            assert_eq!(poll::readable([resolver.wakeup.as_fd()], Some(Duration::from_secs(5))).unwrap(), [true]);
            answers.extend(resolver.answers());
        }
        for (question, found) in answers {
            match question {
                Question::Host => assert_eq!(found[0].1[0].ip().to_string(), found[0].0),
                Question::Profiles => {
                    let unknown: Vec<_> = found.iter().map(|(_, addresses)| addresses.is_empty()).collect();
                    assert_eq!(unknown, [false, true, false]);
                }
            }
        }
    }
}

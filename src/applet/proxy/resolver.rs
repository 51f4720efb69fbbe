//! Threads that resolve names, because the system's resolver blocks its caller. They are few, have small
//! stacks, start when there is a question, and end when there is none.

use crate::knocker;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The most threads. A name that no server answers keeps a thread for ten seconds and more.
const THREADS: usize = 8;
/// A thread's stack, in bytes: the C library's resolver has its buffers there.
const STACK: usize = 256 << 10;

/// Names in their order, each with its addresses, or with none where it cannot be resolved.
pub type Addresses = Vec<(String, Vec<SocketAddr>)>;

/// What to resolve.
pub enum Question {
    /// A host that a client asks for.
    Host(String),
    /// The names of all profiles.
    Profiles(Vec<String>),
}

/// The answer to a [`Question`].
pub enum Resolved {
    /// The host and its addresses.
    Host(String, Vec<SocketAddr>),
    /// The profiles and their addresses.
    Profiles(Addresses),
}

/// Resolves names without blocking.
pub struct Resolver {
    shared: Arc<Shared>,
    /// Readable while there are answers.
    pub bell: UnixStream,
}

struct Shared {
    work: Mutex<Work>,
    rope: UnixStream,
}

#[derive(Default)]
struct Work {
    questions: VecDeque<Question>,
    answers: Vec<Resolved>,
    threads: usize,
}

impl Resolver {
    /// A resolver without questions, and without threads.
    pub fn new() -> io::Result<Self> {
        let (bell, rope) = UnixStream::pair()?;
        for end in [&bell, &rope] {
            end.set_nonblocking(true)?;
        }
        Ok(Self { shared: Arc::new(Shared { work: Mutex::default(), rope }), bell })
    }

    /// Asks a question. Where no thread can be started, the next one that is takes it up.
    pub fn ask(&self, question: Question) {
        let mut work = self.shared.lock();
        work.questions.push_back(question);
        if work.threads < THREADS {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new().stack_size(STACK).spawn(move || shared.work());
            work.threads += usize::from(started.is_ok());
        }
    }

    /// Takes the answers there are.
    pub fn answers(&mut self) -> Vec<Resolved> {
        let mut rung = [0; 64];
        while self.bell.read(&mut rung).is_ok_and(|length| length > 0) {}
        std::mem::take(&mut self.shared.lock().answers)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers questions until there are none: the body of a thread.
    fn work(&self) {
        loop {
            let mut work = self.lock();
            let Some(question) = work.questions.pop_front() else {
                work.threads -= 1;
                return;
            };
            drop(work);
            let answer = match question {
                Question::Host(name) => Resolved::Host(name.clone(), addresses(&name)),
                Question::Profiles(names) => {
                    let found = |name: String| {
                        let addresses = addresses(&name);
                        (name, addresses)
                    };
                    Resolved::Profiles(names.into_iter().map(found).collect())
                }
            };
            self.lock().answers.push(answer);
            // Where the socket is full, the loop has yet to read it, and will find this answer too.
            let _ = (&self.rope).write(&[0]);
        }
    }
}

fn addresses(name: &str) -> Vec<SocketAddr> {
    knocker::addresses(name, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll;
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn every_question_is_answered_and_the_threads_end() {
        let mut resolver = Resolver::new().unwrap();
        for number in 0..200 {
            resolver.ask(Question::Host(format!("127.0.0.{number}")));
        }
        resolver.ask(Question::Profiles(vec!["127.0.0.1".into(), "no name".into(), "::1".into()]));
        let mut answers = Vec::new();
        while answers.len() < 201 {
            assert_eq!(poll::readable([resolver.bell.as_fd()], Some(Duration::from_secs(5))).unwrap(), [true]);
            answers.extend(resolver.answers());
            assert!(resolver.shared.lock().threads <= THREADS);
        }
        for answer in answers {
            match answer {
                Resolved::Host(name, found) => assert_eq!(found[0].ip().to_string(), name),
                Resolved::Profiles(found) => {
                    let counts: Vec<_> = found.iter().map(|(_, addresses)| addresses.is_empty()).collect();
                    assert_eq!(counts, [false, true, false]);
                }
            }
        }
        while resolver.shared.lock().threads > 0 {
            thread::yield_now();
        }
    }
}

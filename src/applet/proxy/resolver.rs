//! The addresses of names. The system's resolver makes its caller wait, so threads ask it: a few with
//! small stacks, started when there is something to ask and gone when there is nothing.

use crate::knocker;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The most threads. Names that nobody answers for take each of them ten seconds and more.
const THREADS: usize = 8;
/// What a thread's stack may grow to: the C library's resolver has its buffers there.
const STACK: usize = 256 << 10;

/// Names and their addresses, in the order of the names; none where there are none.
pub type Addresses = Vec<(String, Vec<SocketAddr>)>;

/// What is asked for.
pub enum Question {
    /// The addresses of one host.
    Host(String),
    /// Those of all profiles.
    Profiles(Vec<String>),
}

/// What came of it.
pub enum Resolved {
    /// The addresses of one host.
    Host(String, Vec<SocketAddr>),
    /// Those of all profiles.
    Profiles(Addresses),
}

/// Asks for names without waiting.
pub struct Resolver {
    shared: Arc<Shared>,
    /// Readable when there are answers.
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
    /// One that has nothing to do.
    pub fn new() -> io::Result<Self> {
        let (bell, rope) = UnixStream::pair()?;
        for end in [&bell, &rope] {
            end.set_nonblocking(true)?;
        }
        Ok(Self { shared: Arc::new(Shared { work: Mutex::default(), rope }), bell })
    }

    /// Asks. What no thread can be had for is asked by the next one.
    pub fn ask(&self, question: Question) {
        let mut work = self.shared.lock();
        work.questions.push_back(question);
        if work.threads < THREADS {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new().stack_size(STACK).spawn(move || shared.work());
            work.threads += usize::from(started.is_ok());
        }
    }

    /// The answers since the last time, as the bell tells of them.
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

    /// A thread's life.
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
            // A bell that cannot ring any more has not been heard yet.
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
    fn every_question_is_answered_and_no_thread_stays() {
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

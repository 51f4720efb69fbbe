//! A blocking race, for programs with a single connection.

use super::{KnockLock, KnockSetup, Progress, Race, Turn};
use crate::error::{Error, Result, quoted};
use crate::profile::Found;
use crate::sys::epoll::Epoll;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How often to retry the knock lock while another process holds it, and for how long.
const RETRY_LOCK: Duration = Duration::from_millis(5);
const WAIT_FOR_LOCK: Duration = Duration::from_secs(60);

/// Waits for the knock lock of a profile.
pub fn wait_for_turn(found: &Found) -> Result<Turn> {
    let (knock_lock, until) = (KnockLock::new(found), Instant::now() + WAIT_FOR_LOCK);
    loop {
        match knock_lock.try_lock()? {
            Some(turn) => return Ok(turn),
            None if Instant::now() > until => {
                let why = format!("another process has held a lock of {} for a minute", quoted(&found.name));
                return Err(
                    Error::refused(why).advise(format!("fuser -v {0} {0}/counter lists it", quoted(&found.path)))
                );
            }
            None => thread::sleep(RETRY_LOCK),
        }
    }
}

/// Connects to one of `addresses`, after a knock if there is a `setup`.
pub fn connect(addresses: &[SocketAddr], setup: Option<KnockSetup>) -> Result<TcpStream> {
    let failed = |cause| Error::system("wait for connections", cause);
    let epoll = Epoll::new().map_err(failed)?;
    let mut race = Race::new(addresses, setup);
    let mut ready = Vec::new();
    loop {
        match race.run(&epoll, 0) {
            Progress::Won(stream, _) => return Ok(stream),
            Progress::Lost(error) => return Err(error),
            Progress::Running(until) => epoll.wait(&mut ready, Some(until)).map_err(failed)?,
        }
    }
}

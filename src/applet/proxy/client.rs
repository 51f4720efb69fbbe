//! A client of the proxy, from its first byte until it is connected or refused. It is a pure value that maps events to
//! actions: it has no socket, reads no clock and writes no log.

use super::socks::{self, Failure, Hello, Host, Reply, SocksRequest, Version};
use crate::profile::Found;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a client waits for name resolution.
const LOOKUP: Duration = Duration::from_secs(30);
/// How long a client waits for the address cache before it uses what is known.
const CACHE: Duration = Duration::from_secs(2);
/// How long a client waits for its turn to knock.
const TURN: Duration = Duration::from_secs(60);
/// How long to wait for a refused client to close. If the proxy closed first, the reply could be lost.
const LEAVING: Duration = Duration::from_secs(2);

/// An event of a client.
#[derive(Debug)]
pub enum ClientEvent {
    /// Its socket is readable.
    Readable {
        /// Whether the client has closed its side.
        ended: bool,
    },
    /// Its deadline has passed.
    Expired,
    /// The addresses of its host.
    Resolved(Vec<SocketAddr>),
    /// The address cache has been filled.
    CacheFilled,
    /// The host has this profile.
    Profile(Box<Found>),
    /// The host has a profile that does not open this port.
    NoKnockNeeded,
    /// The host has no profile.
    NoProfile,
    /// The address cache has not been filled yet.
    CacheNotFilled,
    /// It has the knock lock.
    Turn,
    /// It is connected; the local address of the connection.
    Connected(Option<SocketAddr>),
    /// The request has failed.
    Failed(Reply),
}

/// An action to perform for a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Wait for the next event.
    Wait,
    /// Pass the bytes that it has sent to [`Client::parse`].
    Parse {
        /// Whether the client has closed its side.
        ended: bool,
    },
    /// Send [`socks::WELCOME`], then continue as for [`ClientAction::Parse`].
    Welcome {
        /// As in [`ClientAction::Parse`].
        ended: bool,
    },
    /// Resolve its host.
    Resolve,
    /// Find the profile of its host, and keep only addresses that the profile is for.
    FindProfile {
        /// Whether to wait for the address cache.
        wait: bool,
    },
    /// Join the queue for its profile's knock lock.
    JoinQueue,
    /// Connect, after a knock if there is a profile.
    Connect,
    /// Send these bytes, then relay.
    Relay(Vec<u8>),
    /// Send these bytes, then wait for the client to close.
    Leave(Vec<u8>),
    /// Read and discard what it still sends. Unread bytes would make the kernel reset the connection, and the reset
    /// could overtake the reply.
    Drain,
    /// Close.
    Close,
}

/// A client that is not connected yet.
pub struct Client {
    version: Version,
    stage: Stage,
    deadline: Instant,
    /// Whether it may connect only to hosts with profiles.
    profiles_only: bool,
    /// The requested host.
    pub host: String,
    /// The requested port.
    port: u16,
    /// The addresses of the host, with the port.
    pub addresses: Vec<SocketAddr>,
    /// The profile to knock with.
    pub found: Option<Box<Found>>,
}

/// The state of a client.
#[derive(Clone, Copy)]
enum Stage {
    /// It has sent nothing yet.
    Greeting,
    /// Its greeting (version 5) was accepted.
    Request,
    /// Its host is being resolved.
    Resolving,
    /// The address cache is being filled.
    WaitingForCache,
    /// The event loop is finding its profile or connecting.
    Busy,
    /// It waits for its turn to knock.
    Waiting,
    /// It has been refused, or is closing.
    Leaving,
}

impl Client {
    /// Creates the state of a new client.
    pub fn new(profiles_only: bool, now: Instant) -> Self {
        Self {
            version: Version::Five,
            stage: Stage::Greeting,
            deadline: now + REQUEST,
            profiles_only,
            host: String::new(),
            port: 0,
            addresses: Vec::new(),
            found: None,
        }
    }

    /// Returns when to report [`ClientEvent::Expired`], unless it is connecting.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns whether it has made no request, or has had its reply.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Request | Stage::Leaving)
    }

    /// Handles an event.
    pub fn on(&mut self, event: ClientEvent, now: Instant) -> ClientAction {
        match (self.stage, event) {
            (Stage::Greeting | Stage::Request, ClientEvent::Readable { ended }) => ClientAction::Parse { ended },
            (Stage::Greeting | Stage::Request, ClientEvent::Expired) => self.leave(Vec::new(), now),
            (Stage::Leaving, ClientEvent::Readable { .. }) => ClientAction::Drain,
            (Stage::Leaving, ClientEvent::Expired) => ClientAction::Close,
            // Do not knock for a client that has already closed.
            (_, ClientEvent::Readable { ended: true }) => self.refuse(Reply::Failed, now),
            (Stage::Resolving, ClientEvent::Expired) => self.refuse(Reply::HostUnreachable, now),
            (Stage::Resolving, ClientEvent::Resolved(addresses)) if addresses.is_empty() => {
                self.refuse(Reply::HostUnreachable, now)
            }
            (Stage::Resolving, ClientEvent::Resolved(addresses)) => {
                self.addresses = addresses;
                self.addresses.iter_mut().for_each(|address| address.set_port(self.port));
                self.busy(ClientAction::FindProfile { wait: true })
            }
            (Stage::WaitingForCache, ClientEvent::CacheFilled | ClientEvent::Expired) => {
                self.busy(ClientAction::FindProfile { wait: false })
            }
            (Stage::Busy, ClientEvent::CacheNotFilled) => self.wait(Stage::WaitingForCache, now + CACHE),
            (Stage::Busy, ClientEvent::Profile(found)) => {
                self.found = Some(found);
                self.wait(Stage::Waiting, now + TURN);
                ClientAction::JoinQueue
            }
            (Stage::Busy, ClientEvent::NoProfile) if self.profiles_only => self.refuse(Reply::NotAllowed, now),
            (Stage::Busy, ClientEvent::NoProfile | ClientEvent::NoKnockNeeded)
            | (Stage::Waiting, ClientEvent::Turn) => self.busy(ClientAction::Connect),
            (Stage::Waiting, ClientEvent::Expired) => self.refuse(Reply::TimedOut, now),
            (Stage::Busy, ClientEvent::Connected(local)) => {
                ClientAction::Relay(socks::answer(self.version, Reply::Succeeded, local))
            }
            (Stage::Busy | Stage::Waiting | Stage::Resolving, ClientEvent::Failed(reply)) => self.refuse(reply, now),
            _ => ClientAction::Wait,
        }
    }

    /// Parses what the client has sent so far. Returns how many bytes belong to the request; later ones are for the
    /// server. `full` means that there is no room for another connection.
    pub fn parse(&mut self, bytes: &[u8], ended: bool, full: bool, now: Instant) -> (usize, ClientAction) {
        let parsed = match self.stage {
            Stage::Request => socks::request(bytes),
            _ => socks::hello(bytes),
        };
        match parsed {
            Err(Failure::Short) if ended => (0, ClientAction::Close),
            Err(Failure::Short) => (0, ClientAction::Wait),
            Err(Failure::Refused(reply)) => (0, self.leave(reply, now)),
            Ok((Hello::Five, length)) => {
                self.stage = Stage::Request;
                (length, ClientAction::Welcome { ended })
            }
            Ok((Hello::Request(SocksRequest { version, host, port }), length)) => {
                (self.version, self.port) = (version, port);
                let action = match host {
                    _ if ended || full => self.refuse(Reply::Failed, now),
                    _ if port == 0 => self.refuse(Reply::Refused, now),
                    Host::Address(address) => {
                        self.host = address.to_string();
                        self.addresses.push(SocketAddr::new(address, port));
                        self.busy(ClientAction::FindProfile { wait: true })
                    }
                    Host::Name(host) => {
                        self.host = host;
                        self.wait(Stage::Resolving, now + LOOKUP);
                        ClientAction::Resolve
                    }
                };
                (length, action)
            }
        }
    }

    fn wait(&mut self, stage: Stage, deadline: Instant) -> ClientAction {
        (self.stage, self.deadline) = (stage, deadline);
        ClientAction::Wait
    }

    fn busy(&mut self, action: ClientAction) -> ClientAction {
        self.stage = Stage::Busy;
        action
    }

    fn refuse(&mut self, reply: Reply, now: Instant) -> ClientAction {
        self.leave(socks::answer(self.version, reply, None), now)
    }

    fn leave(&mut self, reply: Vec<u8>, now: Instant) -> ClientAction {
        self.wait(Stage::Leaving, now + LEAVING);
        ClientAction::Leave(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST_BY_NAME: &[u8] = b"\x05\x01\x00\x03\x04host\x00\x16";
    const REQUEST_BY_ADDRESS: &[u8] = &[5, 1, 0, 1, 10, 9, 0, 1, 0, 22];

    fn welcomed(profiles_only: bool, now: Instant) -> Client {
        let mut client = Client::new(profiles_only, now);
        assert_eq!(client.on(ClientEvent::Readable { ended: false }, now), ClientAction::Parse { ended: false });
        assert_eq!(client.parse(&[5, 1, 0], false, false, now), (3, ClientAction::Welcome { ended: false }));
        client
    }

    /// A client whose profile is being looked for.
    fn asked(profiles_only: bool, now: Instant) -> Client {
        let mut client = welcomed(profiles_only, now);
        let (taken, action) = client.parse(REQUEST_BY_ADDRESS, false, false, now);
        assert_eq!((taken, action), (10, ClientAction::FindProfile { wait: true }));
        assert_eq!((&*client.host, &client.addresses), ("10.9.0.1", &addresses()));
        client
    }

    fn refused(reply: Reply) -> ClientAction {
        ClientAction::Leave(socks::answer(Version::Five, reply, None))
    }

    fn addresses() -> Vec<SocketAddr> {
        vec!["10.9.0.1:22".parse().unwrap()]
    }

    fn found() -> Box<Found> {
        Box::new(Found { name: "host".into(), path: "/profiles/host".into() })
    }

    #[test]
    fn a_named_host_is_resolved_found_and_knocked_at() {
        let now = Instant::now();
        let mut client = welcomed(false, now);
        let bytes = [REQUEST_BY_NAME, b"payload"].concat();
        assert_eq!(client.parse(&bytes, false, false, now), (11, ClientAction::Resolve));
        let resolved = ClientEvent::Resolved(vec!["10.9.0.1:0".parse().unwrap()]);
        assert_eq!(client.on(resolved, now), ClientAction::FindProfile { wait: true });
        assert_eq!((&*client.host, &client.addresses), ("host", &addresses()));
        assert_eq!(client.on(ClientEvent::Profile(found()), now), ClientAction::JoinQueue);
        assert_eq!(client.on(ClientEvent::Turn, now), ClientAction::Connect);
        assert_eq!(client.found, Some(found()));
        let local = Some("10.9.0.2:258".parse().unwrap());
        let action = client.on(ClientEvent::Connected(local), now);
        assert_eq!(action, ClientAction::Relay(vec![5, 0, 0, 1, 10, 9, 0, 2, 1, 2]));
    }

    #[test]
    fn version_4_has_no_greeting_and_gets_version_4_replies() {
        let now = Instant::now();
        let mut client = Client::new(false, now);
        let bytes = b"\x04\x01\x00\x16\x0a\x09\x00\x01user\x00";
        assert_eq!(client.parse(bytes, false, false, now), (13, ClientAction::FindProfile { wait: true }));
        assert_eq!(client.addresses, addresses());
        let action = client.on(ClientEvent::Failed(Reply::TimedOut), now);
        assert_eq!(action, ClientAction::Leave(vec![0, 91, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn a_client_waits_for_the_address_cache_until_its_deadline() {
        let now = Instant::now();
        for event in [ClientEvent::CacheFilled, ClientEvent::Expired] {
            let mut client = asked(false, now);
            let action = client.on(ClientEvent::CacheNotFilled, now);
            assert_eq!((action, client.deadline()), (ClientAction::Wait, now + CACHE));
            assert_eq!(client.on(event, now + CACHE), ClientAction::FindProfile { wait: false });
        }
    }

    #[test]
    fn without_a_profile_it_connects_without_a_knock_or_is_refused() {
        let now = Instant::now();
        assert_eq!(asked(false, now).on(ClientEvent::NoProfile, now), ClientAction::Connect);
        assert_eq!(asked(true, now).on(ClientEvent::NoProfile, now), refused(Reply::NotAllowed));
        let mut client = asked(true, now);
        assert_eq!(client.on(ClientEvent::NoKnockNeeded, now), ClientAction::Connect);
        assert_eq!(client.found, None);
    }

    #[test]
    fn a_client_that_closes_early_is_refused_in_every_stage() {
        let (now, ended) = (Instant::now(), || ClientEvent::Readable { ended: true });
        let mut resolving = welcomed(false, now);
        resolving.parse(REQUEST_BY_NAME, false, false, now);
        let mut waiting_for_cache = asked(false, now);
        waiting_for_cache.on(ClientEvent::CacheNotFilled, now);
        let mut waiting = asked(false, now);
        waiting.on(ClientEvent::Profile(found()), now);
        for mut client in [resolving, waiting_for_cache, waiting, asked(false, now)] {
            assert_eq!(client.on(ended(), now), refused(Reply::Failed));
            assert_eq!(client.on(ClientEvent::Turn, now), ClientAction::Wait, "no knock is spent on it");
            assert_eq!(client.on(ended(), now), ClientAction::Drain);
            assert_eq!(client.on(ClientEvent::Expired, now), ClientAction::Close);
        }
        let mut client = welcomed(false, now);
        assert_eq!(client.parse(REQUEST_BY_NAME, true, false, now), (11, refused(Reply::Failed)));
        assert_eq!(welcomed(false, now).parse(&[5, 1], true, false, now), (0, ClientAction::Close));
    }

    #[test]
    fn every_wait_has_a_deadline_and_its_reply() {
        let now = Instant::now();
        let mut client = Client::new(false, now);
        assert_eq!(client.deadline(), now + REQUEST);
        assert_eq!(client.on(ClientEvent::Expired, now), ClientAction::Leave(vec![]));
        let mut client = welcomed(false, now);
        assert_eq!(client.deadline(), now + REQUEST, "a greeting does not extend it");
        client.parse(REQUEST_BY_NAME, false, false, now);
        assert_eq!(client.deadline(), now + LOOKUP);
        assert_eq!(client.on(ClientEvent::Expired, now), refused(Reply::HostUnreachable));
        assert_eq!(client.deadline(), now + LEAVING);
        let mut client = asked(false, now);
        client.on(ClientEvent::Profile(found()), now);
        assert_eq!(client.deadline(), now + TURN);
        assert_eq!(client.on(ClientEvent::Expired, now), refused(Reply::TimedOut));
    }

    #[test]
    fn late_events_change_nothing() {
        let now = Instant::now();
        let mut client = asked(false, now);
        client.on(ClientEvent::Profile(found()), now);
        for late in [ClientEvent::Resolved(addresses()), ClientEvent::CacheFilled, ClientEvent::Connected(None)] {
            assert_eq!(client.on(late, now), ClientAction::Wait);
        }
        assert_eq!(client.on(ClientEvent::Readable { ended: false }, now), ClientAction::Wait);
        assert_eq!(client.on(ClientEvent::Turn, now), ClientAction::Connect);
    }

    #[test]
    fn requests_that_cannot_be_met_are_refused_at_once() {
        let now = Instant::now();
        assert_eq!(welcomed(false, now).parse(REQUEST_BY_NAME, false, true, now), (11, refused(Reply::Failed)));
        let port_0 = [5, 1, 0, 1, 10, 9, 0, 1, 0, 0];
        assert_eq!(welcomed(false, now).parse(&port_0, false, false, now), (10, refused(Reply::Refused)));
        let mut client = welcomed(false, now);
        client.parse(REQUEST_BY_NAME, false, false, now);
        assert_eq!(client.on(ClientEvent::Resolved(vec![]), now), refused(Reply::HostUnreachable));
        let bind = [5, 2, 0, 1, 1, 2, 3, 4, 0, 80];
        assert_eq!(welcomed(false, now).parse(&bind, false, false, now).1, refused(Reply::CommandNotSupported));
        assert_eq!(Client::new(false, now).parse(b"GET /", false, false, now), (0, ClientAction::Leave(vec![])));
    }
}

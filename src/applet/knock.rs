//! knock: sends one SYN and exits.

use crate::error::{Error, Result, quoted};
use crate::knocker::{self, Family, Knocker};
use crate::profile::{Found, Profile, ProfileHome};
use crate::say;
use crate::sys::tcp;
use crate::tunnel::{self, KnockSetup, OpeningDelay};
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// After the second knock of `--wait`: how long to wait for the opening, as a multiple of the duration of the test
/// connection, and the bounds of that time.
const MARGIN: u32 = 2;
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_millis(500);

/// The options of a knock.
pub struct KnockOptions {
    /// The port to open.
    pub port: u16,
    /// The address families to use.
    pub family: Family,
    /// Whether to return only after the port has answered.
    pub wait: bool,
    /// Whether to print what was sent.
    pub verbose: bool,
}

/// Knocks at `host` with its profile from `home`.
pub fn run(home: &ProfileHome, host: &str, options: &KnockOptions) -> Result<()> {
    let knocker = Knocker::open(home.user)?;
    let found = home.find(host)?.ok_or_else(|| home.missing(host))?;
    let load = || Profile::load(&found);
    let profile = load()?;
    profile.config.check_knocks(&profile.name)?;
    let mut addresses = knocker::resolve(host, options.port, options.family)?;
    if profile.config.legacy {
        addresses = knocker::ipv4_first(addresses);
    }
    if !options.wait {
        let Some(&first) = addresses.first() else { return Ok(()) };
        return knock(&knocker, profile, first, None, options);
    }
    let began = Instant::now();
    let (address, source) = test_connection(&knocker, &found, profile, &addresses)?;
    let delay = (began.elapsed() * MARGIN).clamp(SOONEST, LATEST);
    // The test connection has used its opening up.
    let _turn = tunnel::wait_for_turn(&found)?;
    knock(&knocker, load()?, address, Some(source), options)?;
    thread::sleep(delay);
    Ok(())
}

/// Sends one knock.
fn knock(
    knocker: &Knocker,
    mut profile: Box<Profile>,
    address: SocketAddr,
    source: Option<SocketAddr>,
    options: &KnockOptions,
) -> Result<()> {
    let wire = profile.config.wire;
    let sent = knocker.knock(&mut profile, options.port, address, source)?;
    if options.verbose {
        say::note(format_args!(
            "sent a knock for port {} with profile {}: from {}, to {}, knock port {}, {} wire",
            options.port,
            quoted(&profile.name),
            sent.source.ip(),
            address.ip(),
            profile.config.knock_port,
            wire.name()
        ));
        if let Some(difference) = sent.difference {
            say::note(difference);
        }
    }
    Ok(())
}

/// Knocks until the port answers, then resets the connection. Returns the addresses of both ends.
fn test_connection(
    knocker: &Rc<Knocker>,
    found: &Found,
    profile: Box<Profile>,
    addresses: &[SocketAddr],
) -> Result<(SocketAddr, SocketAddr)> {
    let (knocker, turn) = (Rc::clone(knocker), tunnel::wait_for_turn(found)?);
    let setup = KnockSetup { knocker, profile, turn, first_delay: OpeningDelay::default().get() };
    let stream = tunnel::connect(addresses, Some(setup))?;
    let _ = tcp::reset(&stream);
    let ends = stream.peer_addr().and_then(|peer| Ok((peer, stream.local_addr()?)));
    ends.map_err(|cause| Error::system("examine the test connection", cause))
}

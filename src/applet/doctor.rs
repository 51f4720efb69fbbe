//! doctor HOST: follows a knock from this machine step by step, and reports where it fails.

use crate::diagnosis::Diagnosis;
use crate::error::{Error, Result, quoted, reason};
use crate::knocker::{self, Family, Knocker};
use crate::ports::Ports;
use crate::profile::{Found, Profile, ProfileHome};
use crate::sys::{poll, tcp};
use crate::tunnel::{self, KnockSetup, OpeningDelay};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

/// How long to wait for an answer without a knock.
const UNKNOCKED: Duration = Duration::from_secs(1);
/// The port to try if the profile may open it.
const SSH: u16 = 22;

/// The options of a diagnosis.
pub struct DoctorOptions {
    /// The port to open; by default 22, or the first that the profile lists.
    pub port: Option<u16>,
    /// The address families to use.
    pub family: Family,
    /// Whether to print JSON.
    pub json: bool,
}

/// Diagnoses a knock at `host` with its profile from `home`. The last step sends a knock. Returns the exit code.
pub fn run(home: &ProfileHome, host: &str, options: &DoctorOptions) -> Result<u8> {
    let mut diagnosis = Diagnosis::new(options.json);
    // Open it first, because it drops root.
    let knocker = Knocker::open(home.user);
    run_steps(&mut diagnosis, home, host, options, knocker);
    diagnosis.end()
}

/// Runs the steps in order; `None` if one fails.
fn run_steps(
    diagnosis: &mut Diagnosis,
    home: &ProfileHome,
    host: &str,
    options: &DoctorOptions,
    knocker: Result<Rc<Knocker>>,
) -> Option<()> {
    let found = home.find(host).and_then(|found| found.ok_or_else(|| home.missing(host)));
    let loaded = found.and_then(|found| {
        let profile = Profile::load(&found)?;
        profile.config.check_knocks(&profile.name)?;
        Ok((profile, found))
    });
    let (profile, found) = diagnosis.value("profile", loaded)?;
    let config = &profile.config;
    let opens = config.ports.as_ref().map_or("any port".to_owned(), Ports::describe);
    diagnosis.ok("profile", format_args!("{}: {}", quoted(&found.path), profile.describe(&opens)));
    let knock_port = config.knock_port;
    let listed = config.ports.as_ref().filter(|ports| !ports.contains(SSH)).and_then(|ports| ports.iter().next());
    let port = options.port.or(listed).unwrap_or(SSH);

    let knocker = diagnosis.value("privileges", knocker)?;
    diagnosis.ok("privileges", format_args!("a raw socket can be opened"));

    let mut addresses = diagnosis.value("name", knocker::resolve(host, port, options.family))?;
    if config.legacy {
        addresses = knocker::ipv4_first(addresses);
    }
    let mut list = String::new();
    for address in &addresses {
        list += if list.is_empty() { "" } else { ", then " };
        list += &address.ip().to_string();
    }
    diagnosis.ok("name", format_args!("{} is {list}", quoted(host)));

    // An address without a route is skipped, as connections do.
    let mut routes = addresses.iter().map(|address| Ok((address, knocker::describe_route(*address)?)));
    let first_with_route = routes.next()?.or_else(|error| routes.find_map(Result::ok).ok_or(error));
    let (&address, (route, differs)) = diagnosis.value("route", first_with_route)?;
    diagnosis.ok("route", format_args!("to {} {route}", address.ip()));
    if let Some(differs) = differs {
        diagnosis.note("route", format_args!("{differs}"));
    }

    let refused_before = connect_without_knock(diagnosis, address)?;
    let opened =
        knock(knocker, profile, &found, &addresses).map_err(|error| explain(error, port, knock_port, refused_before));
    let address = diagnosis.value("knock", opened)?;
    diagnosis.ok("knock", format_args!("opened port {port}: connected to {}", knocker::describe(address)));
    Some(())
}

/// Tries to connect to `address` without a knock. Returns whether the port refuses connections; `None` if it accepts
/// them.
fn connect_without_knock(diagnosis: &mut Diagnosis, address: SocketAddr) -> Option<bool> {
    let port = address.port();
    let connect = || {
        let stream = tcp::connect(address, None)?;
        let [answered] = poll::writable(stream.as_fd(), Some(UNKNOCKED))?;
        let _ = tcp::complete(&stream).and_then(|()| tcp::reset(&stream));
        tcp::failure(&stream).map(|()| answered)
    };
    // The first connection may use the opening of an earlier knock.
    match connect().and_then(|answered| if answered { connect() } else { Ok(false) }) {
        Ok(true) => {
            let what = format_args!("port {port} answers without a knock: it is not guarded");
            diagnosis.wrong("guard", what, "on the server, as root: knockknock doctor");
            None
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let what = format_args!(
                "without a knock port {port} refuses connections; a guard drops them, except shortly after a knock"
            );
            diagnosis.note("guard", what);
            Some(true)
        }
        Err(error) => {
            diagnosis
                .note("guard", format_args!("without a knock: {}; a guard would drop connections", reason(&error)));
            Some(false)
        }
        Ok(false) => {
            diagnosis.ok("guard", format_args!("without a knock port {port} does not answer"));
            Some(false)
        }
    }
}

/// How long to wait for a reset by the server's firewall, which means that the opening was already used. The reset
/// answers the second ACK, which the client sends when the server retransmits its SYN/ACK after a second.
const RESET_SHOWS: Duration = Duration::from_millis(1500);

/// Knocks and connects. Returns the server's address.
fn knock(knocker: Rc<Knocker>, profile: Box<Profile>, found: &Found, addresses: &[SocketAddr]) -> Result<SocketAddr> {
    let turn = tunnel::wait_for_turn(found)?;
    let setup = KnockSetup { knocker, profile, turn, first_delay: OpeningDelay::default().get() };
    let stream = tunnel::connect(addresses, Some(setup))?;
    let _ = poll::readable([stream.as_fd()], Some(RESET_SHOWS));
    if let Some(reset) = stream.peek(&mut [0]).err().filter(|error| error.kind() == ErrorKind::ConnectionReset) {
        return Err(Error::system("keep the connection", reset)
            .advise("try again; another connection from this network may have used the opening"));
    }
    let address = stream.peer_addr().map_err(|cause| Error::system("examine the connection", cause));
    let _ = tcp::reset(&stream);
    address
}

/// Adds the meaning of a failure, and how to find its cause.
fn explain(error: Error, port: u16, knock_port: u16, refused_before: bool) -> Error {
    let advice = match error.kind() {
        Some(ErrorKind::ConnectionRefused) if refused_before => format!(
            "if no program listens on port {port} there, the knock may have worked; otherwise another firewall rejects it"
        ),
        Some(ErrorKind::ConnectionRefused) => {
            format!(
                "the knock worked: start the program that should listen on port {port}. If it runs, another firewall rejects connections: on the server, as root: knockknock doctor"
            )
        }
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied) => {
            "see whether the server is up, and whether a router or firewall on the path rejects connections".to_owned()
        }
        Some(ErrorKind::TimedOut) => format!(
            "on the server, as root: knockknock doctor, then knockknock status. If the daemon needs a reload, reload \
             it. If a problem is printed, solve it. If opened grew, another firewall drops the connection. If not \
             allowed grew, add the port to \"ports\" of the profile there. If replayed or wrong codes grew, this \
             profile was revoked, is an old copy or differs from the server's: knockknock rotate makes new keys. If \
             they still grow, a device on the path rewrites SYNs. If none grew, see \
             whether the knock arrives: tcpdump 'tcp dst port {knock_port}'"
        ),
        _ => return error,
    };
    error.advise(advice)
}

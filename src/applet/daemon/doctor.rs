//! doctor without a host: checks everything that a knock needs on the server, step by step.

use super::setup::{self, Setup, left_out};
use super::{configuration, link_routes, privileges, proof};
use crate::config::{self, Log};
use crate::diagnosis::Diagnosis;
use crate::error::{Error, Result, quoted};
use crate::firewall::Finding;
use crate::klog;
use crate::profile::{self, KeyIndex, Profile, REPLACED, SPENT};
use crate::status::{self, Status, TrialState};
use crate::sys::{clock, file, listeners};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often to read the daemon's record again, and the pause between two readings. The daemon writes it at most once a
/// second.
const RETRIES: usize = 15;
const RETRY: Duration = Duration::from_millis(100);
/// The number of SYNs that may be logged while the daemon starts: after it has made the log rule, before its watcher
/// reads.
const LOGGED_DURING_START: u64 = 2;

/// What to do after a failed trial.
const BEGIN_AGAIN: &str = "systemctl restart knockknock-trial # once the rest is right; without systemd: stop the daemon, and start it with --trial";

/// Checks the daemon on `directory`. Changes nothing. Returns the exit code.
pub fn run(directory: &Path, json: bool) -> Result<u8> {
    setup::must_be_root().map_err(|_| {
        Error::refused("this checks the server and needs root").advise("to check this client: knockknock doctor HOST")
    })?;
    let mut diagnosis = Diagnosis::new(json);
    // All later steps need the setup.
    if let Some(setup) = read_setup(&mut diagnosis, directory) {
        // Without a running daemon, the record is that of an earlier one.
        let status = config::daemon_runs(directory).then(|| status::read(directory).unwrap_or_default());
        profiles(&mut diagnosis, &setup);
        log(&mut diagnosis, &setup);
        rules(&mut diagnosis, directory, &setup, status.as_deref());
        links(&mut diagnosis, &setup);
        packets(&mut diagnosis, directory, &setup, status.as_deref());
        ports(&mut diagnosis, &setup);
        daemon(&mut diagnosis, directory, &setup, status.as_deref());
        // Last, because it moves this process into other namespaces.
        proof::run(&mut diagnosis, &setup);
    }
    diagnosis.end()
}

fn read_setup(diagnosis: &mut Diagnosis, directory: &Path) -> Option<Box<Setup>> {
    let read = setup::check_directory(directory).and_then(|()| configuration::read(directory)).and_then(|setup| {
        setup.index.must_not_be_empty(directory)?;
        privileges::watcher_user(&setup.config)?;
        Ok(setup)
    });
    let setup = diagnosis.value("configuration", read)?;
    let path = directory.join("config");
    diagnosis.ok("configuration", format_args!("{} can be used", quoted(&path)));
    for warning in &setup.warnings {
        diagnosis.error("configuration", warning);
    }
    Some(setup)
}

fn profiles(diagnosis: &mut Diagnosis, setup: &Setup) {
    for found in &setup.index.disabled {
        diagnosis.note("profile", format_args!("{} is disabled by its name", quoted(&found.name)));
    }
    let mut keys = KeyIndex::default();
    for (found, config) in &setup.index.profiles {
        let loaded = Profile::load(found).and_then(|profile| {
            keys.add(&profile)?;
            // Loading only reads the counter.
            let path = profile.counter.path();
            file::open(path, libc::O_WRONLY).map_err(|cause| Error::path("write", path, cause))?;
            if profile.counter.next() >= SPENT && !found.name.ends_with(REPLACED) {
                let name = &found.name;
                return Err(Error::refused("it was revoked, or its counter is spent")
                    .advise(format!("knockknock revoke {name} && knockknock invite {name} HOST")));
            }
            Ok(profile.describe(&setup.backend.opens(&setup.rules, config.ports.as_ref())))
        });
        match loaded {
            Ok(text) => diagnosis.ok("profile", format_args!("{}: {text}", quoted(&found.name))),
            Err(error) => diagnosis.error("profile", &left_out(found, &error)),
        }
    }
}

fn log(diagnosis: &mut Diagnosis, setup: &Setup) {
    let log = &setup.config.log;
    // Reading the configuration has opened it.
    diagnosis.ok("log", format_args!("{} can be read", klog::describe(log)));
    // Log rules write nothing for an address family without a logger (nf_log_proc_dostring in net/netfilter/nf_log.c).
    let silent =
        |family: &str| file::kernel_text(&format!("/proc/sys/net/netfilter/nf_log/{family}")).trim_ascii() == "NONE";
    if !matches!(log, Log::Nflog(_)) && ["2", "10"].iter().any(|family| silent(family)) {
        let what = format_args!("the kernel has no logger for IPv4 or IPv6: log rules write nothing");
        diagnosis.wrong("log", what, "modprobe nf_log_syslog");
    }
}

fn rules(diagnosis: &mut Diagnosis, directory: &Path, setup: &Setup, status: Option<&Status>) {
    let trial = status.and_then(|status| status::read_trial(directory, status.daemon));
    let (backend, rules) = (setup.backend, &setup.rules);
    diagnosis.ok("firewall", format_args!("{} can be used: {}", backend.name(), backend.turnstile()));
    if let Some((TrialState::Failed, _)) = trial {
        let what = format_args!("the trial has failed: no knock has opened a port, and the guard was lifted");
        diagnosis.wrong("rules", what, BEGIN_AGAIN);
    } else if backend.has_rules(rules) {
        diagnosis.ok("rules", format_args!("the guard and the log rule are in place"));
    } else {
        let what = format_args!("the rules are missing or differ from the configuration and the profiles");
        diagnosis.wrong("rules", what, &status.map_or_else(|| command("start"), reload));
    }
    if let Some((TrialState::Running, end)) = trial {
        let left = end.saturating_sub(clock::uptime()).div_ceil(60);
        diagnosis.note("rules", format_args!("on trial: lifted in {left} min unless a knock opens a port"));
    }
    let findings = setup.findings();
    if findings.is_empty() {
        diagnosis.ok("other rules", format_args!("no known conflict"));
    }
    for Finding { what, fix } in &findings {
        diagnosis.wrong("other rules", format_args!("{what}"), fix);
    }
}

fn links(diagnosis: &mut Diagnosis, setup: &Setup) {
    for &prefix in &setup.rules.links {
        match link_routes::examine(prefix) {
            Some(Finding { what, fix }) => diagnosis.wrong("links", format_args!("{what}"), &fix),
            None => diagnosis.ok("links", format_args!("{prefix} is not on-link and has no hosts here")),
        }
    }
}

/// Compares what the log rule has logged with what the daemon has read.
fn packets(diagnosis: &mut Diagnosis, directory: &Path, setup: &Setup, status: Option<&Status>) {
    let (Some(status), Ok([logged, dropped])) = (status, setup.backend.packet_counts()) else { return };
    let mut received = status.received();
    for _ in 0..RETRIES {
        if received >= logged {
            break;
        }
        thread::sleep(RETRY);
        received = status::read(directory).map_or(received, |status| status.received());
    }
    let text = format_args!("SYNs to knock ports and links that were logged: {logged}; read by the daemon: {received}");
    if received >= logged {
        diagnosis.ok("log", text);
    } else if received > 0 || logged <= LOGGED_DURING_START {
        diagnosis.note("log", text);
    } else {
        let advice = format!(
            "see whether lines with \"knockknock \" arrive in {}; if not, set log = nflog:5 in the config, and reload",
            klog::describe(&setup.config.log)
        );
        diagnosis.wrong("log", text, &advice);
    }
    diagnosis.ok("rules", format_args!("packets that the guard has dropped: {dropped}"));
}

fn ports(diagnosis: &mut Diagnosis, setup: &Setup) {
    for port in setup.rules.guard.iter() {
        match listeners::listens(port) {
            true => diagnosis.ok("guarded port", format_args!("{port}: a program listens")),
            false => diagnosis.note(
                "guarded port",
                format_args!("{port}: no program listens here; ignore this if the port is forwarded"),
            ),
        }
    }
    for port in setup.rules.guard.iter().filter(|&port| listeners::receives_udp(port)) {
        diagnosis.note("guarded port", format_args!("{port}: a UDP socket listens, and the guard covers TCP only"));
    }
    for port in setup.rules.knock_ports.iter().filter(|&port| listeners::listens(port)) {
        let what = format_args!("{port}: a program listens, so a scan finds an open port there");
        diagnosis.wrong("knock port", what, "stop that program, or give the profiles another port");
    }
}

fn daemon(diagnosis: &mut Diagnosis, directory: &Path, setup: &Setup, status: Option<&Status>) {
    let Some(status) = status else {
        let what = format_args!("it is not running: knocks open nothing");
        return diagnosis.wrong("daemon", what, &command("start"));
    };
    let minutes = clock::uptime().saturating_sub(status.since) / 60;
    diagnosis.ok("daemon", format_args!("it is running as process {} for {minutes} min", status.daemon));
    if status.is_replaced() {
        let what = format_args!("its program was replaced since it started");
        diagnosis.wrong("daemon", what, &command("restart"));
    }
    let reload = reload(status);
    if status.config != status::checksum(setup.text.as_bytes()) {
        let what = format_args!("the configuration was changed since the daemon read it");
        diagnosis.wrong("daemon", what, &reload);
    }
    if status.profiles != profile::checksum(&directory.join("profiles")) {
        let what = format_args!("a profile was made, removed or changed since the daemon read it");
        diagnosis.wrong("daemon", what, &reload);
    }
}

/// Returns the command to reload the daemon, which is the same during a trial and without systemd.
fn reload(status: &Status) -> String {
    format!("kill -HUP {}", status.daemon)
}

/// Returns the command to `verb` the daemon.
fn command(verb: &str) -> String {
    format!("systemctl {verb} knockknock-daemon # on OpenWrt: /etc/init.d/knockknock {verb}")
}

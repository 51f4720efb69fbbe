//! Reads an NFLOG group (linux/netfilter/nfnetlink_log.h): the kernel delivers packets instead of log lines.
//!
//! NFLOG works in containers, where the LOG target writes nothing, and keeps knocks out of dmesg.

use super::notice::Notice;
use super::record::Record;
use super::wanted::Wanted;
use crate::error::{Error, Result};
use crate::sys::netlink::{self, Socket, Writer};
use crate::sys::{file, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{io, thread};

/// `NFNL_SUBSYS_ULOG`, with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
const ULOG: u16 = (libc::NFNL_SUBSYS_ULOG as u16) << 8;
const PACKET: u16 = ULOG;
const CONFIG: u16 = ULOG | 1;
/// `NFULA_CFG_CMD` with `NFULNL_CFG_CMD_BIND`; `NFULA_CFG_MODE`; `NFULA_CFG_QTHRESH`.
const COMMAND: u16 = 1;
const BIND: u8 = 1;
const MODE: u16 = 2;
const THRESHOLD: u16 = 5;
/// `NFULNL_COPY_PACKET`.
const COPY_PACKET: u8 = 2;
/// `NFULA_IFINDEX_OUTDEV` and `NFULA_PAYLOAD`.
const OUTPUT: u16 = 5;
const PAYLOAD: u16 = 9;
/// How many bytes of each packet to copy: its headers.
const COPIED: u32 = 128;
/// The watcher's process name.
const WATCHER: &str = "knock-watcher";
/// How often, and after what time, to retry a group that is in use: another process may only check it, for a moment.
const RETRIES: usize = 10;
const RETRY: Duration = Duration::from_millis(10);
/// The maximum number of messages that one call reads before it returns to the event loop.
const SHARE: usize = 1024;
/// The minimum time between two reads. The kernel wakes its reader for each packet; in a flood a read finds many.
const GATHER: Duration = Duration::from_millis(1);

/// Longer than any datagram of the kernel (`NLMSG_GOODSIZE` in linux/netlink.h, at most 8192 bytes). musl does not clear a
/// buffer of this size, so that only the used part takes memory.
const BUFFER: usize = 1 << 16;

/// A bound group.
pub struct Nflog {
    socket: Socket,
    buffer: Box<[u8]>,
    read_at: Option<Instant>,
}

impl Nflog {
    pub(super) fn open(group: u16) -> Result<Box<Self>> {
        let mut bound = Self::bind(group);
        for _ in 0..RETRIES {
            match &bound {
                Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied && !is_watched(group) => {
                    thread::sleep(RETRY);
                    bound = Self::bind(group);
                }
                _ => break,
            }
        }
        bound.map_err(|cause| {
            let advice = match listener(group) {
                Some((pid, name)) => {
                    format!("process {pid} ({name}) uses it: stop that process, or choose another group")
                }
                None => "the kernel needs the module nfnetlink_log".to_owned(),
            };
            Error::system(format!("listen to NFLOG group {group}"), cause).advise(advice)
        })
    }

    fn bind(group: u16) -> io::Result<Box<Self>> {
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        // Larger than /dev/kmsg's ring buffer.
        socket.receive_buffer(1 << 20)?;
        let mode = [&COPIED.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
        let each_at_once = 1u32.to_be_bytes();
        for (kind, value) in [(COMMAND, &[BIND][..]), (MODE, &mode), (THRESHOLD, &each_at_once)] {
            configure(&socket, group, kind, value)?;
        }
        Ok(Box::new(Self { socket, buffer: vec![0; BUFFER].into(), read_at: None }))
    }

    /// Becomes readable when there may be more packets.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn read(&mut self, wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) -> Result<Option<Notice>> {
        if self.read_at.is_some_and(|read_at| read_at.elapsed() < GATHER) {
            // The system call filter allows poll, and no other call that sleeps.
            poll::readable([], Some(GATHER)).map_err(|cause| Error::system("wait for NFLOG", cause))?;
        }
        let notice = self.read_now(wanted, each);
        self.read_at = Some(Instant::now());
        notice
    }

    fn read_now(&mut self, wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) -> Result<Option<Notice>> {
        for _ in 0..SHARE {
            let datagram = match self.socket.receive_now(&mut self.buffer) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if netlink::is_loss(&error) => return Ok(Some(Notice::Overrun)),
                Err(cause) => return Err(Error::system("read from NFLOG", cause)),
            };
            for packet in netlink::messages(datagram).filter_map(|message| packet(&message)) {
                if tcp_destination(packet).is_some_and(|port| wanted.has_links() || wanted.has_port(port)) {
                    each(Record::Packet(packet));
                }
            }
        }
        Ok(None)
    }
}

fn configure(socket: &Socket, group: u16, kind: u16, value: &[u8]) -> io::Result<()> {
    let [high, low] = group.to_be_bytes();
    // `struct nfgenmsg`: family unspecified, version 0, the group as the resource.
    let header = [0, 0, high, low];
    let (mut writer, mut attributes) = (Writer::default(), Writer::default());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    attributes.attribute(kind, value);
    writer.message(CONFIG, flags, 1, &header, attributes.bytes());
    socket.send(writer.bytes())?;
    let mut buffer = [0; 1024];
    // Packets may come before the acknowledgment.
    loop {
        let answer = socket.receive(&mut buffer)?;
        if let Some(outcome) = netlink::messages(answer).find_map(|message| netlink::outcome(&message)) {
            return outcome;
        }
    }
}

/// Returns the PID and name of the process that listens to a group. The port ID of a process's first netlink socket is
/// its PID.
fn listener(group: u16) -> Option<(u32, String)> {
    let table = file::kernel_text("/proc/net/netfilter/nfnetlink_log");
    for line in table.lines() {
        let mut columns = line.split_ascii_whitespace();
        let mut number = || columns.next()?.parse::<u32>().ok();
        if number() == Some(group.into()) {
            let pid = number()?;
            let name = file::kernel_text(&format!("/proc/{pid}/comm"));
            return Some((pid, name.trim_ascii_end().to_owned()));
        }
    }
    None
}

/// Returns whether the watcher of a daemon listens to a group.
fn is_watched(group: u16) -> bool {
    listener(group).is_some_and(|(_, name)| name == WATCHER)
}

/// Checks that a group can be bound by binding it. If a knockknock daemon holds the group already, that is proof
/// enough.
pub(super) fn check(group: u16) -> Result<()> {
    match Nflog::open(group) {
        Err(_) if is_watched(group) => Ok(()),
        opened => opened.map(drop),
    }
}

/// Returns the packet in a message, if it is incoming.
fn packet<'a>(message: &netlink::NetlinkMessage<'a>) -> Option<&'a [u8]> {
    let attributes = message.body.get(4..).filter(|_| message.kind == PACKET)?;
    let mut payload = None;
    for (kind, value) in netlink::attributes(attributes) {
        match kind {
            OUTPUT => return None,
            PAYLOAD => payload = Some(value),
            _ => {}
        }
    }
    payload
}

/// Returns the TCP destination port of a packet without IPv6 extension headers.
fn tcp_destination(packet: &[u8]) -> Option<u16> {
    let at = match packet.first()? >> 4 {
        4 => usize::from(packet.first()? & 0x0f) * 4,
        _ => 40,
    };
    packet.get(at + 2..at + 4)?.try_into().ok().map(u16::from_be_bytes)
}

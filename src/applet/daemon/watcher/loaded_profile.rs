//! A loaded profile: its keys, its counter, and the messages computed from them.

use super::message::Message;
use crate::ports::Ports;
use crate::profile::ProfileConfig;
use crate::wire::{Ciphertext, Keys, Wire};

/// Profiles that list more ports are not held in the look-ahead table.
const MAX_HELD_PORTS: usize = 16;

/// The maximum number of burned counters that are searched to explain a refused knock; with 16 ports this takes about 2
/// ms on x86-64.
const MAX_BEHIND: u32 = 200;

/// A profile with its keys but without its files.
pub struct LoadedProfile {
    keys: Keys,
    wire: Wire,
    knock_port: u16,
    ports: Option<Ports>,
    /// The next counter to accept.
    next: u64,
    /// The counter on disk.
    stored: u64,
}

impl LoadedProfile {
    /// Creates a profile whose next counter is `next`, in memory and on disk.
    pub fn new(config: ProfileConfig, keys: Keys, next: u64) -> Self {
        let ProfileConfig { knock_port, ports, wire, .. } = config;
        Self { keys, wire, knock_port, ports, next, stored: next }
    }

    /// The next counter to accept.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn wire(&self) -> Wire {
        self.wire
    }

    /// The port that its knocks are sent to; 0 for links.
    pub(super) fn knock_port(&self) -> u16 {
        self.knock_port
    }

    /// Returns whether its config lists ports.
    pub(super) fn lists_ports(&self) -> bool {
        self.ports.is_some()
    }

    /// Returns the ports whose next messages are held in the look-ahead table. Empty if there are none or too many;
    /// then messages are decrypted.
    pub(super) fn held_ports(&self) -> &[u16] {
        let listed = self.ports.as_ref().map_or(&[][..], Ports::as_slice);
        if listed.len() > MAX_HELD_PORTS { &[] } else { listed }
    }

    /// Returns whether the profile may open `port`.
    pub(super) fn may_open(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(port))
    }

    /// Computes the message that asks for `port` with `counter`.
    pub(super) fn message(&self, counter: u32, port: u16) -> Message {
        match self.wire {
            Wire::Stealth => Message::Stealth(self.keys.code(counter, port)),
            Wire::Classic => Message::Classic(self.keys.seal(counter, port)),
            Wire::Link(prefix) => Message::Link(self.keys.link(prefix, counter, port)),
        }
    }

    /// Decrypts a classic message with up to `number` counters from `first` on. `listed_only` skips ports that the
    /// profile may not open. Returns counter and port.
    pub(super) fn decrypt(
        &self,
        ciphertext: &Ciphertext,
        first: u64,
        number: u32,
        listed_only: bool,
    ) -> Option<(u32, u16)> {
        let first = u32::try_from(first).ok()?;
        let last = first.saturating_add(number.checked_sub(1)?);
        let only = self.ports.as_ref().filter(|_| listed_only);
        let unsealed = self.keys.unseal(ciphertext, first..=last, only)?;
        Some((unsealed.counter(), unsealed.port()))
    }

    /// Returns how far the counter of `message` is behind the next one, if at most [`MAX_BEHIND`].
    pub(super) fn counters_behind(&self, message: &Message) -> Option<u64> {
        let first = self.next.saturating_sub(MAX_BEHIND.into());
        if let (Message::Classic(ciphertext), []) = (message, self.held_ports()) {
            let (counter, _) = self.decrypt(ciphertext, first, (self.next - first) as u32, true)?;
            return Some(self.next - u64::from(counter));
        }
        let made = |counter: u64| self.held_ports().iter().any(|&port| self.message(counter as u32, port) == *message);
        (first..self.next).rev().find(|&counter| made(counter)).map(|counter| self.next - counter)
    }

    /// Returns whether the counter in memory is on disk.
    pub(super) fn is_stored(&self) -> bool {
        self.stored == self.next
    }

    /// Burns the counters before `next` in memory, so that nothing is accepted twice even if storing fails.
    pub(super) fn use_up_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Adopts the counter on disk. It is higher than expected if another process raised it.
    pub(super) fn set_stored(&mut self, stored: u64) {
        self.stored = stored;
        self.use_up_to(stored);
    }
}

//! A loaded profile: its keys, its counter, and the messages that they make.

use super::message::Message;
use crate::ports::Ports;
use crate::profile::ProfileConfig;
use crate::wire::{Ciphertext, Keys, Wire};

/// The most ports for which the daemon holds a code with each counter.
const MAX_HELD_PORTS: usize = 16;

/// A profile with its keys, without its files.
pub struct LoadedProfile {
    keys: Keys,
    wire: Wire,
    knock_port: u16,
    ports: Option<Ports>,
    /// The next counter that is accepted.
    next: u64,
    /// The counter that the disk has.
    stored: u64,
}

impl LoadedProfile {
    /// A profile whose counter stands at `next`, in memory and on disk.
    pub fn new(config: ProfileConfig, keys: Keys, next: u64) -> Self {
        let ProfileConfig { knock_port, ports, wire, .. } = config;
        Self { keys, wire, knock_port, ports, next, stored: next }
    }

    /// The next counter that is accepted.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn wire(&self) -> Wire {
        self.wire
    }

    /// The port that its knocks go to.
    pub(super) fn knock_port(&self) -> u16 {
        self.knock_port
    }

    /// Whether its config lists the ports that it may open.
    pub(super) fn lists_ports(&self) -> bool {
        self.ports.is_some()
    }

    /// The ports for which its next messages are held, to compare with what arrives; none where there would
    /// be too many, so that what arrives is decrypted.
    pub(super) fn held_ports(&self) -> &[u16] {
        let listed = self.ports.as_ref().map_or(&[][..], Ports::as_slice);
        if listed.len() > MAX_HELD_PORTS { &[] } else { listed }
    }

    /// Whether its config lets it open `port`.
    pub(super) fn may_open(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(port))
    }

    /// The message that asks for `port` with `counter`.
    pub(super) fn message(&self, counter: u32, port: u16) -> Message {
        match self.wire {
            Wire::Stealth => Message::Stealth(self.keys.code(counter, port)),
            Wire::Classic => Message::Classic(self.keys.seal(counter, port)),
        }
    }

    /// Decrypts a classic message with `number` counters from `first` on, as far as there are so many.
    /// `listed_only` passes over ports that the profile may not open. Returns counter and port.
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

    /// Whether the disk has what memory has.
    pub(super) fn is_stored(&self) -> bool {
        self.stored == self.next
    }

    /// Uses up the counters before `next`, in memory: nothing is accepted twice even where the disk refuses.
    pub(super) fn use_up_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Takes over the counter that the disk has. It is higher than expected where somebody raised it.
    pub(super) fn set_stored(&mut self, stored: u64) {
        self.stored = stored;
        self.use_up_to(stored);
    }
}

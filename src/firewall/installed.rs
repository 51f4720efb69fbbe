//! The supervisor's handle of our rules: makes, compares and releases them.

use super::rules::Rules;
use super::watch::RuleWatch;
use super::{Backend, iptables, nft};
use crate::error::Result;
use std::os::fd::BorrowedFd;

/// Our rules, in either backend.
#[derive(Default)]
pub struct InstalledRules {
    made: Option<Made>,
    /// Whether our rules may be missing or outdated because making them failed.
    must_retry: bool,
}

enum Made {
    Nft(nft::Table),
    Iptables(iptables::Chains),
}

impl InstalledRules {
    /// Makes rules, in one transaction that keeps the openings. Removes rules of the other backend.
    ///
    /// Calls `begin` right before the kernel's rules change, and not if nft fails to translate the new ones.
    pub fn make(&mut self, backend: Backend, rules: &Rules, begin: &mut dyn FnMut()) -> Result<()> {
        self.must_retry = true;
        // The kernel may not have tracked connections before.
        let first = self.made.is_none() && !nft::exists() && !iptables::exist();
        // In this order both backends guard for a moment, rather than neither.
        match (backend, &mut self.made) {
            (Backend::Nft(turnstile), Some(Made::Nft(table))) => {
                table.translate(rules, turnstile)?;
                begin();
                table.make()?;
            }
            (Backend::Nft(turnstile), made) => {
                let mut table = nft::Table::new(rules, turnstile)?;
                begin();
                table.make()?;
                *made = Some(Made::Nft(table));
                let _ = iptables::remove();
            }
            (Backend::Iptables, Some(Made::Iptables(chains))) => {
                begin();
                *chains = iptables::Chains::make(rules)?;
            }
            (Backend::Iptables, made) => {
                begin();
                *made = Some(Made::Iptables(iptables::Chains::make(rules)?));
                let _ = nft::remove();
            }
        }
        self.must_retry = false;
        // If this fails, some older sessions stall, but knocks work.
        let _ = match &self.made {
            Some(Made::Nft(table)) if first => table.admit_older_connections(),
            Some(Made::Iptables(chains)) if first => chains.admit_older_connections(),
            _ => Ok(()),
        };
        Ok(())
    }

    /// Makes the same rules again, like [`InstalledRules::make`].
    pub fn restore(&mut self, backend: Backend, rules: &Rules, begin: &mut dyn FnMut()) -> Result<()> {
        match &mut self.made {
            // On trial the remaining time must be translated again.
            Some(Made::Nft(table)) if !self.must_retry && rules.end_of_guard.is_none() => {
                begin();
                let made = table.make();
                self.must_retry = made.is_err();
                made
            }
            _ => self.make(backend, rules, begin),
        }
    }

    /// Makes the same rules again with new sets, like [`InstalledRules::restore`].
    pub fn replace(&mut self, backend: Backend, rules: &Rules, begin: &mut dyn FnMut()) -> Result<()> {
        if let Some(Made::Nft(table)) = &mut self.made {
            table.needs_new_sets = true;
        }
        self.restore(backend, rules, begin)
    }

    /// Returns whether our rules may be missing or outdated because making them failed.
    pub fn must_retry(&self) -> bool {
        self.must_retry
    }

    /// Returns whether the rules are as they were made.
    pub fn is_intact(&self) -> bool {
        match &self.made {
            _ if self.must_retry => false,
            Some(Made::Nft(table)) => table.is_intact(),
            Some(Made::Iptables(chains)) => chains.is_intact(),
            None => false,
        }
    }

    /// Reads all notifications. Returns whether our rules may have been changed.
    pub fn saw_change(&self, watch: &RuleWatch) -> bool {
        watch.saw_change(if matches!(self.made, Some(Made::Iptables(_))) { "mangle" } else { nft::TABLE })
    }

    /// Returns the socket that owns the rules, for the opener.
    pub fn owner(&self) -> Option<BorrowedFd<'_>> {
        match &self.made {
            Some(Made::Nft(table)) => table.owner(),
            _ => None,
        }
    }

    /// Gives up ownership of the rules when they are made the next time. Used when the daemon ends.
    pub fn disown(&mut self) {
        if let Some(Made::Nft(table)) = &mut self.made {
            table.disown();
        }
    }
}

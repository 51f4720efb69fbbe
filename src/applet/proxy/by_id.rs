//! Lists by session number.

/// Values by session number, as a sorted list. The proxy numbers its sessions upwards, so a new one goes to the end.
pub struct ById<T>(Vec<(u64, T)>);

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ById<T> {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The values with their session numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &(u64, T)> {
        self.0.iter()
    }

    /// Returns the value of a session for changing.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        self.find(id).ok().and_then(|at| self.0.get_mut(at)).map(|(_, value)| value)
    }

    /// Adds the value of a session that has none.
    pub fn insert(&mut self, id: u64, value: T) {
        if let Err(at) = self.find(id) {
            self.0.insert(at, (id, value));
        }
    }

    /// Removes and returns the value of a session.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        self.find(id).ok().map(|at| self.0.remove(at).1)
    }

    /// Finds a session, or the place for it.
    fn find(&self, id: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }
}

/// Removes a session number from a list.
pub fn forget(ids: &mut Vec<u64>, id: u64) {
    ids.retain(|other| *other != id);
}

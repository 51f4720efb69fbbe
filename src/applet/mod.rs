//! The programs, one file or folder each. None imports another.

pub mod connect;
pub mod daemon;
pub mod genprofile;
pub mod knock;
pub mod proxy;

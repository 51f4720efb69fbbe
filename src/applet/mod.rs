//! The applets, one file or folder each. No applet imports another.

pub mod accept;
pub mod connect;
pub mod daemon;
pub mod doctor;
pub mod genprofile;
pub mod invite;
pub mod knock;
pub mod links;
pub mod proxy;
pub mod revoke;
pub mod status;

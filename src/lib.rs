//! map
pub mod config;
pub mod error;
pub mod ini;
pub mod profile;
pub mod say;
pub mod sys;
pub mod wire;

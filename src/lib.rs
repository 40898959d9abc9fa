//! The Eclipse ioFog Connector: lets people reach the machines behind their gateways.

pub mod config;
mod json;
pub mod limits;
pub mod mapping;
pub mod ports;
pub mod registry;
pub mod status;
pub mod store;

//! The Eclipse ioFog Connector: lets people reach the machines behind their gateways.

pub mod config;
pub mod limits;
pub mod logging;
pub mod mapping;
pub mod process;
pub mod registry;
pub mod status;
pub mod tls;

//! The Eclipse ioFog Connector: lets people reach the machines behind their gateways.

pub mod cli;
pub mod config;
pub mod crowd;
pub mod daemon;
pub mod heartbeat;
mod json;
pub mod limits;
pub mod logging;
pub mod mapping;
pub mod pairing;
pub mod pipe;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod reactor;
pub mod refusals;
pub mod registry;
pub mod relay;
pub mod status;
pub mod store;
pub mod stream;
pub mod tls;
pub mod tunnel;
pub mod unacknowledged;
pub mod user;
pub mod workers;

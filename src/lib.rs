//! The Eclipse ioFog Connector: lets people reach the machines behind their gateways.

pub mod config;
pub mod crowd;
pub mod heartbeat;
pub mod limits;
pub mod mapping;
pub mod reactor;
pub mod refusals;
pub mod registry;
pub mod relay;
pub mod status;
pub mod stream;
pub mod unacknowledged;
pub mod workers;

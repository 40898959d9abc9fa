//! How tasks run: the reactor, the threads of workers, the length of a turn.

pub mod reactor;
pub mod turn;
pub mod workers;

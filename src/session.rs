//! One session: two legs, bytes both ways, an ending, and what is left on its tunnel.

mod drain;
mod ending;
mod relay;
mod residue;
mod side;
mod traffic;

pub use drain::{Drain, Drained, Outcome};
pub use ending::{Ended, Ending};
pub use relay::{Parting, Relay, Terms};
pub use residue::{Leaving, Missing, Residue, Verdict};
pub use side::{Leg, Voice};
pub use traffic::Traffic;

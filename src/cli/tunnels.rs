//! `tunnels status`: what the process of all tunnels tells of them.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::control::{self, ControlError};
use super::exit::{NOT_RUNNING, UNKNOWN};
use super::remedy;
use crate::config::folders::TUNNELS_SOCKET;
use crate::limits;
use crate::os::terminal::{self, complain, print};
use crate::report;

/// Shows the tunnels as a table, as wide as the terminal unless it is `wide`, or as the JSON that the
/// process answers.
pub(super) fn status(run: &Path, json: bool, wide: bool) -> ExitCode {
    let socket = run.join(TUNNELS_SOCKET);
    let answer = control::call_within(limits::STATUS_WAIT, &socket, "GET", "/", "");
    let state = match answer {
        Ok((_, state)) => state,
        Err(ControlError::NotRunning(_)) => {
            return match print(&remedy::not_running(&remedy::TUNNELS, run)) {
                ExitCode::SUCCESS => NOT_RUNNING.into(),
                failed => failed,
            };
        }
        Err(error) => {
            complain(error);
            return UNKNOWN.into();
        }
    };
    if json {
        return print(&format!("{}\n", state.json()));
    }
    match crate::text::json::read::<Value>(state.text().as_bytes()) {
        Ok(state) => print(&report::tunnels(&state, if wide { None } else { terminal::width() })),
        Err(_) => {
            complain("the answer of `tunnels` cannot be read; `--json` shows it");
            UNKNOWN.into()
        }
    }
}

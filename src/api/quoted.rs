//! What a caller sent, as an answer quotes it.

use crate::text::line;

/// The start of what a caller sent: enough to recognise it, nothing to flood a log with.
pub(super) fn short(text: &str) -> String {
    format!("\"{}\"", line::cut(text, 64).escape_debug())
}

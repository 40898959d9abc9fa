//! What a caller sent, as an answer quotes it.

/// The start of what a caller sent: enough to recognise it, nothing to flood a log with.
pub(super) fn short(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    let dots = if start.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", start.escape_debug())
}

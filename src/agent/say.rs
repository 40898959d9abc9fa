//! A line of the log about one tunnel, which its status remembers when something is wrong.

/// Logs a line about the tunnel of this health, with the tunnel's name before it where there may be
/// others, and keeps a warning as what went wrong last. A macro, so that each place that logs is a
/// kind of line of its own.
macro_rules! say {
    ($health:expr, $level:expr, $($what:tt)+) => {{
        let (health, level): (&crate::agent::health::Health, log::Level) = (&$health, $level);
        let what = format!($($what)+);
        if level <= log::Level::Warn {
            health.wrong(&what);
        }
        log::log!(target: health.name(), level, "{}{what}", health.head());
    }};
}

//! A line of the log about one tunnel, which its status remembers when something is wrong.

/// Logs a line about the tunnel of this health, with the tunnel's name before it where there may be
/// others: news; or, with a level and what it is about, a warning that is kept as what went wrong last
/// until that is over. A macro, so that each place that logs is a kind of line of its own.
macro_rules! say {
    ($health:expr, $what:literal $($more:tt)*) => {{
        let health: &crate::agent::health::Health = &$health;
        let what = format!($what $($more)*);
        log::log!(target: health.name(), log::Level::Info, "{}{what}", health.head());
    }};
    ($health:expr, $level:expr, $about:expr, $($what:tt)+) => {{
        let (health, level): (&crate::agent::health::Health, log::Level) = (&$health, $level);
        let what = format!($($what)+);
        if level <= log::Level::Warn {
            health.wrong($about, &what);
        }
        log::log!(target: health.name(), level, "{}{what}", health.head());
    }};
}

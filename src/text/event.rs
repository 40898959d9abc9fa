//! What happens to a connector, each in one word: for the status's list of events, and for whatever
//! else names an event. The protocol page, section 3, says what they mean.

macro_rules! events {
    ($($(#[$about:meta])* $name:ident: $word:literal;)*) => {
        /// What has happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$about])* $name,)*
        }

        impl Event {
            /// Every event.
            #[cfg(test)]
            pub const ALL: &[Event] = &[$(Event::$name),*];

            /// Its word: lower case, with hyphens.
            pub fn word(self) -> &'static str {
                match self {
                    $(Event::$name => $word,)*
                }
            }
        }
    };
}

events! {
    /// The daemon serves.
    Started: "started";
    /// No other program takes the daemon's place, as it was asked to.
    UpgradeRefused: "upgrade-refused";
    /// Another program serves in its place; of the log alone.
    HandedOver: "handed-over";
    /// The daemon whose place this one took has ended.
    PredecessorEnded: "predecessor-ended";
    /// Settings and certificates that were read again are in force.
    Reloaded: "reloaded";
    /// They have a fault, and those of before stay in force.
    ReloadRefused: "reload-refused";
    /// A mapping was made.
    MappingAdded: "mapping-added";
    /// A mapping was changed.
    MappingChanged: "mapping-changed";
    /// A mapping is gone.
    MappingRemoved: "mapping-removed";
    /// A port is not open.
    PortInactive: "port-inactive";
    /// It is again.
    PortBack: "port-back";
    /// An address has its first tunnel of a mapping's side.
    AgentCame: "agent-came";
    /// It has none any more.
    AgentWent: "agent-went";
    /// An agent was refused.
    AgentRefused: "agent-refused";
    /// A user was refused.
    UserRefused: "user-refused";
    /// A caller of the API was refused.
    CallerRefused: "caller-refused";
    /// A newcomer found a limit reached.
    LimitReached: "limit-reached";
    /// Nobody has found it so for a while.
    LimitOver: "limit-over";
    /// The dates of the certificate in force are over, or will be soon, or have not begun.
    CertificateEnds: "certificate-ends";
    /// The disk takes no log line, or no change of the mappings.
    DiskFailed: "disk-failed";
    /// It does again.
    DiskBack: "disk-back";
    /// A session is over, as `connectionlog` tells; of the log alone.
    SessionEnded: "session-ended";
    /// A connection was closed without one, as `connectionlog` tells; of the log alone.
    ConnectionClosed: "connection-closed";
}

impl Event {
    /// Whether those who have proved nothing can cause it as often as they like.
    pub fn is_of_strangers(self) -> bool {
        matches!(
            self,
            Event::AgentRefused
                | Event::UserRefused
                | Event::CallerRefused
                | Event::LimitReached
                | Event::LimitOver
        )
    }
}

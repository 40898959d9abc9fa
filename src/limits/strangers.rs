//! What connections that have proved nothing may take: time, places, memory; and refusals.

use std::time::Duration;

/// A TLS handshake that takes longer is aborted (protocol page, section 6).
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that a worker has at one time. It gets the next as soon as one is answered; those
/// that wait are taken by port and address in turn, not by arrival.
pub const HANDSHAKES: usize = 2;

/// A connection that has not proved its passcode within this time is closed (section 6). The time
/// starts at accept and includes the TLS handshake.
pub const PASSCODE: Duration = Duration::from_secs(10);

/// At the limit of unauthenticated connections (`pending`), each keeps its slot at least this long
/// after it was last able to proceed, and [`STRANGER_ROUND_TRIPS`] round trips longer if it has
/// sent anything: the bytes of a living agent follow its connection, or the connector's own bytes,
/// immediately. After that a newcomer may take the slot. So 1,000 connections that send nothing, or
/// too little, delay an agent by about 1 s, and by another second until their behaviour is known.
pub const STRANGER_TURN: Duration = Duration::from_millis(100);

/// A proxy's users count as so much further away than the proxy itself: the rest of their way cannot be measured.
pub const BEHIND_PROXY: Duration = Duration::from_millis(250);

/// See [`STRANGER_TURN`]: the round trips of a TLS 1.2 handshake, and one for a lost packet.
pub const STRANGER_ROUND_TRIPS: u32 = 4;

/// Cap on the time for which a connection keeps its slot, not counting the connector's own time.
/// Hundreds of good peers that come at once from one busy machine need this long, and while they
/// get through there is room soon anyway. The quarter of the connections that [`SLOW_SHARE`] allows
/// always has this cap: a small processor with many tunnels is slow with their handshakes, and
/// would never finish one if all of them were pushed out.
pub const SLOW_TURN: Duration = Duration::from_secs(2);

/// How often, at most, that cap is halved from [`SLOW_TURN`]: down to 125 ms. It starts at 250 ms
/// for connections that have sent nothing and at 1 s for those that have.
pub const HALVINGS: u32 = 4;
/// See [`HALVINGS`].
pub const SILENT_HALVINGS: u32 = 3;
/// See [`HALVINGS`].
pub const SPOKEN_HALVINGS: u32 = 1;

/// The same cap for connections of a stranger (an IPv4 address, or an IPv6 /48) whose connections
/// come in vain: [`IN_VAIN`] more of them lost their slots, or left before they got through while
/// others waited, than twice those that got through. 128 slots carry 8,000 of a stranger's silent
/// connections a second then, however many others get through meanwhile and make the cap of their own
/// connections long; the API's 256 slots carry 16,000. Short enough, since a good peer's first bytes
/// have come by the time that it leaves the kernel's backlog.
pub const VAIN_TURN: Duration = Duration::from_millis(15);
/// The round trips of such a stranger count for this long at most, since it can make them as long as it
/// likes: what has sent something passes 1,100 times a second through 128 slots.
pub const VAIN_FAR: Duration = Duration::from_millis(100);
/// See [`VAIN_TURN`]. Half of the slots that `pending` gives at first: a burst of good peers that
/// are slow to speak has some that get through before so many lose their slots.
pub const IN_VAIN: u32 = 64;

/// How long this is remembered after newcomers last had to wait.
pub const VAIN_REMEMBERED: Duration = Duration::from_secs(60);
/// Strangers that are remembered for it, on each port.
pub const STRANGERS_IN_VAIN: usize = 256;

/// A stranger that has so many silent connections at one time, in a crowd that had as many before, has
/// the first cap for silent ones, of 250 ms, for the next of them, whatever others have made of it:
/// what its connections are worth is known soon after its first ones have filled the slots.
pub const SILENT_TOGETHER: u32 = 16;

/// One connection in this many may be slow.
pub const SLOW_SHARE: usize = 4;

/// Refusals of one address within [`REFUSAL_WINDOW`] that are closed immediately (section 4.2).
pub const REFUSALS_AT_ONCE: usize = 3;

/// The time over which an address's refusals are counted (section 4.2).
pub const REFUSAL_WINDOW: Duration = Duration::from_secs(10);

/// How long a refusal beyond [`REFUSALS_AT_ONCE`] is held before it is closed (section 4.2).
pub const REFUSAL_HOLD: Duration = Duration::from_secs(3);

/// Refusals held at one time; beyond it, the oldest is closed first (section 4.2).
pub const REFUSALS_HELD: usize = 256;

/// Addresses whose refusals are remembered; beyond it, the oldest is forgotten first: 1,024 entries
/// of about 150 bytes.
pub const REFUSED_ADDRESSES: usize = 1024;

/// Bytes that a connection may send after its handshake until it has proved its passcode or, for a
/// user, has sent its first word: what follows the passcode arrives with it.
pub const STRANGER_BYTES: usize = 64 * 1024;

/// Bytes that a client may send within its TLS handshake. A real client sends fewer than 4 KiB, and
/// fewer than 8 with post-quantum key shares and signatures and a ticket. Only the API's
/// `controllerca` asks strangers for certificates; they make it 10.
pub const HANDSHAKE_BYTES: usize = 16 * 1024;

/// Bytes that a stranger has sent and nobody can use yet (part of a ClientHello, of a record) and
/// that are always held for it; more than that is taken from [`GREETINGS`].
pub const GREETING: usize = 4 * 1024;

/// The same bytes beyond [`GREETING`] of all strangers on all ports together; a stranger that needs
/// more than is left is closed. So a stranger in TLS takes the 7 KiB of rustls and its task, and
/// [`GREETING`]; all of them take this in addition. 1,000 take 15 MiB at most, where each could
/// take 70 KiB.
pub const GREETINGS: usize = 4 * 1024 * 1024;

/// Bytes that are read at once from a stranger in TLS: how far it may be ahead of what has been
/// opened, in addition to [`GREETING`].
pub const STRANGER_READ: usize = 4 * 1024;

/// What is held for a stranger grows by this many bytes at a time, and is not doubled.
pub const STRANGER_STEP: usize = 1024;

//! The names of the options of `tunnel`.

use std::ffi::OsString;

use crate::text::by_name::ByName;

/// The options of `tunnel`, as its page of help shows them and [`options`](crate::text::page::options)
/// reads them: on the command line, and without the dashes in a file.
pub const OPTIONS: &str = "  \
  --connector HOST:PORT  The connector and the mapping's port for this side
  --passcode-file FILE   Holds the passcode; else the variable IOFOG_PASSCODE
  --target HOST:PORT     The service, for example localhost:22
  --listen IP:PORT       Where to take connections, for example 127.0.0.1:8022
  --ca FILE              Trust this CA, or exactly this certificate
                                                            [the system's CAs]
  --pin SHA256:HEX,...   Trust exactly the certificate with this fingerprint,
                         which the connector's log shows
  --plain                No TLS, for `dev` connectors
  --proxy URL            http://HOST:PORT or socks5://HOST:PORT; user:password@
                         before HOST only in a file or in HTTPS_PROXY
                                                         [what that says]
  --connections N        Idle tunnels kept ready for users                 [8]
  --sessions N           Sessions at one time, idle tunnels included     [256]
  --pending N            --listen: connections that may wait for one     [128]
  --heartbeat MS         Time between heartbeats of a tunnel          [20000]
  --proxy-protocol       Send the service the user's address (PROXY protocol 2)
  --drain MS             After SIGTERM, time for sessions to finish     [5000]
  --sandbox WORD         on, kill, report or off: what it may do            [on]
  --from FILE            Options not given here: `name=value`, one a line; also
                         `passcode=`, unless everybody can read the file
";

/// What is given for each option, on the command line or in a file.
pub type Given = ByName<OsString>;

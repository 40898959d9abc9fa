//! The pages that explain the command line.

/// What `version` prints first.
pub const VERSION: &str = concat!("iofog-connector ", env!("CARGO_PKG_VERSION"));

/// The one page that explains the command line.
pub const HELP: &str = "\
The Eclipse ioFog Connector: lets people reach the machines behind their gateways.

Usage: iofog-connector [OPTIONS] COMMAND

Commands:
  start      Run in the foreground until SIGTERM or SIGINT. SIGHUP reads settings and
             certificates again and reopens the log file.
  stop       Stop the running connector and wait until it has ended.
  status     Show the mappings and what their connections do; --json for scripts.
  check      Validate settings, certificates and configs.json without starting; run
             by root, with the rights of the service's user, or of --user NAME.
  mapping    Open, list and close pipes without a Controller: add public|private, list,
             remove NAME|ID; `mapping --help` shows the options.
  tunnel     Act as the agent's side of a pipe; `tunnel --help` shows its options.
  version    Show version and licence. Also -v, --version.
  help       Show this page. Also -h, -?, --help.

Options:
  --config DIR     Settings, certificates and state   [/etc/iofog-connector]
  --run DIR        Lock and control socket, by which the running connector is found,
                   whatever --config says             [/run/iofog-connector]
  --log DIR        Folder of the log file             [/var/log/iofog-connector]
  --syslog PATH    Syslog's socket, or `none`         [/dev/log]
  --json           status: print the whole state as JSON
  --user NAME      check: read the files as this user would

Exit codes:
  0  done; status: running; stop: not running any more, or never was
  1  failed; the message on stderr says why
  2  the command line or the settings contain an error
  3  status: not running
  4  status, stop: it runs, but may not or cannot be asked
";

/// The page that explains `mapping`.
pub const MAPPING_HELP: &str = "\
Usage: iofog-connector mapping add public|private [OPTIONS]
       iofog-connector mapping list
       iofog-connector mapping remove NAME|ID [--dir DIR]

Opens, lists and closes pipes of the running connector, as a Controller does over the
API. `add` prints the `tunnel` command of each side; `remove` also deletes the passcode
files that `add` has made.

Options of `add`:
  --name NAME               Shown in place of the mapping's id, and accepted wherever an
                            id is: 1 to 63 of a-z, 0-9 and -
  --port1 PORT              Ports of the pool                       [free ones]
  --port2 PORT
  --users tls|plain         How users of a public pipe speak on port2; plain is for what
                            has encryption of its own, as SSH       [tls, unless dev]
  --allow RANGES            Addresses and ranges, with commas between them, from which
                            users of a public pipe may connect      [everywhere]
  --users-per-address N     Users of one address at one time        [no limit]
  --idle MS                 Break off a session in which nothing has moved for so long
                            (1000 or more)                          [never]
  --connections N           Tunnels that each agent's side may have [60]
  --heartbeat-threshold MS  Close a tunnel that is silent for so long; 0 for never
                                                                    [60000]
  --dir DIR                 The folder of the passcode files        [the current one]
  --show                    Print the passcodes instead of writing files
  --run DIR                 As for all commands: `iofog-connector help`
";

/// The page that explains `tunnel`.
pub const TUNNEL_HELP: &str = "\
Usage: iofog-connector tunnel --connector HOST:PORT --passcode-file FILE
                              (--target HOST:PORT | --listen IP:PORT) [OPTIONS]

The agent's side of a pipe. With --target it keeps tunnels to the connector open and
carries each user's connection to a service; with --listen it takes connections on this
machine and carries each into a private pipe, to the service at its other side.

  --connector HOST:PORT    The connector and the mapping's port for this side
  --passcode-file FILE     Holds the passcode; or set IOFOG_PASSCODE in the environment
  --target HOST:PORT       The service, for example localhost:22
  --listen IP:PORT         Where to take connections, for example 127.0.0.1:8022
  --ca FILE                Trust this CA, or exactly this certificate (PEM) [the system's]
  --pin SHA256:HEX         Trust exactly the certificate with this fingerprint, which the
                           connector's log shows; several: again, in a file with commas
  --plain                  No TLS, for `dev` connectors
  --connections N          Idle tunnels kept ready for users                 [8]
  --sessions N             Sessions at one time; idle tunnels count as such  [256]
  --pending N              --listen: connections that may wait for a session [128]
  --heartbeat MS           Time between heartbeats of an idle tunnel         [20000]
  --proxy-protocol         Send the service the user's address first (PROXY protocol 2)
  --drain MS               After SIGTERM, time for sessions to finish        [5000]
  --from FILE              Read options from this file: `name=value`, one a line, named as
                           above, without dashes; also `passcode=`, unless everybody
                           can read it. The command line takes precedence.
";

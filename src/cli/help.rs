//! The table of commands: from it come the pages that explain them, and what [`parse`] knows.
//!
//! [`parse`]: super::arguments::parse

use std::fmt::Write;

use crate::agent::options::OPTIONS;
use crate::text::page::{Named, options};

/// What `version` prints first.
pub const VERSION: &str = concat!("iofog-connector ", env!("CARGO_PKG_VERSION"));

/// A command of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its words, such as `mapping add`.
    pub(super) name: &'static str,
    /// What follows them; [`GROUP`] for a word that is no command without a second one.
    pub(super) arguments: &'static str,
    /// What it does, in one line.
    pub(super) meaning: &'static str,
    /// What else there is to know.
    pub(super) text: &'static str,
    /// Its own options, as [`options`] reads them.
    pub(super) options: &'static str,
    /// Whether it has the [`GENERAL`] options, too.
    pub(super) general: bool,
    /// How it is used.
    pub(super) example: &'static str,
}

/// Stands for the second word of commands such as `mapping add`.
pub(super) const GROUP: &str = "COMMAND";

/// Options of all commands that have to do with the service.
const GENERAL: &str = "  \
  --config DIR   Settings, certificates and state    [/etc/iofog-connector]
  --run DIR      By it the running connector is found, whatever --config says:
                 folder of lock and control socket   [/run/iofog-connector]
  --log DIR      Folder of the log file              [/var/log/iofog-connector]
  --syslog PATH  Syslog's socket, or `none`          [/dev/log]
";

/// All commands, in the order in which they are shown.
pub(super) const TABLE: &[Row] = &[
    Row {
        name: "start",
        arguments: "",
        meaning: "Run in the foreground until SIGTERM or SIGINT",
        text: "SIGHUP reads settings and certificates again and reopens the log file. To run\n\
               it in the background: `systemctl start` or `service ... start`.\n",
        options: "",
        general: true,
        example: "iofog-connector start --config . --run . --log . --syslog none",
    },
    Row {
        name: "stop",
        arguments: "",
        meaning: "Stop the running connector and wait until it has ended",
        text: "Sessions may finish within the setting `drain`.\n",
        options: "",
        general: true,
        example: "sudo iofog-connector stop",
    },
    Row {
        name: "upgrade",
        arguments: "",
        meaning: "Have the program that is installed now take the running one's place",
        text: "No port is closed and no session is cut: those that have begun go on in the old\n\
               process for as long as the setting `handover` says. A program that does not\n\
               start, or settings that it refuses, leave the old one serving.\n",
        options: "",
        general: true,
        example: "sudo iofog-connector upgrade",
    },
    Row {
        name: "status",
        arguments: "",
        meaning: "Show the mappings and what their connections do",
        text: "Lines fit the terminal; elsewhere they have all columns.\n",
        options: "  --json    The whole state as JSON\n  --wide    Whole names and all columns on a narrow terminal, too\n  --events  What has happened last instead, the newest at the end\n",
        general: true,
        example: "sudo iofog-connector status",
    },
    Row {
        name: "top",
        arguments: "",
        meaning: "Show what status shows, again every second, as rates",
        text: "It takes the whole terminal: a letter sorts by its column, twice the other way\n\
               round; j and k, arrows and pages move; q or Ctrl-C ends it. Without a terminal\n\
               it prints a table a second.\n",
        options: "  \
  --agent    The tunnels of `tunnels`, as `tunnels status` shows them; --run is
             then /run/iofog-connector-tunnels
  --count N  So many tables, one below the other, on a terminal, too
",
        general: true,
        example: "sudo iofog-connector top",
    },
    Row {
        name: "dump",
        arguments: "",
        meaning: "Write the state of every connection to the folder of the log",
        text: "To iofog-connector.dump there; the one before gets .old behind its name. Nobody\n\
               is held up. It has addresses and no passcodes. SIGUSR1 does the same.\n",
        options: "",
        general: true,
        example: "sudo iofog-connector dump",
    },
    Row {
        name: "check",
        arguments: "",
        meaning: "Validate settings, certificates and state without starting",
        text: "Run by root, it has the rights of the service's user.\n",
        options: "  --user NAME  Read the files as this user would\n",
        general: true,
        example: "sudo iofog-connector check",
    },
    Row {
        name: "mapping",
        arguments: GROUP,
        meaning: "Open, list, change and close pipes without a Controller",
        text: "It asks the running connector, as a Controller does over the API.\n",
        options: "",
        general: true,
        example: "sudo iofog-connector mapping list",
    },
    Row {
        name: "mapping add",
        arguments: "public|private",
        meaning: "Open a pipe, and print the `tunnel` command of each side",
        text: "",
        options: "  \
  --name NAME               Shown in place of the mapping's id and taken for it:
                            1 to 63 of a-z, 0-9 and -, no - first
  --port1 PORT              The agent's port, of the pool           [a free one]
  --port2 PORT              The users', or the other agent's        [a free one]
  --users tls|plain         How users of a public pipe speak; plain is for what
                            encrypts by itself, as SSH does    [tls, unless dev]
  --alpn NAME,...           Protocols that TLS users of a public pipe are
                            offered, such as h2 for gRPC                  [none]
  --allow RANGE,...         From where users of a public pipe may connect:
                            addresses and ranges                    [everywhere]
  --users-per-address N     Users of one address at one time          [no limit]
  --proxy-from RANGE,...    Proxies whose connections begin with a PROXY header
                            that says who the user is                   [nobody]
  --idle MS                 Break off a session in which nothing moves for so
                            long, 1000 or more                           [never]
  --connections N           Tunnels that each agent's side may have         [60]
  --heartbeat-threshold MS  Close a tunnel that is silent for so long; 0: never
                                                                         [60000]
  --dir DIR                 Folder of the sides' files             [this folder]
  --show                    Print the passcodes instead of writing files
",
        general: true,
        example: "sudo iofog-connector mapping add public --name ssh --users plain",
    },
    Row {
        name: "mapping list",
        arguments: "",
        meaning: "Show the mappings, one a line",
        text: "",
        options: "  --wide  Whole names and all columns on a narrow terminal, too\n",
        general: true,
        example: "sudo iofog-connector mapping list",
    },
    Row {
        name: "mapping show",
        arguments: "NAME|ID",
        meaning: "Show all of one mapping: ports, options, what it does",
        text: "",
        options: "",
        general: true,
        example: "sudo iofog-connector mapping show ssh",
    },
    Row {
        name: "mapping change",
        arguments: "NAME|ID",
        meaning: "Change options of a pipe while it runs",
        text: "Nobody is closed; what is new holds for those who connect from then on. The\n\
               options are those of `mapping add`; `none` takes one away, as --allow none.\n",
        options: "  \
  --name NAME
  --users tls|plain
  --alpn NAME,...
  --allow RANGE,...
  --users-per-address N
  --proxy-from RANGE,...
  --idle MS
  --connections N
  --heartbeat-threshold MS
",
        general: true,
        example: "sudo iofog-connector mapping change ssh --allow 192.0.2.0/24",
    },
    Row {
        name: "mapping passcode",
        arguments: "NAME|ID",
        meaning: "Make a new passcode, and put it into the side's files",
        text: "Tunnels that are open stay; the old passcode is refused from then on.\n",
        options: "  \
  --side N   Whose: the agent of port1, or of a private pipe's port2   [1]
  --dir DIR  Folder of the files                             [this folder]
  --show     Print the passcode instead of writing files
",
        general: true,
        example: "sudo iofog-connector mapping passcode ssh",
    },
    Row {
        name: "mapping remove",
        arguments: "NAME|ID",
        meaning: "Close a pipe, and delete the files that `add` has made",
        text: "",
        options: "  --dir DIR  Folder of these files [this folder]\n",
        general: true,
        example: "sudo iofog-connector mapping remove ssh",
    },
    Row {
        name: "tunnel",
        arguments: "",
        meaning: "Run the agent's side of a pipe",
        text: "It needs --connector, the passcode, and --target or --listen. With --target it\n\
               keeps tunnels open and carries each user's connection to a service; with\n\
               --listen it takes connections on this machine and carries each into a\n\
               private pipe, to the service at its other side.\n",
        options: OPTIONS,
        general: false,
        example: "iofog-connector tunnel --connector example.com:30000 \\\n    \
                  --passcode-file iofog-30000.passcode --target localhost:22",
    },
    Row {
        name: "tunnel install",
        arguments: "FILE",
        meaning: "Put a tunnel file where the service reads it, and start that",
        text: "FILE is what `mapping add` has written, or another one as --from takes it. No\n\
               connector need run here. It is checked first, and goes whole or not at all\n\
               to /etc/iofog-connector/tunnels/NAME.conf.\n",
        options: "  \
  --target HOST:PORT  The service, such as localhost:22
  --listen IP:PORT    Where to take connections, on a private pipe's side with
                      no service
  --name NAME         The tunnel's name                 [FILE's, without ending]
  --replace           Take the place of another tunnel of this name
  --dir DIR           Another folder; nothing is started then
",
        general: false,
        example: "sudo iofog-connector tunnel install ssh.tunnel --target localhost:22",
    },
    Row {
        name: "tunnel remove",
        arguments: "NAME",
        meaning: "Take an installed tunnel away, and have the service close it",
        text: "Its file is deleted. With the last one the service is stopped, until the next\n\
               one is installed.\n",
        options: "  --dir DIR  Another folder; no service is told then\n",
        general: false,
        example: "sudo iofog-connector tunnel remove ssh",
    },
    Row {
        name: "tunnels",
        arguments: "",
        meaning: "Run all tunnels of a folder in one process",
        text: "Each *.conf there holds the options of one, as `tunnel --from` reads them.\n\
               SIGHUP reads the folder again: what is new starts, what is gone drains, what\n\
               has changed is replaced, the rest is not touched. A file with a fault is\n\
               reported and skipped. Followed by `status`, it shows how the tunnels are.\n",
        options: "  \
  --tunnels DIR  The folder                  [/etc/iofog-connector/tunnels]
  --run DIR      Lock and socket of `tunnels status`
                                             [/run/iofog-connector-tunnels]
  --sandbox WORD  on, kill, report or off: limits of what it may do         [on]
",
        general: false,
        example: "sudo iofog-connector tunnels",
    },
    Row {
        name: "tunnels status",
        arguments: "",
        meaning: "Show the tunnels that run in one process",
        text: "",
        options: "  \
  --run DIR  As `tunnels` was given          [/run/iofog-connector-tunnels]
  --json     The same as JSON
  --wide     Whole names and all columns
",
        general: false,
        example: "sudo iofog-connector tunnels status",
    },
    Row {
        name: "version",
        arguments: "",
        meaning: "Show version and licence; also -v, --version",
        text: "",
        options: "",
        general: true,
        example: "iofog-connector version",
    },
    Row {
        name: "help",
        arguments: "[COMMAND]",
        meaning: "Explain a command; also COMMAND --help, -h, -?",
        text: "",
        options: "",
        general: true,
        example: "iofog-connector help mapping add",
    },
];

impl Row {
    /// The options that it has.
    pub(super) fn options(&self) -> Vec<Named> {
        let mut all = options(self.options);
        all.append(&mut general(self.general));
        all
    }

    /// The second words that may follow it, such as `add`, with the row of each.
    pub(super) fn followers(&self) -> impl Iterator<Item = (&'static str, &'static Row)> {
        let followers = TABLE.iter().map(|row| (row.name.strip_prefix(self.name), row));
        followers.filter_map(|(rest, row)| Some((rest?.strip_prefix(' ')?, row)))
    }

    /// The page that explains it.
    pub(super) fn page(&self) -> String {
        let Row { name, arguments, meaning, text, example, .. } = self;
        let mut page = format!("Usage: iofog-connector {name} ");
        let has_options = self.general || !self.options.is_empty();
        let parts = [*arguments, if has_options { "[OPTIONS]" } else { "" }];
        page.push_str(parts.join(" ").trim());
        let _ = write!(page, "\n\n{meaning}.\n{text}\n");
        for (word, row) in self.followers() {
            let _ = writeln!(page, "  {word:<9}  {}", row.meaning);
        }
        if self.arguments == GROUP {
            page.push('\n');
        }
        page.push_str(self.options);
        if self.general {
            page.push_str(GENERAL);
        }
        let _ = writeln!(page, "\nExample: {example}");
        page
    }
}

/// Commands that are one word.
pub(super) fn first_words() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|row| !row.name.contains(' '))
}

/// All options that there are.
pub(super) fn all_options() -> Vec<Named> {
    let mut all = general(true);
    TABLE.iter().for_each(|row| all.append(&mut options(row.options)));
    all
}

/// The general options, or none.
pub(super) fn general(are_wanted: bool) -> Vec<Named> {
    options(if are_wanted { GENERAL } else { "" })
}

/// The page that explains the command line.
pub(super) fn summary() -> String {
    let mut page = "The Eclipse ioFog Connector: lets people reach machines behind gateways.\n\n\
                    Usage: iofog-connector COMMAND [OPTIONS]\n\n"
        .to_owned();
    for Row { name, meaning, .. } in first_words() {
        let _ = writeln!(page, "  {name:<9}  {meaning}");
    }
    page.push_str("\nOptions of all commands but `tunnel` and `tunnels`:\n");
    page.push_str(GENERAL);
    page.push_str(
        "\nExit codes:\n  \
           0  done; status: running; stop: not running any more, or never was\n  \
           1  failed; the message on stderr says why; check: only tunnels' files\n     \
              have a fault\n  \
           2  the command line or the settings contain an error\n  \
           3  status, tunnels status: not running\n  \
           4  status, stop, mapping: it runs, but may not or cannot be asked\n",
    );
    page
}

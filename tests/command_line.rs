//! The command line's documents: the pages of `help` come from the table by which arguments are read,
//! and README, man page and completions name the same commands and options.

#[path = "common/ignored.rs"]
mod ignored;

use std::collections::BTreeMap;
use std::collections::BTreeSet as Set;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Options of all commands that have to do with this machine's services.
const GENERAL: [&str; 4] = ["--config", "--run", "--log", "--syslog"];

/// The commands, each with its options.
type Table = BTreeMap<String, Set<String>>;

fn help(command: &str) -> String {
    let mut help = Command::new(env!("CARGO_BIN_EXE_iofog-connector"));
    let output = help.arg("help").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The first words of lines that are indented by two.
fn listed(page: &str) -> impl Iterator<Item = &str> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("  "));
    let words =
        lines.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
    words
        .filter(|word| word.starts_with("--") || word.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// What the pages say, from the first one on.
fn pages() -> Table {
    let mut table = Table::new();
    let mut add = |command: &str| {
        let page = help(command);
        let options = listed(&page).filter(|word| word.starts_with("--")).map(str::to_owned);
        table.insert(command.to_owned(), options.collect());
        let words = listed(&page).filter(|word| !word.starts_with("--"));
        words.map(|word| format!("{command} {word}")).collect::<Vec<_>>()
    };
    let summary = help("");
    let commands = listed(&summary).filter(|word| !word.starts_with("--"));
    for command in commands {
        for follower in add(command) {
            assert_eq!(add(&follower), [""; 0], "a third word");
        }
    }
    assert!(table.len() > 10, "{table:?}");
    table
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Both tables without what they have in common.
fn assert_same(what: &str, found: &Table) {
    let pages = pages();
    let commands = |table: &Table| table.keys().cloned().collect::<Set<_>>();
    assert_eq!(commands(found), commands(&pages), "{what}: commands");
    for (command, options) in &pages {
        assert_eq!(&found[command], options, "{what}: options of {command}");
    }
}

/// Adds the general options, which documents name once, to the commands whose pages have them.
fn with_general(table: &mut Table) {
    let pages = pages();
    for (command, options) in table.iter_mut() {
        if pages.get(command).is_some_and(|options| options.contains(GENERAL[0])) {
            options.extend(GENERAL.map(String::from));
        }
    }
}

#[test]
fn every_command_has_a_page_and_says_which_options_it_takes() {
    let pages = pages();
    for (command, options) in &pages {
        let has_general = GENERAL.iter().all(|option| options.contains(*option));
        assert!(has_general || command.starts_with("tunnel"), "{command}");
        let page = help(command);
        assert!(page.starts_with(&format!("Usage: iofog-connector {command}")), "{page}");
        assert!(page.contains("\nExample: "), "{page}");
        let mut asked = Command::new(env!("CARGO_BIN_EXE_iofog-connector"));
        let output = asked.args(command.split(' ')).arg("--help").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), page, "{command} --help");
    }
}

#[test]
fn readme_names_every_command_and_option_and_no_other() {
    let page = read("README.md");
    let (_, section) = page.split_once("\n## Commands\n").expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let mut table = Table::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.split('|').map(|cell| cell.split('`').skip(1).step_by(2));
        let name = cells.nth(1).unwrap().next().unwrap();
        let words = name.split(' ').take_while(|w| w.bytes().all(|byte| byte.is_ascii_lowercase()));
        let name = words.collect::<Vec<_>>().join(" ");
        let options = cells.nth(1).unwrap().map(|o| o.split(' ').next().unwrap().to_owned());
        assert!(table.insert(name.clone(), options.collect()).is_none(), "{name} twice");
    }
    let general = table.remove("").expect("the row of the general options");
    assert_eq!(general, GENERAL.map(String::from).into());
    with_general(&mut table);
    assert_same("README.md", &table);
}

/// The man page's words, without the marks of troff.
fn man() -> Vec<String> {
    let page = read("docs/man/iofog-connector.1");
    let plain = |line: &str| {
        let line = line.replace("\\fR", "").replace("\\fP", "").replace("\\-", "-");
        line.replace('"', "")
    };
    page.lines().map(plain).collect()
}

#[test]
fn man_page_names_every_command_and_option_and_no_other() {
    let (mut table, mut general) = (Table::new(), Set::new());
    let (mut section, mut of) = (String::new(), Vec::new());
    let lines = man();
    for (number, line) in lines.iter().enumerate() {
        if let Some(title) = line.strip_prefix(".SH ") {
            (section, of) = (title.to_owned(), Vec::new());
        } else if let Some(title) = line.strip_prefix(".SS Options of ") {
            of = title.split(" and ").map(str::to_owned).collect();
        }
        if line != ".TP" {
            continue;
        }
        let words: Vec<_> = lines[number + 1].split_whitespace().skip(1).collect();
        match section.as_str() {
            "COMMANDS" => {
                let name = words.iter().take_while(|w| w.bytes().all(|b| b.is_ascii_lowercase()));
                let name = name.copied().collect::<Vec<_>>().join(" ");
                assert!(table.insert(name.clone(), Set::new()).is_none(), "{name} twice");
            }
            "OPTIONS" => {
                for option in words.iter().filter(|word| word.starts_with("--")) {
                    if of.is_empty() {
                        general.insert((*option).to_owned());
                    }
                    for command in &of {
                        table.get_mut(command).expect(command).insert((*option).to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    assert_eq!(general, GENERAL.map(String::from).into());
    with_general(&mut table);
    assert_same("docs/man/iofog-connector.1", &table);
}

/// The documents that show commands.
const DOCUMENTS: [&str; 11] = [
    "README.md",
    "SECURITY.md",
    "docs/packages.md",
    "docs/performance.md",
    "docs/protocol.md",
    "docs/recipes.md",
    "docs/release.md",
    "docs/testing.md",
    "docs/threat-model.md",
    "docs/troubleshooting.md",
    "docs/architecture.md",
];

#[test]
fn commands_in_the_documents_have_only_options_that_there_are() {
    let (pages, mut count) = (pages(), 0);
    for file in DOCUMENTS {
        let text = read(file);
        let lines = text.lines().map(|line| (line.trim(), true));
        let spans = text.split('`').skip(1).step_by(2).map(|span| (span, false));
        for (one, is_line) in lines.chain(spans) {
            let Some(rest) = one.trim_start_matches("sudo ").strip_prefix("iofog-connector ")
            else {
                continue;
            };
            let words: Vec<_> = rest.split_whitespace().collect();
            let is_command = |count: &usize| pages.contains_key(&words[..*count].join(" "));
            let lengths = [2, 1].into_iter().filter(|length| *length <= words.len());
            let Some(length) = lengths.clone().find(is_command) else {
                // A sentence may have a line that begins with the name, or what the program says.
                assert!(is_line || words[0] == "is", "{file}: {one}: no such command");
                continue;
            };
            count += 1;
            let command = words[..length].join(" ");
            for option in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let option = option.split(['=', ',']).next().unwrap();
                let is_known = pages[&command].contains(option) || option == "--help";
                assert!(is_known, "{file}: {one}: {command} has no {option}");
            }
        }
    }
    assert!(count > 20, "{count}");
}

/// What the completion for bash offers after these words.
fn bash(script: &str, arguments: &[&str]) -> Set<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian/iofog-connector.bash-completion");
    let mut bash = Command::new("bash");
    let script = format!("set -eu; source \"$0\"\n{script}");
    bash.args(["--norc", "-c", &script]).arg(file).args(arguments).stderr(Stdio::inherit());
    let output = bash.output().expect("bash");
    assert!(output.status.success(), "{script}: {arguments:?}");
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What it offers when the last of these words, which may be empty, is to be completed.
fn completed(words: &[&str]) -> Set<String> {
    let script = "compopt() { echo \"compopt $*\"; }\n\
                  COMP_WORDS=(iofog-connector \"$@\") COMP_CWORD=$# COMPREPLY=()\n\
                  _iofog_connector || true\n\
                  printf '%s\\n' \"${COMPREPLY[@]-}\"";
    bash(script, words)
}

fn set(words: &[&str]) -> Set<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What a completion offers, as it would be if it followed the pages: `--help` and, after a command of
/// several words, the next ones, too.
fn assert_offers(what: &str, offers: impl Fn(&str) -> Set<String>) {
    let pages = pages();
    let mut first = set(&GENERAL);
    first.extend(set(&["--help", "--version"]));
    first.extend(pages.keys().filter(|name| !name.contains(' ')).cloned());
    assert_eq!(offers(""), first, "{what}");
    for (command, options) in &pages {
        let mut expected = options.clone();
        expected.insert("--help".into());
        let head = format!("{command} ");
        expected
            .extend(pages.keys().filter_map(|name| name.strip_prefix(&head)).map(str::to_owned));
        let mut offered = offers(command);
        if command == "help" {
            offered.retain(|word| !pages.contains_key(word));
        }
        if command == "mapping add" {
            offered.retain(|word| !["public", "private"].contains(&word.as_str()));
        }
        assert_eq!(offered, expected, "{what}: {command}");
    }
}

#[test]
fn bash_completion_offers_every_command_and_option_where_it_is_allowed_and_no_other() {
    assert_offers("bash", |command| {
        let mut words: Vec<_> = command.split_whitespace().collect();
        let mut offered = Set::new();
        if command == "mapping add" {
            offered = completed(&["mapping", "add", ""]);
            assert!(offered.contains("public") && offered.contains("private"), "{offered:?}");
            words.push("public");
        }
        words.push("");
        offered.extend(completed(&words));
        if command == "tunnel remove" {
            // And the tunnels that are installed on this machine.
            offered.retain(|word| word.starts_with("--"));
        }
        assert_eq!(offered.remove("compopt -o default"), command == "tunnel install");
        offered
    });
}

#[test]
fn bash_completion_completes_folders_as_folders_and_goes_on_after_values() {
    let folder = format!("{}/", env!("CARGO_TARGET_TMPDIR"));
    let folder = Path::new(&folder).join(format!("completion-{}", std::process::id()));
    fs::create_dir_all(folder.join("a folder")).unwrap();
    fs::write(folder.join("a file"), "").unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let path = at("a");
    let found = |words: &[&str]| {
        let mut found = completed(words);
        assert!(found.remove("compopt -o filenames"), "{words:?}: {found:?}");
        found
    };
    for words in [
        &["start", "--config", &path][..],
        &["--run", "=", &path],
        &["mapping", "add", "public", "--show", "--dir", &path],
    ] {
        assert_eq!(found(words), set(&[&at("a folder")]), "{words:?}");
    }
    fs::write(folder.join("ssh.conf"), "").unwrap();
    let names = bash("_iofog_connector_tunnels \"$1\"", &[folder.to_str().unwrap()]);
    assert_eq!(names, set(&["ssh"]));
    let none = bash("_iofog_connector_tunnels \"$1\"", &[&at("a folder")]);
    assert_eq!(none, set(&[]));
    for words in [&["tunnel", "--plain", "--from", &path][..], &["tunnel", "--ca", "=", &path]] {
        assert_eq!(found(words), set(&[&at("a folder"), &at("a file")]), "{words:?}");
    }
    // After a value, and for one.
    assert!(completed(&["mapping", "add", "public", "--name", "x", ""]).contains("--port1"));
    assert!(
        completed(&["mapping", "add", "public", "--name", "=", "x", "--por"]).contains("--port1")
    );
    assert!(completed(&["--run", "/r", "mapping", ""]).contains("list"));
    assert_eq!(completed(&["mapping", "add", "public", "--users", "p"]), set(&["plain"]));
    assert_eq!(completed(&["mapping", "add", "public", "--name", ""]), set(&[]));
    fs::remove_dir_all(folder).unwrap();
}

/// The texts between single or double quotes.
fn quoted(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\'', '"']) {
        let mark = &rest[at..=at];
        let Some((inside, behind)) = rest[at + 1..].split_once(mark) else { break };
        found.push(inside);
        rest = behind;
    }
    found
}

#[test]
fn zsh_completion_offers_every_command_and_option_where_it_is_allowed_and_no_other() {
    let script = read("debian/iofog-connector.zsh-completion");
    let (head, body) = script.split_once("case $command in\n").expect("the commands");
    // `--name[meaning]...`, `*--name[meaning]...` and `1:command:(start stop)`.
    let offered = |text: &str| {
        let mut found = Set::new();
        for one in quoted(text) {
            if let Some((option, _)) = one.trim_start_matches('*').split_once('[') {
                if option.starts_with("--") {
                    found.insert(option.to_owned());
                }
            } else if let Some((_, words)) = one.split_once(":command:(") {
                found.extend(words.trim_end_matches(')').split(' ').map(str::to_owned));
            }
        }
        found
    };
    let (commands, general) = head.split_once("local -a general=(").expect("the general options");
    let (commands, general) = (offered(commands), offered(general));
    assert_offers("zsh", |command| {
        let arm = body.split(";;").find(|arm| {
            let names = arm.trim_start().split_once(")\n").map_or("", |(names, _)| names);
            match command {
                "" => names == "*",
                _ => names.split('|').any(|name| name.trim_matches('"') == command),
            }
        });
        let arm = arm.unwrap_or_else(|| panic!("nothing for {command}"));
        let arm = arm.split_once(")\n").unwrap().1;
        let mut found = offered(arm);
        // The word that is there already.
        if let Some((_, last)) = command.split_once(' ') {
            assert!(found.remove(last), "{command}: {found:?}");
        }
        if arm.contains("$general") {
            found.extend(general.clone());
        }
        if command.is_empty() {
            found.extend(commands.clone());
        }
        if command == "help" {
            found.retain(|word| word.starts_with("--"));
        }
        found
    });
}

#[test]
fn fish_completion_says_nothing_where_no_tunnel_is_installed() {
    let script = format!("{}/debian/iofog-connector.fish-completion", env!("CARGO_MANIFEST_DIR"));
    let run = "source $argv[1]; __iofog_connector_tunnels";
    let fish = Command::new("fish").args(["-N", "-c", run, &script]).output();
    let Ok(output) = fish else { return ignored::could_not_run("fish is not installed") };
    // Whatever is installed on this machine, names it may print.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn fish_completion_offers_every_command_and_option_where_it_is_allowed_and_no_other() {
    let script = read("debian/iofog-connector.fish-completion");
    let lines = script.lines().filter_map(|line| line.strip_prefix("complete -c iofog-connector "));
    // Which words must have been given, which must not, and what is offered.
    let mut offers = Vec::new();
    for line in lines.filter(|line| *line != "-f") {
        let (mut has, mut lacks) = (Set::new(), Set::new());
        let condition = line.strip_prefix("-n \"").and_then(|rest| rest.split('"').next());
        for part in condition.unwrap_or_default().split("; and ").filter(|part| !part.is_empty()) {
            let (kind, words) = part.split_once(' ').expect("words");
            let words = words.split(' ').map(str::to_owned);
            match kind {
                "__iofog_connector_has" => has.extend(words),
                "__iofog_connector_lacks" => lacks.extend(words),
                other => panic!("{other}"),
            }
        }
        let behind = |mark: &str| line.split_once(mark).map(|(_, rest)| rest);
        let words: Set<String> = match behind(" -l ").or_else(|| line.strip_prefix("-l ")) {
            Some(option) => [format!("--{}", option.split(' ').next().unwrap())].into(),
            None if line.ends_with(" -F") => continue,
            None => {
                let words = behind(" -a ").expect("words").trim_start_matches('"');
                let words = words.split(['"', '-']).next().unwrap();
                // Or what a function of the script finds on this machine.
                let words = words.split_whitespace().filter(|word| !word.starts_with('('));
                words.map(str::to_owned).collect()
            }
        };
        offers.push((has, lacks, words));
    }
    assert_offers("fish", |command| {
        let given = set(&command.split_whitespace().collect::<Vec<_>>());
        let fitting = offers
            .iter()
            .filter(|(has, lacks, _)| has.is_subset(&given) && lacks.is_disjoint(&given));
        fitting.flat_map(|(_, _, words)| words.clone()).collect()
    });
}

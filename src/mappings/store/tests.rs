//! Changes on a real folder: durable or not made, and nothing left behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use smol::LocalExecutor;

use super::*;
use crate::mappings::mapping::{AgentLimits, AgentPort, Passcode, Pipe};
use crate::testing::folder::Folder;

fn mapping(id: &str, port: u16) -> Mapping {
    let limits = AgentLimits { max_connections: 60, heartbeat_threshold: None };
    let agent = AgentPort { port, passcode: Passcode::random(), limits };
    Mapping {
        id: id.into(),
        pipe: Pipe::Public { agent, users: port + 1 },
        options: Default::default(),
    }
}

fn ids(dir: &Path) -> Vec<String> {
    check(dir).expect("a good file").iter().map(|m| m.id.to_string()).collect()
}

/// Runs a story with the writer beside it, and the writer to its end.
fn with_writer<F: Future<Output = ()>>(dir: &Path, story: impl FnOnce(Store) -> F) {
    let (store, writer, _) = open(dir).expect("a good folder");
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let writer = executor.spawn(writer.run());
        story(store).await;
        writer.await;
    }));
}

#[test]
fn changes_are_on_disk_when_they_are_answered() {
    let folder = Folder::new();
    let dir = folder.to_path_buf();
    with_writer(&dir, |store| async move {
        assert_eq!(folder.names(), [""; 0]);
        store.change(Change::Add(mapping("a", 1))).await.expect("added");
        assert_eq!(ids(&folder), ["a"]);
        store.change(Change::Add(mapping("b", 3))).await.expect("added");
        assert_eq!(ids(&folder), ["a", "b"]);
        store.change(Change::Remove("a".into())).await.expect("removed");
        assert_eq!(ids(&folder), ["b"]);
        assert_eq!(folder.names(), [FILE]);
        assert_eq!(fs::metadata(folder.join(FILE)).expect("a file").mode() & 0o7777, 0o600);

        let taken = store.change(Change::Add(mapping("b", 5))).await;
        assert_eq!(taken, Err(StoreError::Taken("b".into())));
        let unknown = store.change(Change::Remove("a".into())).await;
        assert_eq!(unknown, Err(StoreError::Unknown("a".into())));
        assert_eq!(ids(&folder), ["b"]);
    });
}

#[test]
fn changes_at_once_are_written_in_one_file() {
    let folder = Folder::new();
    let (_store, mut writer, _) = open(&folder).expect("a good folder");
    let (answer, answers) = bounded(16);
    let request = |change| Request { change, answer: answer.clone() };
    let group = vec![
        request(Change::Add(mapping("a", 1))),
        request(Change::Add(mapping("b", 3))),
        request(Change::Add(mapping("a", 5))),
        request(Change::Remove("a".into())),
    ];
    smol::block_on(writer.commit(group));
    let outcomes: Vec<_> = std::iter::from_fn(|| answers.try_recv().ok()).collect();
    assert_eq!(outcomes, [Err(StoreError::Taken("a".into())), Ok(()), Ok(()), Ok(())]);
    assert_eq!(ids(&folder), ["b"]);
}

#[test]
fn many_callers_are_all_answered() {
    let folder = Folder::new();
    let dir = folder.to_path_buf();
    with_writer(&dir, |store| async move {
        let executor = LocalExecutor::new();
        let callers: Vec<_> = (0..limits::CHANGES_WAITING as u16 * 2)
            .map(|n| {
                let change = Change::Add(mapping(&format!("{n}"), 2 * n + 1));
                let store = store.clone();
                executor.spawn(async move { store.change(change).await })
            })
            .collect();
        drop(store);
        executor
            .run(async {
                for caller in callers {
                    caller.await.expect("added");
                }
            })
            .await;
    });
    assert_eq!(ids(&dir).len(), limits::CHANGES_WAITING * 2);
}

#[test]
fn failed_change_is_not_made_and_leaves_nothing() {
    let folder = Folder::new();
    let state = folder.join("state");
    fs::create_dir(&state).expect("a folder");
    symlink("state/real.json", folder.join(FILE)).expect("a link");
    let dir = folder.to_path_buf();
    with_writer(&dir, |store| async move {
        store.change(Change::Add(mapping("a", 1))).await.expect("added through the link");
        let content = fs::read(state.join("real.json")).expect("the link's target");

        fs::rename(&state, folder.join("away")).expect("taken away");
        let failed = store.change(Change::Add(mapping("b", 3))).await;
        let Err(StoreError::Unwritable(why)) = failed else { panic!("{failed:?}") };
        assert!(
            why.ends_with(
                "configs.json could not be replaced: its folder does not exist; mount or make it."
            ),
            "{why}"
        );

        // A folder in the file's place makes the rename fail, the last step that can be undone.
        fs::create_dir_all(state.join("real.json/full")).expect("a folder");
        let failed = store.change(Change::Remove("a".into())).await;
        assert!(matches!(failed, Err(StoreError::Unwritable(_))), "{failed:?}");
        assert_eq!(fs::read_dir(&state).expect("a folder").count(), 1, "nothing left behind");

        fs::remove_dir_all(&state).expect("removed");
        fs::rename(folder.join("away"), &state).expect("put back");
        assert_eq!(fs::read(state.join("real.json")).expect("a file"), content);
        store.change(Change::Add(mapping("c", 5))).await.expect("works again");
        assert_eq!(ids(&folder), ["a", "c"]);
        let link = fs::symlink_metadata(folder.join(FILE)).expect("a link");
        assert!(link.is_symlink(), "the link is still one");
    });
}

#[test]
fn left_over_temporary_file_is_removed_at_start_alone() {
    let folder = Folder::new();
    symlink("real.json", folder.join(FILE)).expect("a link");
    fs::write(folder.join(".real.json.new"), "{\"mapp").expect("written");
    fs::write(folder.join("real.json.bak"), "mine").expect("written");
    assert!(check(&folder).expect("no file yet").is_empty());
    assert_eq!(folder.names(), [".real.json.new", FILE, "real.json.bak"]);
    let (_, _, mappings) = open(&folder).expect("opens");
    assert!(mappings.is_empty());
    assert_eq!(folder.names(), [FILE, "real.json.bak"]);
}

#[test]
fn bad_file_stops_the_start_untouched() {
    let folder = Folder::new();
    let file = folder.join(FILE);
    for content in ["", "{\"mappings\":[{\"id\"", "[]", "{\"mappings\":[{\"id\":\"a\"}]}", "\0\0\0"]
    {
        fs::write(&file, content).expect("written");
        let Err(StoreError::Unreadable(sentences)) = open(&folder).map(drop) else {
            panic!("{content:?} was accepted")
        };
        let place = if content.is_empty() { "it is empty; " } else { "line 1, column " };
        assert!(sentences[0].starts_with(&format!("{}: {place}", file.display())));
        assert_eq!(fs::read_to_string(&file).expect("still there"), content);
    }
}

#[test]
fn root_follows_no_link_of_another_user() {
    let folder = Folder::new();
    let (link, elsewhere) = (folder.join(FILE), folder.join("elsewhere"));
    symlink(&elsewhere, &link).expect("a link");
    assert!(check(&folder).expect("its own").is_empty());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::lchown(&link, Some(4321), None).expect("another's");
    let error = check(&folder).expect_err("another's").to_string();
    assert!(error.contains("it is a link, and nothing is written through one there"), "{error}");
    let dir = folder.to_path_buf();
    assert!(open(&dir).is_err() && !elsewhere.exists());
}

#[test]
fn link_into_a_missing_folder_is_no_empty_list() {
    let folder = Folder::new();
    symlink("nowhere/configs.json", folder.join(FILE)).expect("a link");
    let error = check(&folder).expect_err("not mounted").to_string();
    assert!(error.contains("link into a folder that does not exist"), "{error}");
    let round = Folder::new();
    symlink(FILE, round.join(FILE)).expect("a link");
    assert!(check(&round).is_err());
}

#[test]
fn writer_that_is_gone_is_told() {
    let folder = Folder::new();
    let (store, writer, _) = open(&folder).expect("opens");
    drop(writer);
    let outcome = smol::block_on(store.change(Change::Remove("a".into())));
    assert_eq!(outcome, Err(StoreError::Stopped));
}

#[test]
fn a_change_in_place_that_was_cut_short_is_finished_from_its_journal() {
    let folder = Folder::new();
    let (file, journal) = (folder.join(FILE), folder.join(".configs.json.journal"));
    let old = format::write(&[mapping("old", 1), mapping("older", 3), mapping("oldest", 5)]);
    let new = format::write(&[mapping("new", 7)]);
    // The power fails after any number of bytes, before and after the file is cut to its length.
    for written in 0..=new.len() {
        for cut in [false, true] {
            let mut torn = new[..written].to_vec();
            if !cut {
                torn.extend(&old[written..]);
            }
            fs::write(&file, torn).expect("a file");
            fs::write(&journal, &new).expect("a file");
            assert_eq!(ids(&folder), ["new"], "check sees what counts");
            drop(open(&folder).expect("a good folder"));
            assert_eq!(fs::read(&file).expect("a file"), new);
            assert!(!journal.exists());
        }
    }
}

#[test]
fn a_journal_that_could_not_be_finished_does_not_outlive_the_next_change() {
    let folder = Folder::new();
    let dir = folder.to_path_buf();
    with_writer(&dir, |store| async move {
        store.change(Change::Add(mapping("a", 1))).await.expect("added");
        // Left over from a time when the file was a mount, or not to be written.
        let journal = folder.join(format!(".{FILE}.journal"));
        fs::copy(folder.join(FILE), &journal).expect("a copy");
        store.change(Change::Add(mapping("b", 3))).await.expect("added");
        assert_eq!(ids(&folder), ["a", "b"], "as a start reads it");
        assert_eq!(folder.names(), [FILE]);
    });
}

#[test]
fn a_folder_in_the_state_files_place_is_not_said_to_be_tightened() {
    let folder = Folder::new();
    fs::create_dir(folder.join(FILE)).unwrap();
    assert_eq!(doubts(&folder), [""; 0]);
    assert!(check(&folder).is_err());
}

#[test]
fn a_state_file_that_others_can_read_is_tightened_at_start() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let file = folder.join(FILE);
    for mode in [0o644, 0o640, 0o666, 0o600, 0o400] {
        fs::write(&file, "{}").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
        let warned = doubts(&folder).iter().any(|doubt| doubt.contains("0600"));
        assert_eq!(warned, mode & 0o077 != 0, "{mode:o}");
        drop(open(&folder).expect("a good folder"));
        let now = fs::metadata(&file).expect("a file").mode() & 0o777;
        assert_eq!(now, if mode & 0o077 == 0 { mode } else { 0o600 });
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    }
}

#[test]
fn a_state_file_has_one_writer_whatever_leads_to_it() {
    let [first, second] = [Folder::new(), Folder::new()];
    fs::write(first.join(FILE), "{}").expect("a file");
    symlink(first.join(FILE), second.join(FILE)).expect("a link");
    let refused = |dir: &Path| match open(dir) {
        Err(error) => error.to_string().contains("another iofog-connector"),
        Ok(_) => false,
    };
    let dir = first.to_path_buf();
    with_writer(&dir, |store| async move {
        assert!(refused(&second));
        // The file is a new one after each change.
        store.change(Change::Add(mapping("a", 1))).await.expect("added");
        assert!(refused(&second));
    });
    assert!(!refused(&first));
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let folder = Folder::new();
    let mut text = "\u{feff}".as_bytes().to_vec();
    text.extend(format::write(&[mapping("a", 1)]));
    fs::write(folder.join(FILE), text).expect("a file");
    assert_eq!(ids(&folder), ["a"]);
}

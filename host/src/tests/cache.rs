//! The cache on disk: what is believed of it, who may write it, and how it stays within its bounds.

use std::os::unix::fs::symlink;

use sandgate_wire::message::Codegen;

use super::*;
use crate::module::Module;

fn artefact(bytes: &[u8]) -> Artefact {
    let mut file = File::from(memory("test").unwrap());
    file.write_all(bytes).unwrap();
    Artefact::seal(file.into()).unwrap()
}

fn content(found: &(Artefact, Shape)) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let count = rustix::io::pread(found.0.memory(), &mut buffer, 0).unwrap();
    buffer.truncate(count);
    buffer
}

fn key(engine: &str) -> Key {
    Key::of(&Module::from_bytes(*b"module").unwrap(), engine, Codegen::default(), None)
}

fn entry(directory: &Path, engine: &str) -> CacheEntry {
    CacheEntry::lock(directory, key(engine), Deadline::NEVER).unwrap()
}

fn shape() -> Shape {
    Shape { functions: 7, ..Shape::default() }
}

/// Writes an artefact of this many bytes that was used so many minutes ago.
fn put(directory: &Path, engine: &str, bytes: usize, minutes: u64) -> PathBuf {
    let entry = entry(directory, engine);
    entry.write(&artefact(&vec![1; bytes]), &shape()).unwrap();
    let used = SystemTime::now() - Duration::from_secs(60 * minutes);
    File::open(&entry.path).unwrap().set_modified(used).unwrap();
    entry.path.clone()
}

#[test]
fn what_was_written_is_read_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let first = entry(directory.path(), "a");
    assert!(first.read().unwrap().is_none());
    first.write(&artefact(b"native code"), &shape()).unwrap();
    let found = first.read().unwrap().unwrap();
    assert_eq!((content(&found), found.1), (b"native code".to_vec(), shape()));
    let second = entry(directory.path(), "b");
    assert!(second.read().unwrap().is_none(), "an artefact serves its own engine only");
    fs::copy(&first.path, &second.path).unwrap();
    assert!(second.read().is_err(), "renaming does not help");
    second.write(&artefact(b"other code"), &shape()).unwrap();
    assert_eq!(content(&second.read().unwrap().unwrap()), b"other code", "what is not right is replaced");
}

#[test]
fn a_changed_or_cut_file_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let entry = entry(directory.path(), "a");
    entry.write(&artefact(b"native code"), &shape()).unwrap();
    let good = fs::read(&entry.path).unwrap();
    for cut in 0..good.len() {
        fs::write(&entry.path, &good[..cut]).unwrap();
        assert!(entry.read().is_err(), "cut after {cut} bytes");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&entry.path, &bad).unwrap();
        assert!(entry.read().is_err(), "byte {at} changed");
    }
    fs::write(&entry.path, [&good[..], b"x"].concat()).unwrap();
    assert!(entry.read().is_err(), "a byte more");
}

#[test]
fn a_lock_that_nobody_gives_back_is_no_matter_once_the_artefact_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let maker = entry(directory.path(), "a");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| entry(directory.path(), "a").read().unwrap().unwrap());
        maker.write(&artefact(b"native code"), &shape()).unwrap();
        assert_eq!(content(&waiting.join().unwrap()), b"native code");
    });
    fs::remove_file(&maker.path).unwrap();
    let error = CacheEntry::lock(directory.path(), key("a"), Deadline::after(Duration::ZERO)).err().unwrap();
    assert!(error.to_string().contains("another process has held its lock"), "{error}");
}

#[test]
fn a_directory_that_is_not_this_users_alone_is_not_used() {
    let lock = |path: &Path| CacheEntry::lock(path, key("a"), Deadline::NEVER);
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(lock(directory.path()).is_err());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    assert!(lock(directory.path()).is_ok());
    assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700, "nobody else reads it");
    let outside = tempfile::tempdir().unwrap();
    let link = outside.path().join("link");
    symlink(directory.path(), &link).unwrap();
    assert!(lock(&link).err().unwrap().to_string().contains("symbolic link"));
    assert!(lock(Path::new("/proc/version")).is_err());
}

#[test]
fn files_that_others_could_have_written_are_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "a", 10, 0);
    let entry = entry(directory.path(), "a");
    assert!(entry.read().unwrap().is_some());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert!(entry.read().is_err());
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&path, &target).unwrap();
    symlink(&target, &path).unwrap();
    assert!(entry.read().is_err(), "a link is not followed");
    entry.write(&artefact(b"native code"), &shape()).unwrap();
    assert_eq!(content(&entry.read().unwrap().unwrap()), b"native code");
    assert_eq!(fs::metadata(&target).unwrap().len(), fs::metadata(&path).unwrap().len() - 1, "nor written through");
}

#[test]
fn the_least_recently_used_go_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert_eq!(entries(&path.join("none")).unwrap(), []);
    let paths = ["a", "b", "c", "d"].map(|engine| put(path, engine, 100_000, 100 - u64::from(engine.as_bytes()[0])));
    // The oldest is used, and is the newest then.
    entry(path, "a").read().unwrap().unwrap();
    let keys: Vec<String> = entries(path).unwrap().into_iter().map(|entry| entry.key).collect();
    let expected = ["b", "c", "d", "a"].map(|engine| key(engine).hex());
    assert_eq!(keys, expected);
    let pruned = prune(path, 250_000).unwrap();
    assert_eq!(pruned.entries, 2);
    assert!(pruned.bytes > 200_000);
    assert_eq!(paths.map(|path| path.exists()), [true, false, false, true]);
    assert_eq!(prune(path, 0).unwrap().entries, 2);
    assert_eq!(entries(path).unwrap(), []);
}

#[test]
fn what_killed_processes_leave_is_removed_once_it_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - 2 * STALE;
    let lock = |text: &str| format!("{}.lock", key(text).hex());
    let (stale, fresh) = (lock("x"), lock("y"));
    let now = SystemTime::now();
    for (name, age) in [
        (&stale[..], old),
        (".sandgate-x", old),
        (&fresh, now),
        ("stranger", old),
        ("Cargo.lock", old),
        ("x.artefact", old),
    ] {
        File::create(directory.path().join(name)).unwrap().set_modified(age).unwrap();
    }
    prune(directory.path(), 0).unwrap();
    let mut left: Vec<_> = files(directory.path()).unwrap().into_iter().map(|(path, _)| path).collect();
    left.sort();
    let mut expected = ["stranger", &fresh, "Cargo.lock", "x.artefact"];
    expected.sort_unstable();
    assert_eq!(left, expected.map(|name| directory.path().join(name)));
}

#[test]
fn the_directory_stays_within_its_bound_and_keeps_no_locks() {
    let directory = tempfile::tempdir().unwrap();
    let bound = 1 << 20;
    let cache = Directory::new(directory.path().to_owned());
    for number in 0..10_000 {
        let entry = cache.entry(key(&number.to_string()), Deadline::NEVER).unwrap();
        if number % 50 == 0 {
            entry.write(&artefact(&[1; 30_000]), &shape()).unwrap();
            drop(entry);
            cache.has_grown_by(30_000, bound);
        }
    }
    let files = files(directory.path()).unwrap();
    assert!(files.iter().map(|(_, metadata)| metadata.len()).sum::<u64>() <= bound, "{files:?}");
    assert!(files.len() > 20 && files.iter().all(|(path, _)| path.extension().is_some_and(|name| name == SUFFIX)));
}

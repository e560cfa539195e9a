use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// In memory where the machine has such a place: these tests are about order, not about a disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn file(name: &str, text: &str, mode: u32) -> Content {
    Content {
        name: name.to_owned(),
        bytes: Zeroizing::new(text.as_bytes().to_vec()),
        mode,
        owner: Owner::default(),
    }
}

/// A generation whose files all say its number, over and over.
fn pair(number: u64) -> Vec<Content> {
    let text = format!("{number:016}\n").repeat(60);
    ["svid.pem", "svid.key", "combined.pem"]
        .map(|name| file(name, &text, 0o600))
        .into_iter()
        .collect()
}

/// The number that a whole file says.
fn number(text: &str) -> u64 {
    assert_eq!(text.len(), 17 * 60, "a file that is not whole");
    let first = &text[..17];
    assert!(
        text.as_bytes()
            .chunks(17)
            .all(|line| line == first.as_bytes())
    );
    first.trim().parse().unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn all_files_change_with_one_link_and_have_exactly_their_mode() {
    let dir = scratch();
    let path = dir.path().join("web");
    let mut files = Directory::open(&path, Duration::from_mins(1), Duration::ZERO).unwrap();
    assert!(!files.has_generation());
    let at = Duration::from_secs;
    let old = files
        .publish(&[file("a", "1", 0o644), file("gone", "1", 0o600)], at(0))
        .unwrap();
    let new = files.publish(&[file("a", "2", 0o640)], at(10)).unwrap();
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "2");
    assert_eq!(fs::metadata(path.join("a")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::canonicalize(path.join("current")).unwrap(), new);
    // A name that is not in the generation any more is gone, but not for who has resolved it.
    assert!(fs::symlink_metadata(path.join("gone")).is_err());
    assert_eq!(fs::read_to_string(old.join("gone")).unwrap(), "1");

    assert_eq!(files.prune_at(), Some(at(70)));
    files.prune(at(69)).unwrap();
    assert!(old.exists());
    files.prune(at(70)).unwrap();
    assert!(!old.exists() && new.exists());
    assert_eq!(names(&path), ["..gen-2", "..lock", "a", "current"]);
}

#[test]
fn a_directory_in_which_others_could_exchange_files_is_refused() {
    let dir = scratch();
    let open = |path: &Path| match Directory::open(path, HOUR, Duration::ZERO) {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(failure) => failure.to_string(),
    };
    let path = dir.path().join("open");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    assert!(open(&path).contains("chmod go-w"));
    // Nobody is told to close a directory that is everybody's.
    fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
    let told = open(&path);
    assert!(
        told.contains("such as") && !told.contains("chmod"),
        "{told}"
    );
    let blocked = dir.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    assert!(open(&blocked.join("web")).contains("is a file"));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(open(&link).contains("links are not followed"));

    let mut files = Directory::open(&path, HOUR, Duration::ZERO).unwrap();
    assert!(open(&path).contains("held by another process"));
    // A file, or a link to elsewhere, is somebody else's and stays.
    symlink("/etc/passwd", path.join("svid.pem")).unwrap();
    let refused = files.publish(&pair(1), Duration::ZERO).err().unwrap();
    assert!(refused.to_string().contains("no link of ours"), "{refused}");
    assert!(!files.has_generation());
    for bad in ["", ".x", "a/b", "..", "current", "a b"] {
        assert!(check_file_name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_generation_that_cannot_be_written_leaves_the_one_before() {
    let dir = scratch();
    let path = dir.path().join("web");
    let mut files = Directory::open(&path, HOUR, Duration::ZERO).unwrap();
    files.publish(&pair(1), Duration::ZERO).unwrap();
    let twice = [file("svid.pem", "", 0o600), file("svid.pem", "", 0o600)];
    files.publish(&twice, Duration::ZERO).unwrap_err();
    assert_eq!(
        number(&fs::read_to_string(path.join("svid.pem")).unwrap()),
        1
    );
    assert!(!names(&path).iter().any(|name| name.starts_with("..new-")));
}

/// How a reader reads the pair; the numbers that it saw, or nothing if the generation that it had
/// resolved was removed before it was done.
type Reading = fn(&Path) -> Option<(u64, u64)>;

fn whole(mut file: File) -> u64 {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    number(&text)
}

/// A descriptor of `current`, and openat(2) from there.
fn by_descriptor(path: &Path) -> Option<(u64, u64)> {
    // Sixteen rotations may pass between the reading of the link and what it names.
    let current = File::open(path.join(CURRENT)).ok()?;
    let read = |name: &str| {
        openat(current.as_fd(), name, OFlag::O_RDONLY, Mode::empty())
            .ok()
            .map(|file| whole(file.into()))
    };
    Some((read("svid.pem")?, read("svid.key")?))
}

/// realpath(3), and open(2) below it.
fn by_path(path: &Path) -> Option<(u64, u64)> {
    let current = fs::canonicalize(path.join(CURRENT)).ok()?;
    let read = |name: &str| File::open(current.join(name)).ok().map(whole);
    Some((read("svid.pem")?, read("svid.key")?))
}

/// One file with both.
fn combined(path: &Path) -> Option<(u64, u64)> {
    let both = whole(File::open(path.join("combined.pem")).ok()?);
    Some((both, both))
}

/// A reader in a tight loop never sees a mismatched pair, nor half a file: in 5,000 rotations, or
/// in as many as `MUSTER_ROTATIONS` says; continuous integration asks for 100,000.
#[test]
fn many_rotations_and_no_reader_sees_a_mismatched_pair() {
    let asked = std::env::var("MUSTER_ROTATIONS").ok();
    let rotations: u64 = asked.map_or(5_000, |n| n.parse().unwrap());
    let dir = scratch();
    let path = dir.path().join("web");
    let mut files = Directory::open(&path, HOUR, Duration::ZERO).unwrap();
    files.publish(&pair(0), Duration::ZERO).unwrap();
    let done = AtomicBool::new(false);
    let read = AtomicU64::new(0);
    thread::scope(|scope| {
        for reading in [by_descriptor as Reading, by_path, combined] {
            let (done, read, path) = (&done, &read, &path);
            scope.spawn(move || {
                let mut newest = 0;
                while !done.load(Ordering::Relaxed) {
                    let Some((certificate, key)) = reading(path) else {
                        continue;
                    };
                    assert_eq!(certificate, key, "a mismatched pair");
                    assert!(certificate >= newest, "a generation came back");
                    newest = certificate;
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 1..=rotations {
            files.publish(&pair(number), Duration::ZERO).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(by_descriptor(&path), Some((rotations, rotations)));
    let reads = read.into_inner();
    assert!(reads > rotations / 100, "the readers hardly read: {reads}");
    // The current one, those that are kept, the lock, the links.
    assert_eq!(names(&path).len(), 1 + MOST_KEPT + 1 + 4);
}

const VICTIM: &str = "MUSTER_TEST_GENERATIONS_IN";

/// Not a test by itself: what the next one kills.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else {
        return;
    };
    let mut files = Directory::open(Path::new(&path), HOUR, Duration::ZERO).unwrap();
    writeln!(io::stdout(), "\nstarted").unwrap();
    for number in 1.. {
        files.publish(&pair(number), Duration::ZERO).unwrap();
    }
}

#[test]
fn a_kill_at_any_point_leaves_a_whole_generation_and_the_next_start_sweeps_up() {
    let dir = scratch();
    let path = dir.path().join("web");
    for round in 0..100_u64 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--nocapture", "--test-threads=1"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "started"));
        // The work until the kill differs from round to round, so the kill falls anywhere.
        let mut spent = 0_u64;
        while spent < round * 3 {
            spent += u64::from(fs::symlink_metadata(&path).is_ok());
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        if round > 0 && fs::symlink_metadata(path.join(CURRENT)).is_ok() {
            let (certificate, key) = by_descriptor(&path).expect("a whole generation");
            assert_eq!(certificate, key, "round {round}");
        }
        let files = Directory::open(&path, Duration::ZERO, HOUR).unwrap();
        let left: Vec<_> = names(&path);
        assert!(
            !left
                .iter()
                .any(|name| name.starts_with(UNFINISHED) || name == NEXT_LINK),
            "round {round}: {left:?}"
        );
        drop(files);
    }
    assert!(by_descriptor(&path).is_some());
}

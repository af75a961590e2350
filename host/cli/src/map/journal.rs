//! The journal of a run: every result, in a file, so that a run that was interrupted goes on where it stopped.
//!
//! ```text
//!  file   = magic (8) | header record | result record …
//!  record = length u32 | CRC-32 of the body u32 | body            little-endian; the body is postcard
//! ```
//!
//! 1. A result is in the journal before it is printed. So what a resumed run prints first is what the journal has, and then
//!    what is missing: each result once, wherever the first run stopped.
//! 2. A record that is cut or damaged ends the journal: it and all behind it are dropped, and their tasks run again. A
//!    journal whose header is damaged is refused.
//! 3. A process that is killed loses nothing that was appended; a machine that loses power, at most the last second.
//! 4. The header says what the results depend on. A journal of another run is refused.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"SGJRNL01";
const PREFIX_BYTES: usize = 8;
/// No result is larger: a worker sends no larger message, and the output of a program is limited.
const MAX_RECORD_BYTES: u32 = 1 << 30;
/// At most this long, what was appended can be lost with the machine's power.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What the results of a run depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// SHA-256 of the module.
    pub(crate) module: [u8; 32],
    /// What else decides a result, as text: it is shown when it differs.
    pub(crate) settings: String,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The position of its input.
    pub(crate) index: u64,
    /// The first bytes of the SHA-256 of its input.
    pub(crate) input: [u8; 16],
    /// Whether the task did what it was asked to.
    pub(crate) success: bool,
    /// The result as the run writes it.
    pub(crate) result: Vec<u8>,
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("journal `{}` cannot be {what}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("journal `{}` exists already: go on with `--resume`, or name another file", .0.display())]
    Exists(PathBuf),
    #[error("`{}` is no journal", .0.display())]
    NoJournal(PathBuf),
    #[error("journal `{}` is damaged at its beginning, so that nobody can tell which run it is of: name another file", .0.display())]
    Damaged(PathBuf),
    #[error("journal `{}` is in use by another run", .0.display())]
    InUse(PathBuf),
    #[error("journal `{}` is of another module: name another file", .0.display())]
    OtherModule(PathBuf),
    #[error("journal `{}` is of a run with other settings: there `{theirs}`, here `{ours}`", path.display())]
    OtherSettings { path: PathBuf, theirs: String, ours: String },
    #[error("input {index} is not the one that journal `{}` has a result for: name another file", path.display())]
    OtherInput { path: PathBuf, index: u64 },
}

/// An open journal. Nobody else writes to it meanwhile.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    end: u64,
    synced: Instant,
    dirty: bool,
    buffer: Vec<u8>,
    /// Where the record of each result stands.
    results: BTreeMap<u64, Place>,
    /// Bytes that were dropped because they were cut or damaged.
    dropped: u64,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    input: [u8; 16],
}

impl Journal {
    /// A new journal.
    pub(crate) fn create(path: &Path, header: &Header) -> Result<Journal, JournalError> {
        let file = open(path)?;
        if file.metadata().map_err(failed(path, "read"))?.len() > 0 {
            return Err(JournalError::Exists(path.to_owned()));
        }
        let mut journal = Journal::of(path, file);
        journal.begin(header)?;
        Ok(journal)
    }

    /// The journal of an earlier run, or a new one if there is none.
    pub(crate) fn resume(path: &Path, header: &Header) -> Result<Journal, JournalError> {
        let mut journal = Journal::of(path, open(path)?);
        journal.read(header)?;
        Ok(journal)
    }

    fn of(path: &Path, file: File) -> Journal {
        Journal {
            path: path.to_owned(),
            file,
            end: 0,
            synced: Instant::now(),
            dirty: false,
            buffer: Vec::new(),
            results: BTreeMap::new(),
            dropped: 0,
        }
    }

    fn begin(&mut self, header: &Header) -> Result<(), JournalError> {
        self.file.write_all_at(MAGIC, 0).map_err(failed(&self.path, "written"))?;
        self.end = MAGIC.len() as u64;
        self.write(header)?;
        self.sync()
    }

    fn read(&mut self, header: &Header) -> Result<(), JournalError> {
        let length = self.file.metadata().map_err(failed(&self.path, "read"))?.len();
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let failed_to_read = failed(&self.path, "read");
        let mut magic = Vec::new();
        reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(failed_to_read)?;
        if !MAGIC.starts_with(&magic) {
            return Err(JournalError::NoJournal(self.path.clone()));
        }
        let mut end = magic.len() as u64;
        let Some(theirs) = next(&mut reader, &mut end).map_err(failed(&self.path, "read"))? else {
            // The run was interrupted before it began, unless there is more than that leaves.
            let body = postcard::to_allocvec(header).map_or(0, |body| body.len());
            if length >= (MAGIC.len() + PREFIX_BYTES + body) as u64 {
                return Err(JournalError::Damaged(self.path.clone()));
            }
            self.file.set_len(0).map_err(failed(&self.path, "written"))?;
            return self.begin(header);
        };
        let theirs: Header = postcard::from_bytes(&theirs).map_err(|_| JournalError::NoJournal(self.path.clone()))?;
        if theirs.module != header.module {
            return Err(JournalError::OtherModule(self.path.clone()));
        }
        if theirs.settings != header.settings {
            let (theirs, ours) = (theirs.settings, header.settings.clone());
            return Err(JournalError::OtherSettings { path: self.path.clone(), theirs, ours });
        }
        let mut results = BTreeMap::new();
        loop {
            let offset = end;
            let Some(body) = next(&mut reader, &mut end).map_err(failed(&self.path, "read"))? else { break };
            let Ok(record) = postcard::from_bytes::<Record>(&body) else {
                end = offset;
                break;
            };
            // The first result of an input stands.
            results.entry(record.index).or_insert(Place { offset, input: record.input });
        }
        self.results = results;
        self.end = end;
        self.dropped = length.saturating_sub(end);
        self.file.set_len(end).map_err(failed(&self.path, "written"))
    }

    /// Bytes at the end of the file that were of no use.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many results there are.
    pub(crate) fn len(&self) -> usize {
        self.results.len()
    }

    /// The result of an input, if it is there.
    pub(crate) fn find(&self, index: u64, input: &[u8; 16]) -> Result<Option<Record>, JournalError> {
        let Some(place) = self.results.get(&index) else { return Ok(None) };
        if place.input != *input {
            return Err(JournalError::OtherInput { path: self.path.clone(), index });
        }
        let mut file = &self.file;
        let mut end = place.offset;
        let read = file.seek(SeekFrom::Start(end)).and_then(|_| next(&mut file, &mut end));
        let body = read.map_err(failed(&self.path, "read"))?;
        let record = body.and_then(|body| postcard::from_bytes(&body).ok());
        record.map(Some).ok_or_else(|| {
            let changed = io::Error::other("it was changed by somebody else");
            failed(&self.path, "read")(changed)
        })
    }

    /// Adds a result. When this returns, the end of this process cannot lose it.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let offset = self.end;
        self.write(record)?;
        self.results.insert(record.index, Place { offset, input: record.input });
        if self.synced.elapsed() >= SYNC_INTERVAL { self.sync() } else { Ok(()) }
    }

    fn write(&mut self, body: &impl Serialize) -> Result<(), JournalError> {
        let failed = failed(&self.path, "written");
        self.buffer.clear();
        self.buffer.resize(PREFIX_BYTES, 0);
        let buffer = std::mem::take(&mut self.buffer);
        let mut buffer = match postcard::to_extend(body, buffer) {
            Ok(buffer) => buffer,
            Err(error) => return Err(failed(io::Error::other(error))),
        };
        let body = &buffer[PREFIX_BYTES..];
        let Some(length) = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_RECORD_BYTES) else {
            return Err(failed(io::Error::other(format!("a result of {} bytes is too large for it", body.len()))));
        };
        let checksum = crc32fast::hash(body);
        buffer[..4].copy_from_slice(&length.to_le_bytes());
        buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
        let written = self.file.write_all_at(&buffer, self.end);
        if let Err(error) = written {
            // What was written in part is no record; take it away so that nobody has to find that out.
            let _ = self.file.set_len(self.end);
            return Err(failed(error));
        }
        self.end += buffer.len() as u64;
        self.dirty = true;
        self.buffer = buffer;
        Ok(())
    }

    /// Waits until all that was appended is on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        if self.dirty {
            self.file.sync_data().map_err(failed(&self.path, "written"))?;
            self.dirty = false;
        }
        self.synced = Instant::now();
        Ok(())
    }
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { path: path.clone(), what, source }
}

fn open(path: &Path) -> Result<File, JournalError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(failed(path, "opened"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(path, "locked")(error)),
    }
}

/// The next record's body, if it is whole; moves `end` behind it.
fn next(reader: &mut impl Read, end: &mut u64) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    reader.by_ref().take(PREFIX_BYTES as u64).read_to_end(&mut prefix)?;
    let Some(([l0, l1, l2, l3], [c0, c1, c2, c3])) =
        prefix.split_first_chunk::<4>().and_then(|(length, rest)| Some((length, rest.first_chunk::<4>()?)))
    else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
    let checksum = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    if length > MAX_RECORD_BYTES {
        return Ok(None);
    }
    // Grows with what is there, not with what a damaged length says.
    let mut body = Vec::new();
    reader.by_ref().take(length.into()).read_to_end(&mut body)?;
    if body.len() as u64 != u64::from(length) || crc32fast::hash(&body) != checksum {
        return Ok(None);
    }
    *end += PREFIX_BYTES as u64 + u64::from(length);
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { module: [7; 32], settings: "task=double".to_owned() }
    }

    fn record(index: u64) -> Record {
        let result = vec![b'r'; usize::try_from(index % 5).unwrap()];
        Record { index, input: [u8::try_from(index % 251).unwrap(); 16], success: index != 3, result }
    }

    fn found(journal: &Journal, indexes: std::ops::Range<u64>) -> Vec<u64> {
        let is_there = |index: &u64| {
            let record = record(*index);
            let found = journal.find(*index, &record.input).unwrap();
            found.is_some_and(|found| {
                assert_eq!(found, record);
                true
            })
        };
        indexes.filter(is_there).collect()
    }

    #[test]
    fn a_run_that_stops_anywhere_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path, &header()).unwrap();
        let mut ends = vec![journal.end];
        for index in 0..12 {
            journal.append(&record(index)).unwrap();
            ends.push(journal.end);
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = Journal::resume(&path, &header()).unwrap();
            let complete = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1) as u64;
            assert_eq!(found(&journal, 0..12), (0..complete).collect::<Vec<_>>(), "cut after {cut} bytes");
            for index in complete..12 {
                journal.append(&record(index)).unwrap();
            }
            drop(journal);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut after {cut} bytes");
        }
    }

    #[test]
    fn a_damaged_record_and_what_follows_run_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path, &header()).unwrap();
        let start = journal.end;
        for index in 0..4 {
            journal.append(&record(index)).unwrap();
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let start = usize::try_from(start).unwrap();
        for at in 0..start {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let refused = Journal::resume(&path, &header());
            assert!(matches!(refused, Err(JournalError::NoJournal(_) | JournalError::Damaged(_))), "byte {at}");
            assert_eq!(std::fs::read(&path).unwrap(), bad, "byte {at}: it is left alone");
        }
        for at in start..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let journal = Journal::resume(&path, &header()).unwrap();
            let left = found(&journal, 0..4);
            assert_eq!(left, (0..left.len() as u64).collect::<Vec<_>>(), "byte {at}");
            assert!(left.len() < 4 && journal.dropped() > 0, "byte {at}");
        }
    }

    #[test]
    fn what_is_not_this_runs_journal_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path, &header()).unwrap();
        journal.append(&record(0)).unwrap();
        assert!(matches!(Journal::resume(&path, &header()), Err(JournalError::InUse(_))));
        assert!(matches!(journal.find(0, &[9; 16]), Err(JournalError::OtherInput { index: 0, .. })));
        drop(journal);
        assert!(matches!(Journal::create(&path, &header()), Err(JournalError::Exists(_))));
        let other = Header { module: [8; 32], ..header() };
        assert!(matches!(Journal::resume(&path, &other), Err(JournalError::OtherModule(_))));
        let other = Header { settings: "task=half".to_owned(), ..header() };
        assert!(matches!(Journal::resume(&path, &other), Err(JournalError::OtherSettings { .. })));
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(matches!(Journal::resume(&path, &header()), Err(JournalError::NoJournal(_))));
        let missing = directory.path().join("no/such/folder");
        assert!(matches!(Journal::create(&missing, &header()), Err(JournalError::Io { .. })));
    }
}

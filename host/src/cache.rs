//! The directory of compiled modules: what is in it, and how to make it smaller.
//!
//! ```text
//!  KEY.artefact   magic │ key │ SHA-256 of the rest │ length of the facts │ facts: shape, description │ native code
//!  KEY.lock       held by the one process that compiles, and removed by it
//!  .sandgate-*    an artefact that is being written; it appears under its name whole or not at all
//! ```
//!
//! Only this user can write the directory and what is in it; a file of anybody else's, or one that is not what was written,
//! is not used, and replaced. It holds a bounded number of bytes: what was not used for the longest time goes first. Every
//! process that uses it may be killed at any time, and a directory that cannot be used costs time, not a task.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use sandgate_wire::description::MAX_DESCRIPTION_BYTES;
use sandgate_wire::module_limits::Shape;
use sha2::{Digest, Sha256};

use crate::artefact::{Artefact, Key, memory};
use crate::deadline::Deadline;

/// Opens an artefact file; changes with its layout.
pub(crate) const FILE_MAGIC: [u8; 8] = *b"SGARTEF4";
/// Magic, key, digest and the length of the facts.
const HEADER_BYTES: usize = 8 + 32 + 32 + 4;
/// Most bytes of the facts.
pub(crate) const MAX_FACTS_BYTES: usize = 256 + MAX_DESCRIPTION_BYTES;
const SUFFIX: &str = "artefact";
const TEMPORARY: &str = ".sandgate-";
/// How long another process may take to make an artefact before this one makes its own.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Age of a lock or of a file half written that nobody can be at work on any more.
const STALE: Duration = Duration::from_secs(60 * 60);
/// Bytes that the smallest file takes.
const BLOCK_BYTES: u64 = 4096;

/// Names the directory of the artefact cache.
pub const CACHE_VARIABLE: &str = "SANDGATE_CACHE";

/// One compiled module of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// A name for what it was made from and for: a hash, in hexadecimal.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was used last, or made.
    pub last_use: SystemTime,
}

/// What was taken out of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Compiled modules that are gone.
    pub entries: usize,
    /// Bytes that they had.
    pub bytes: u64,
}

/// The directory used when nothing else is said: `$SANDGATE_CACHE`, else `sandgate` in the user's cache directory. `None` if
/// the environment names no home either.
pub fn default_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(CACHE_VARIABLE)
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("sandgate")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/sandgate")))
}

/// The compiled modules in a directory, the least recently used first. One that does not exist has none.
///
/// # Errors
/// Those of the system when the directory cannot be read.
pub fn entries(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (path, metadata) in files(directory)? {
        if path.extension().is_some_and(|extension| extension == SUFFIX)
            && let Some(key) = key_name(&path)
        {
            let last_use = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            entries.push(Entry { key: key.to_owned(), bytes: metadata.len(), last_use });
        }
    }
    entries.sort_by(|a, b| a.last_use.cmp(&b.last_use).then_with(|| a.key.cmp(&b.key)));
    Ok(entries)
}

/// Takes the least recently used out of a directory until it holds `bytes` at most, and what was left by processes that
/// were killed. Others may use it meanwhile: what they have open stays theirs.
///
/// # Errors
/// Those of the system when the directory cannot be read or a file not be removed.
pub fn prune(directory: &Path, bytes: u64) -> io::Result<Pruned> {
    remove_stale(directory)?;
    let entries = entries(directory)?;
    let mut total: u64 = entries.iter().map(|entry| entry.bytes.max(BLOCK_BYTES)).sum();
    let mut pruned = Pruned::default();
    for entry in entries {
        if total <= bytes {
            break;
        }
        // Somebody else may be pruning too.
        remove(&directory.join(&entry.key).with_extension(SUFFIX))?;
        total -= entry.bytes.max(BLOCK_BYTES);
        pruned = Pruned { entries: pruned.entries + 1, bytes: pruned.bytes + entry.bytes };
    }
    Ok(pruned)
}

/// The key that a file is named after. Others have files called `.lock` too, and a directory may be named by mistake.
fn key_name(path: &Path) -> Option<&str> {
    let name = path.file_stem()?.to_str()?;
    let is_key = name.len() == 2 * size_of::<Key>() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_key.then_some(name)
}

fn remove_stale(directory: &Path) -> io::Result<()> {
    for (path, metadata) in files(directory)? {
        let is_temporary = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY));
        let is_lock = path.extension().is_some_and(|extension| extension == "lock") && key_name(&path).is_some();
        let is_old = metadata.modified().ok().and_then(|made| made.elapsed().ok()).is_some_and(|age| age > STALE);
        // Without its lock a compilation may be made twice, and that is all.
        if is_old && (is_temporary || is_lock) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn files(directory: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for file in listing {
        let file = file?;
        // One that is gone meanwhile is none.
        if let Ok(metadata) = file.metadata()
            && metadata.is_file()
        {
            files.push((file.path(), metadata));
        }
    }
    Ok(files)
}

/// A directory as a store uses it.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// What it was to hold at most when that was last said.
    bound: AtomicU64,
    /// Bytes written since it was last looked through; above the bound, until it was for the first time.
    grown: AtomicU64,
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Directory {
        Directory { path, bound: AtomicU64::new(u64::MAX), grown: AtomicU64::new(u64::MAX / 2) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Something was written, and the directory may hold no more than `bound`. Looks through it once a sixteenth of that has
    /// come, and makes so much room that it stays within its bound until it does so again.
    pub(crate) fn has_grown_by(&self, bytes: u64, bound: u64) {
        if self.bound.swap(bound, Ordering::Relaxed) > bound {
            self.grown.store(u64::MAX / 2, Ordering::Relaxed);
        }
        let bytes = bytes.max(BLOCK_BYTES);
        let slack = bound / 16;
        if self.grown.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < slack {
            return;
        }
        self.grown.store(0, Ordering::Relaxed);
        if let Err(error) = prune(&self.path, bound - slack) {
            tracing::warn!("artefact cache `{}` cannot be made smaller: {error}", self.path.display());
        }
    }

    /// The file of an artefact, once it is this process's turn to make it or it is there.
    pub(crate) fn entry(&self, key: Key, deadline: Deadline) -> io::Result<CacheEntry> {
        CacheEntry::lock(&self.path, key, Deadline::after(LOCK_DEADLINE).sooner(deadline))
    }
}

/// Makes sure that a directory is there and nobody else's.
fn secure(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(directory);
    let opened = opened.map_err(|error| match error.raw_os_error() {
        Some(raw)
            if raw == rustix::io::Errno::LOOP.raw_os_error() || raw == rustix::io::Errno::NOTDIR.raw_os_error() =>
        {
            io::Error::other("it is a symbolic link")
        }
        _ => error,
    })?;
    let metadata = opened.metadata()?;
    if !is_ours(&metadata) {
        return Err(io::Error::other("others than this user can write to it"));
    }
    if metadata.mode() & 0o077 != 0 {
        opened.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn is_ours(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

/// One file of the cache, locked against other processes.
pub(crate) struct CacheEntry {
    path: PathBuf,
    key: Key,
    lock: File,
    is_holder: bool,
}

impl CacheEntry {
    fn lock(directory: &Path, key: Key, deadline: Deadline) -> io::Result<CacheEntry> {
        secure(directory)?;
        let path = directory.join(key.hex()).with_extension(SUFFIX);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path.with_extension("lock"))?;
        let mut entry = CacheEntry { path, key, lock, is_holder: false };
        entry.is_holder = entry.wait_for_turn(deadline)?;
        Ok(entry)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the artefact is there, or nobody else is making it. Whether the lock is ours.
    fn wait_for_turn(&self, deadline: Deadline) -> io::Result<bool> {
        loop {
            match self.lock.try_lock() {
                Ok(()) => return Ok(true),
                Err(TryLockError::Error(error)) => return Err(error),
                // Whole artefacts appear at once, so one that is there can be read without the lock.
                Err(TryLockError::WouldBlock) if self.path.exists() => return Ok(false),
                Err(TryLockError::WouldBlock) if deadline.left().is_some_and(|left| left.is_zero()) => {
                    let waited = deadline.timeout();
                    return Err(io::Error::other(format!("another process has held its lock for {waited:?}")));
                }
                // The system tells nobody when a lock is free, short of waiting for it for ever.
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_PAUSE),
            }
        }
    }

    /// The artefact, if there is one and it is what was written. Marks it as used.
    pub(crate) fn read(&self) -> io::Result<Option<(Artefact, Shape)>> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_ours(&metadata) {
            return Err(io::Error::other("others than this user can write to it"));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header)?;
        let (magic, rest) = header.split_at(8);
        let (key, rest) = rest.split_at(32);
        let (digest, length) = rest.split_at(32);
        if magic != FILE_MAGIC || key != self.key.0 {
            return Err(io::Error::other("it is not the artefact that its name says"));
        }
        let length = length.iter().rev().fold(0, |length: usize, byte| length << 8 | usize::from(*byte));
        if length > MAX_FACTS_BYTES {
            return Err(io::Error::other("its header makes no sense"));
        }
        let mut facts = vec![0; length];
        file.read_exact(&mut facts)?;
        let mut hash = Sha256::new();
        hash.update(&header[HEADER_BYTES - 4..]);
        hash.update(&facts);
        let mut copy = File::from(memory("sandgate-artefact")?);
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            copy.write_all(&buffer[..count])?;
        }
        if hash.finalize().as_slice() != digest {
            return Err(io::Error::other("its bytes have changed"));
        }
        let (shape, description): (Shape, _) = postcard::from_bytes(&facts).map_err(io::Error::other)?;
        // On a file system that takes no times it is the oldest, and made anew once it is gone.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some((Artefact::seal(copy.into())?.with_description(description, shape.clone()), shape)))
    }

    /// Writes the artefact; whoever reads sees all of it or nothing.
    pub(crate) fn write(&self, artefact: &Artefact, shape: &Shape) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let facts = postcard::to_stdvec(&(shape, artefact.description())).map_err(io::Error::other)?;
        let length = u32::try_from(facts.len()).map_err(io::Error::other)?.to_le_bytes();
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
        file.write_all(&[0; HEADER_BYTES])?;
        file.write_all(&facts)?;
        let mut hash = Sha256::new();
        hash.update(length);
        hash.update(&facts);
        let mut buffer = vec![0; 128 * 1024];
        let mut at = 0;
        loop {
            let count = rustix::io::pread(artefact.memory(), &mut buffer, at)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count])?;
            at += count as u64;
        }
        let header = [&FILE_MAGIC[..], &self.key.0, &hash.finalize(), &length].concat();
        rustix::io::pwrite(&file, &header, 0)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// What the cache makes of a file that stands where an artefact belongs: its native code and its shape, if it takes it for
/// one. The file is what `make` makes of the entry's key.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_in_place(
    directory: &Path,
    make: impl FnOnce(&[u8; 32]) -> Vec<u8>,
) -> io::Result<Option<(Vec<u8>, Shape)>> {
    let key = Key(Sha256::digest(b"fuzz").into());
    let entry = CacheEntry::lock(directory, key, Deadline::NEVER)?;
    fs::write(&entry.path, make(&key.0))?;
    let Some((artefact, shape)) = entry.read()? else { return Ok(None) };
    // What the compiler said of the module is read when somebody asks.
    std::hint::black_box(artefact.described());
    let mut bytes = vec![0; usize::try_from(artefact.bytes()).map_err(io::Error::other)?];
    rustix::io::pread(artefact.memory(), &mut bytes[..], 0)?;
    Ok(Some((bytes, shape)))
}

impl Drop for CacheEntry {
    /// The lock is let go with the descriptor. Who waits for it holds a file that has no name any more, and finds the
    /// artefact; if there is none it makes one, perhaps at the same time as somebody else.
    fn drop(&mut self) {
        if self.is_holder {
            let _ = fs::remove_file(self.path.with_extension("lock"));
        }
    }
}

#[cfg(test)]
#[path = "tests/cache.rs"]
mod tests;

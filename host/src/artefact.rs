//! Artefacts: compiled modules as sealed shared memory, made once per module and machine.
//!
//! ```text
//!  get ──► in memory? ──► on disk? ──► compiler process ──► sealed memfd ──► every worker
//!              │              └ checked by its SHA-256, else made anew
//!              └ one caller per module looks or compiles; the others wait for it
//! ```
//!
//! The host copies an artefact's bytes and checks their hash. It never maps, parses or deserialises them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sandgate_wire::isolation::Policy;
use sandgate_wire::message::Codegen;
use sandgate_wire::{ModuleLimits, Profile};
use sha2::{Digest, Sha256};

use crate::compile::compile;
use crate::deadline::Deadline;
use crate::error::{CompileError, ExecError};
use crate::module::Module;

/// Opens an artefact file; changes with its layout.
const FILE_MAGIC: [u8; 8] = *b"SGARTEF1";
/// Most artefacts kept in memory by one process.
const MAX_IN_MEMORY: usize = 256;
/// How long another process may take to make an artefact before this one makes its own.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Names the directory of the artefact cache.
pub const CACHE_VARIABLE: &str = "SANDGATE_CACHE";

/// A compiled module in sealed memory.
#[derive(Debug)]
pub(crate) struct Artefact {
    memory: OwnedFd,
    bytes: u64,
}

impl Artefact {
    /// Seals memory that nobody writes any more.
    pub(crate) fn seal(memory: OwnedFd) -> io::Result<Artefact> {
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let bytes = rustix::fs::fstat(&memory)?.st_size.unsigned_abs();
        Ok(Artefact { memory, bytes })
    }

    /// Another descriptor of the same memory.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.memory.try_clone()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// New memory that can be sealed.
pub(crate) fn memory(name: &str) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// What an artefact is made from; it is used for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key([u8; 32]);

impl Key {
    fn of(module: &Module, engine: &str, codegen: Codegen, tenant: Option<&str>) -> Key {
        let mut hash = Sha256::new();
        hash.update(FILE_MAGIC);
        hash.update(module.id().0);
        hash.update(engine);
        hash.update(codegen.name());
        if let Some(tenant) = tenant {
            // Of a fixed length, so that no tenant's name together with an engine's makes another's.
            hash.update(b"tenant");
            hash.update(Sha256::digest(tenant));
        }
        Key(hash.finalize().into())
    }

    fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The artefacts of one process, and the directory it shares with others.
#[derive(Debug)]
pub(crate) struct ArtefactStore {
    directory: Option<PathBuf>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Key, (u64, Arc<Slot>)>,
    clock: u64,
}

/// A compiled module that somebody asks for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) module: &'a Module,
    /// The engine it is for.
    pub(crate) engine: &'a str,
    pub(crate) codegen: Codegen,
    pub(crate) limits: &'a ModuleLimits,
    pub(crate) profile: Profile,
    pub(crate) policy: &'a Policy,
    /// Whom it is for: nobody else gets it, or learns that it is there.
    pub(crate) tenant: Option<&'a str>,
    /// The executable that becomes the compiler, if the caller names one.
    pub(crate) worker: Option<&'a Path>,
    /// Until when the caller waits.
    pub(crate) deadline: Deadline,
}

impl Wanted<'_> {
    pub(crate) fn failed(&self, source: CompileError) -> ExecError {
        ExecError::Compile { module: self.module.name().to_owned(), source }
    }

    fn timed_out(&self) -> ExecError {
        self.failed(CompileError::Timeout(self.deadline.timeout()))
    }
}

/// The stores of this process, by directory and tenant.
type Stores = HashMap<(Option<PathBuf>, Option<Arc<str>>), Arc<ArtefactStore>>;

/// Locked by the one caller that looks or compiles.
type Slot = Mutex<Option<Arc<Artefact>>>;

impl ArtefactStore {
    /// The store of a directory, or of memory alone. All groups of a process that name the same directory and the same tenant
    /// share it.
    pub(crate) fn shared(directory: Option<PathBuf>, tenant: Option<Arc<str>>) -> Arc<ArtefactStore> {
        static STORES: OnceLock<Mutex<Stores>> = OnceLock::new();
        let mut stores = STORES.get_or_init(Mutex::default).lock();
        let store = stores.entry((directory.clone(), tenant));
        Arc::clone(store.or_insert_with(|| Arc::new(ArtefactStore { directory, slots: Mutex::default() })))
    }

    /// A store that holds a ready-made artefact for one module, so that no compiler is needed.
    #[cfg(test)]
    pub(crate) fn holding(module: &Module, engine: &str) -> Arc<ArtefactStore> {
        let mut file = File::from(memory("test").expect("memory for an artefact"));
        file.write_all(b"native code").expect("memory takes bytes");
        let artefact = Artefact::seal(file.into()).expect("memory can be sealed");
        let store = ArtefactStore { directory: None, slots: Mutex::default() };
        let slot = store.slots.lock().slot(Key::of(module, engine, Codegen::default(), None));
        *slot.lock() = Some(Arc::new(artefact));
        Arc::new(store)
    }

    /// The directory used when nothing else is said: `$SANDGATE_CACHE`, else `sandgate` in the user's cache directory.
    pub(crate) fn default_directory() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set(CACHE_VARIABLE)
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("sandgate")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/sandgate")))
    }

    /// The artefact of a module. Blocks while it is compiled, here or by another process of this machine.
    pub(crate) fn get(&self, wanted: &Wanted<'_>) -> Result<Arc<Artefact>, ExecError> {
        let key = Key::of(wanted.module, wanted.engine, wanted.codegen, wanted.tenant);
        let slot = self.slots.lock().slot(key);
        let mut artefact = match wanted.deadline.at() {
            None => slot.lock(),
            Some(at) => slot.try_lock_until(at).ok_or_else(|| wanted.timed_out())?,
        };
        if let Some(artefact) = &*artefact {
            return Ok(Arc::clone(artefact));
        }
        let made = Arc::new(self.find_or_compile(key, wanted)?);
        *artefact = Some(Arc::clone(&made));
        Ok(made)
    }

    fn find_or_compile(&self, key: Key, wanted: &Wanted<'_>) -> Result<Artefact, ExecError> {
        let Some(directory) = &self.directory else { return compile(wanted) };
        // A cache that cannot be used costs time, not the task.
        let entry = match CacheEntry::lock(directory, key, Deadline::after(LOCK_DEADLINE).sooner(wanted.deadline)) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!("artefact cache `{}` is not used: {error}", directory.display());
                return compile(wanted);
            }
        };
        match entry.read() {
            Ok(Some(artefact)) => return Ok(artefact),
            Ok(None) => {}
            Err(error) => tracing::warn!("artefact `{}` is made anew: {error}", entry.path.display()),
        }
        let artefact = compile(wanted)?;
        if let Err(error) = entry.write(&artefact) {
            tracing::warn!("artefact `{}` is not kept: {error}", entry.path.display());
        }
        Ok(artefact)
    }
}

impl Slots {
    fn slot(&mut self, key: Key) -> Arc<Slot> {
        self.clock += 1;
        let clock = self.clock;
        if self.by_key.len() >= MAX_IN_MEMORY && !self.by_key.contains_key(&key) {
            let oldest = self.by_key.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.map(|oldest| self.by_key.remove(&oldest));
        }
        let (used, slot) = self.by_key.entry(key).or_default();
        *used = clock;
        Arc::clone(slot)
    }
}

/// One file of the cache, locked against other processes.
struct CacheEntry {
    path: PathBuf,
    key: Key,
    lock: File,
}

impl CacheEntry {
    fn lock(directory: &Path, key: Key, deadline: Deadline) -> io::Result<CacheEntry> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let metadata = fs::metadata(directory)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("others than this user can write to it"));
        }
        let path = directory.join(format!("{}.artefact", key.hex()));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.with_extension("lock"))?;
        let entry = CacheEntry { path, key, lock };
        entry.wait_for_turn(deadline)?;
        Ok(entry)
    }

    /// Waits until the artefact is there, or nobody else is making it.
    fn wait_for_turn(&self, deadline: Deadline) -> io::Result<()> {
        loop {
            match self.lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(error),
                // Whole artefacts appear at once, so one that is there can be read without the lock.
                Err(TryLockError::WouldBlock) if self.path.exists() => return Ok(()),
                Err(TryLockError::WouldBlock) if deadline.left().is_some_and(|left| left.is_zero()) => {
                    let waited = deadline.timeout();
                    return Err(io::Error::other(format!("another process has held its lock for {waited:?}")));
                }
                // The system tells nobody when a lock is free, short of waiting for it for ever.
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_PAUSE),
            }
        }
    }

    /// The artefact, if there is one and it is what was written.
    fn read(&self) -> io::Result<Option<Artefact>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut header = [0; 72];
        file.read_exact(&mut header)?;
        let (magic, rest) = header.split_at(8);
        let (key, digest) = rest.split_at(32);
        if magic != FILE_MAGIC || key != self.key.0 {
            return Err(io::Error::other("it is not the artefact that its name says"));
        }
        let mut copy = File::from(memory("sandgate-artefact")?);
        let mut hash = Sha256::new();
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
        Artefact::seal(copy.into()).map(Some)
    }

    /// Writes the artefact; whoever reads sees all of it or nothing.
    fn write(&self, artefact: &Artefact) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&[0; 72])?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut at = 0;
        loop {
            let count = rustix::io::pread(&artefact.memory, &mut buffer, at)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count])?;
            at += count as u64;
        }
        let mut header = FILE_MAGIC.to_vec();
        header.extend_from_slice(&self.key.0);
        header.extend_from_slice(&hash.finalize());
        rustix::io::pwrite(&file, &header, 0)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Memory that holds a module, for the compiler to read.
pub(crate) fn module_memory(module: &Module) -> Result<OwnedFd, CompileError> {
    let make = || {
        let mut file = File::from(memory("sandgate-module")?);
        file.write_all(module.bytes())?;
        Ok(Artefact::seal(file.into())?.memory)
    };
    make().map_err(CompileError::Memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artefact(bytes: &[u8]) -> Artefact {
        let mut file = File::from(memory("test").unwrap());
        file.write_all(bytes).unwrap();
        Artefact::seal(file.into()).unwrap()
    }

    fn content(artefact: &Artefact) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 20];
        let count = rustix::io::pread(&artefact.memory, &mut buffer, 0).unwrap();
        buffer.truncate(count);
        buffer
    }

    fn keys() -> (Key, Key) {
        let module = Module::from_bytes(*b"module").unwrap();
        let of = |engine| Key::of(&module, engine, Codegen::default(), None);
        (of("engine a"), of("engine b"))
    }

    #[test]
    fn tenants_share_neither_keys_nor_memory() {
        let module = Module::from_bytes(*b"module").unwrap();
        let keys = [None, Some(""), Some("a"), Some("b")].map(|it| Key::of(&module, "e", Codegen::default(), it));
        for (position, key) in keys.iter().enumerate() {
            assert!(!keys[..position].contains(key), "key {position} is another's");
        }
        let store = |tenant: Option<&str>| ArtefactStore::shared(None, tenant.map(Arc::from));
        assert!(Arc::ptr_eq(&store(Some("a")), &store(Some("a"))));
        assert!(!Arc::ptr_eq(&store(Some("a")), &store(Some("b"))) && !Arc::ptr_eq(&store(Some("a")), &store(None)));
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (key, other) = keys();
        let entry = CacheEntry::lock(directory.path(), key, Deadline::NEVER).unwrap();
        assert!(entry.read().unwrap().is_none());
        entry.write(&artefact(b"native code")).unwrap();
        assert_eq!(content(&entry.read().unwrap().unwrap()), b"native code");
        let second = CacheEntry::lock(directory.path(), other, Deadline::NEVER).unwrap();
        assert!(second.read().unwrap().is_none(), "an artefact serves its own engine only");
        fs::copy(&entry.path, &second.path).unwrap();
        assert!(second.read().is_err(), "renaming does not help");
    }

    #[test]
    fn a_changed_or_cut_file_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let entry = CacheEntry::lock(directory.path(), keys().0, Deadline::NEVER).unwrap();
        entry.write(&artefact(b"native code")).unwrap();
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
    }

    #[test]
    fn a_lock_that_nobody_gives_back_is_no_matter_once_the_artefact_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let key = keys().0;
        let maker = CacheEntry::lock(directory.path(), key, Deadline::NEVER).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope
                .spawn(|| CacheEntry::lock(directory.path(), key, Deadline::NEVER).unwrap().read().unwrap().unwrap());
            maker.write(&artefact(b"native code")).unwrap();
            assert_eq!(content(&waiting.join().unwrap()), b"native code");
        });
        fs::remove_file(&maker.path).unwrap();
        let error = CacheEntry::lock(directory.path(), key, Deadline::after(Duration::ZERO)).err().unwrap();
        assert!(error.to_string().contains("another process has held its lock"), "{error}");
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(CacheEntry::lock(directory.path(), keys().0, Deadline::NEVER).is_err());
    }

    #[test]
    fn memory_is_bounded_by_the_least_recently_used() {
        let mut slots = Slots::default();
        let key = |number: usize| Key(Sha256::digest(number.to_le_bytes()).into());
        let first = slots.slot(key(0));
        for number in 1..MAX_IN_MEMORY {
            slots.slot(key(number));
        }
        assert!(Arc::ptr_eq(&first, &slots.slot(key(0))));
        slots.slot(key(MAX_IN_MEMORY));
        assert_eq!(slots.by_key.len(), MAX_IN_MEMORY);
        assert!(slots.by_key.contains_key(&key(0)) && !slots.by_key.contains_key(&key(1)));
    }

    #[test]
    fn an_artefact_cannot_be_changed() {
        let artefact = artefact(b"native code");
        assert!(rustix::io::write(&artefact.memory, b"x").is_err());
    }
}

//! Artefacts: compiled modules as sealed shared memory, made once per module and machine.
//!
//! ```text
//!  get ──► in memory? ──► on disk? ──► compiler process ──► sealed memfd ──► every worker
//!              │              └ checked by its SHA-256, else made anew
//!              └ one caller per module looks or compiles; the others wait for it
//! ```
//!
//! The host copies an artefact's bytes and checks their hash. It never maps, parses or deserialises them. What the module
//! turned out to be stands with it, and is held against the limits and the profile of each caller. Snapshots of modules are
//! kept in the same way, under keys of their own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sandgate_wire::isolation::Policy;
use sandgate_wire::message::Codegen;
use sandgate_wire::module_limits::{ModuleLimitName, Shape};
use sandgate_wire::outcome::Rejection;
use sandgate_wire::{ModuleLimits, Profile};
use sha2::{Digest, Sha256};

use crate::cache::Directory;
use crate::compile::{check, compile};
use crate::deadline::Deadline;
use crate::error::{CompileError, ExecError};
use crate::module::Module;
use crate::schema::ModuleDescription;

/// Most artefacts kept in memory by one process, and most bytes of them. Workers that have them keep them.
const MAX_IN_MEMORY: usize = 256;
const MAX_IN_MEMORY_BYTES: u64 = 1 << 30;

/// A compiled module in sealed memory.
#[derive(Debug)]
pub(crate) struct Artefact {
    memory: OwnedFd,
    bytes: u64,
    /// What its module says of itself, encoded, and decoded once somebody asks.
    description: Vec<u8>,
    /// What its module measures.
    shape: Shape,
    described: OnceLock<Option<Box<ModuleDescription>>>,
}

impl Artefact {
    /// Seals memory that nobody writes any more.
    pub(crate) fn seal(memory: OwnedFd) -> io::Result<Artefact> {
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let bytes = rustix::fs::fstat(&memory)?.st_size.unsigned_abs();
        Ok(Artefact { memory, bytes, description: Vec::new(), shape: Shape::default(), described: OnceLock::new() })
    }

    /// Memory that stands for an artefact of another machine, which has so many bytes.
    pub(crate) fn elsewhere(ticket: OwnedFd, bytes: u64) -> Artefact {
        let (description, described) = (Vec::new(), OnceLock::new());
        Artefact { memory: ticket, bytes, description, shape: Shape::default(), described }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn with_description(self, description: Vec<u8>, shape: Shape) -> Artefact {
        Artefact { description, shape, ..self }
    }

    pub(crate) fn description(&self) -> &[u8] {
        &self.description
    }

    /// What its module says of itself, if that can be read.
    pub(crate) fn described(&self) -> Option<&ModuleDescription> {
        let read = || ModuleDescription::read(&self.description, self.shape.clone()).map(Box::new);
        self.described.get_or_init(read).as_deref()
    }

    /// Another descriptor of the same memory.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.memory.try_clone()
    }

    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A copy of what is in it.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.bytes).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::pread(&self.memory, &mut bytes[filled..], filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(bytes)
    }
}

/// New memory that can be sealed.
pub(crate) fn memory(name: &str) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// What an artefact is made from; it is used for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) [u8; 32]);

impl Key {
    pub(crate) fn of(module: &Module, engine: &str, codegen: Codegen, tenant: Option<&str>) -> Key {
        let mut hash = Sha256::new();
        let (has_tenant, tenant) = ([u8::from(tenant.is_some())], tenant.unwrap_or_default());
        let parts = [&module.id().0[..], engine.as_bytes(), codegen.name().as_bytes(), &has_tenant, tenant.as_bytes()];
        // A worker says what its engine is called, so it must not be able to write into the other parts.
        add_parts(&mut hash, &parts);
        Key(hash.finalize().into())
    }

    /// That of a snapshot. `settings` is whatever else can change it.
    pub(crate) fn of_snapshot(module: &Module, init: &str, input: &[u8], settings: &[u8], tenant: Option<&str>) -> Key {
        let mut hash = Sha256::new();
        let (has_tenant, tenant) = ([u8::from(tenant.is_some())], tenant.unwrap_or_default());
        // The first part is not as long as a module's id, so no artefact has this key.
        let version = concat!("snapshot ", env!("CARGO_PKG_VERSION")).as_bytes();
        let id = &module.id().0[..];
        let parts = [version, id, init.as_bytes(), input, settings, &has_tenant, tenant.as_bytes()];
        add_parts(&mut hash, &parts);
        Key(hash.finalize().into())
    }

    pub(crate) fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// So that where one part ends and the next begins is part of the hash.
fn add_parts(hash: &mut Sha256, parts: &[&[u8]]) {
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
}

/// The artefacts of one process, and the directory it shares with others.
#[derive(Debug)]
pub(crate) struct ArtefactStore {
    directory: Option<Directory>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Key, Held>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Held {
    used: u64,
    bytes: u64,
    slot: Arc<Slot>,
}

/// A compiled module that somebody asks for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) module: &'a Module,
    /// The engine it is for.
    pub(crate) engine: &'a str,
    pub(crate) codegen: Codegen,
    /// For whom it is compiled: one tenant's artefacts serve no other.
    pub(crate) tenant: Option<&'a str>,
    pub(crate) limits: &'a ModuleLimits,
    pub(crate) profile: Profile,
    pub(crate) policy: &'a Policy,
    /// The executable that becomes the compiler, if the caller names one.
    pub(crate) worker: Option<&'a Path>,
    /// Until when the caller waits.
    pub(crate) deadline: Deadline,
}

impl Wanted<'_> {
    pub(crate) fn failed(&self, source: CompileError) -> ExecError {
        ExecError::Compile { module: self.module.name().to_owned(), source }
    }

    pub(crate) fn rejected(&self, reason: Rejection) -> ExecError {
        ExecError::Rejected { module: self.module.name().to_owned(), reason }
    }

    pub(crate) fn timed_out(&self) -> ExecError {
        self.failed(CompileError::Timeout(self.deadline.timeout()))
    }
}

/// The stores of this process, by directory and tenant.
type Stores = HashMap<(Option<PathBuf>, Option<Arc<str>>), Arc<ArtefactStore>>;

/// Locked by the one caller that looks or compiles.
type Slot = Mutex<Known>;

/// What is known of a module.
#[derive(Debug, Default)]
struct Known {
    made: Option<(Arc<Artefact>, Shape)>,
    /// Why it was not compiled the last time, and under which limits.
    refused: Option<(Rejection, ModuleLimits, Profile)>,
}

impl ArtefactStore {
    /// The store of a directory, or of memory alone. All groups of a process that name the same directory and the same tenant
    /// share it.
    pub(crate) fn shared(directory: Option<PathBuf>, tenant: Option<Arc<str>>) -> Arc<ArtefactStore> {
        static STORES: OnceLock<Mutex<Stores>> = OnceLock::new();
        let mut stores = STORES.get_or_init(Mutex::default).lock();
        let store = stores.entry((directory.clone(), tenant)).or_insert_with(|| {
            let directory = directory.map(Directory::new);
            Arc::new(ArtefactStore { directory, slots: Mutex::default() })
        });
        Arc::clone(store)
    }

    /// A store that holds a ready-made artefact for one module, so that no compiler is needed.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn holding(module: &Module, engine: &str) -> Arc<ArtefactStore> {
        let mut file = File::from(memory("test").expect("memory for an artefact"));
        file.write_all(b"native code").expect("memory takes bytes");
        let artefact = Artefact::seal(file.into()).expect("memory can be sealed");
        let store = ArtefactStore { directory: None, slots: Mutex::default() };
        let slot = store.slots.lock().slot(Key::of(module, engine, Codegen::default(), None));
        slot.lock().made = Some((Arc::new(artefact), Shape::default()));
        Arc::new(store)
    }

    /// The artefact of a module. Blocks while it is made by `make`, or by another process of this machine.
    pub(crate) fn get_or(
        &self,
        wanted: &Wanted<'_>,
        make: impl FnOnce() -> Result<(Artefact, Shape), ExecError>,
    ) -> Result<Arc<Artefact>, ExecError> {
        let found = wanted.module.bytes().len() as u64;
        if found > wanted.limits.module_bytes {
            let (limit, value) = (ModuleLimitName::ModuleBytes, wanted.limits.module_bytes);
            return Err(wanted.rejected(Rejection::ModuleLimit { limit, found, value, item: String::new() }));
        }
        let key = Key::of(wanted.module, wanted.engine, wanted.codegen, wanted.tenant);
        let slot = self.slots.lock().slot(key);
        let mut known = match wanted.deadline.at() {
            None => slot.lock(),
            Some(at) => slot.try_lock_until(at).ok_or_else(|| wanted.timed_out())?,
        };
        if let Some((artefact, shape)) = &known.made {
            check(shape, wanted).map_err(|reason| wanted.rejected(reason))?;
            return Ok(Arc::clone(artefact));
        }
        if let Some((reason, limits, profile)) = &known.refused
            && limits == wanted.limits
            && *profile == wanted.profile
        {
            return Err(wanted.rejected(reason.clone()));
        }
        let (artefact, shape) = match self.find_or_make(key, wanted.deadline, wanted.limits.cache_bytes, make) {
            Ok(made) => made,
            Err(error) => {
                if let ExecError::Rejected { reason, .. } = &error
                    && will_be_said_again(reason)
                {
                    known.refused = Some((reason.clone(), wanted.limits.clone(), wanted.profile));
                }
                return Err(error);
            }
        };
        let artefact = Arc::new(artefact);
        *known = Known { made: Some((Arc::clone(&artefact), shape.clone())), refused: None };
        drop(known);
        self.slots.lock().holds(key, artefact.bytes());
        check(&shape, wanted).map_err(|reason| wanted.rejected(reason))?;
        Ok(artefact)
    }

    /// The snapshot of this key, taken if there is none. Blocks while it is, here or by another process of this machine.
    /// `None` if somebody else takes it beyond the deadline.
    pub(crate) fn snapshot<E>(
        &self,
        key: Key,
        deadline: Deadline,
        cache_bytes: u64,
        take: impl FnOnce() -> Result<Artefact, E>,
    ) -> Result<Option<Arc<Artefact>>, E> {
        let slot = self.slots.lock().slot(key);
        let known = match deadline.at() {
            None => Some(slot.lock()),
            Some(at) => slot.try_lock_until(at),
        };
        let Some(mut known) = known else { return Ok(None) };
        if let Some((artefact, _)) = &known.made {
            return Ok(Some(Arc::clone(artefact)));
        }
        let make = || take().map(|artefact| (artefact, Shape::default()));
        let (artefact, shape) = self.find_or_make(key, deadline, cache_bytes, make)?;
        let artefact = Arc::new(artefact);
        known.made = Some((Arc::clone(&artefact), shape));
        drop(known);
        self.slots.lock().holds(key, artefact.bytes());
        Ok(Some(artefact))
    }

    fn find_or_make<E>(
        &self,
        key: Key,
        deadline: Deadline,
        cache_bytes: u64,
        make: impl FnOnce() -> Result<(Artefact, Shape), E>,
    ) -> Result<(Artefact, Shape), E> {
        let Some(directory) = &self.directory else { return make() };
        // A cache that cannot be used costs time, not the task.
        let entry = match directory.entry(key, deadline) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!("artefact cache `{}` is not used: {error}", directory.path().display());
                return make();
            }
        };
        match entry.read() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => tracing::warn!("artefact `{}` is made anew: {error}", entry.path().display()),
        }
        let (artefact, shape) = make()?;
        if let Err(error) = entry.write(&artefact, &shape) {
            tracing::warn!("artefact `{}` is not kept: {error}", entry.path().display());
        }
        drop(entry);
        directory.has_grown_by(artefact.bytes(), cache_bytes);
        Ok((artefact, shape))
    }
}

/// Whatever has compiled modules for the workers of a gateway.
pub(crate) trait ArtefactSource: std::fmt::Debug + Send + Sync {
    /// The artefact of a module. Blocks while it is made.
    fn get(&self, wanted: &Wanted<'_>) -> Result<Arc<Artefact>, ExecError>;
}

impl ArtefactSource for ArtefactStore {
    fn get(&self, wanted: &Wanted<'_>) -> Result<Arc<Artefact>, ExecError> {
        self.get_or(wanted, || compile(wanted))
    }
}

/// Whether a compiler would refuse the module for the same reason again, however busy the machine is.
fn will_be_said_again(reason: &Rejection) -> bool {
    use ModuleLimitName::{CompileMemory, CompileTime};
    !matches!(reason, Rejection::Compilation { .. } | Rejection::ModuleLimit { limit: CompileTime | CompileMemory, .. })
}

impl Slots {
    fn slot(&mut self, key: Key) -> Arc<Slot> {
        self.clock += 1;
        let clock = self.clock;
        if self.by_key.len() >= MAX_IN_MEMORY && !self.by_key.contains_key(&key) {
            self.forget_oldest(key);
        }
        let held = self.by_key.entry(key).or_default();
        held.used = clock;
        Arc::clone(&held.slot)
    }

    /// This slot has an artefact of so many bytes now, for which others may have to go.
    fn holds(&mut self, key: Key, bytes: u64) {
        if let Some(held) = self.by_key.get_mut(&key) {
            held.bytes = bytes;
        }
        while self.by_key.len() > 1 && self.by_key.values().map(|held| held.bytes).sum::<u64>() > MAX_IN_MEMORY_BYTES {
            self.forget_oldest(key);
        }
    }

    fn forget_oldest(&mut self, but: Key) {
        let others = self.by_key.iter().filter(|(key, _)| **key != but);
        let oldest = others.min_by_key(|(_, held)| held.used).map(|(key, _)| *key);
        oldest.map(|oldest| self.by_key.remove(&oldest));
    }
}

/// Memory that holds these bytes one after the other, for another process to read.
pub(crate) fn sealed_memory(name: &str, parts: &[&[u8]]) -> Result<OwnedFd, CompileError> {
    let make = || {
        let mut file = File::from(memory(name)?);
        parts.iter().try_for_each(|part| file.write_all(part))?;
        Ok(Artefact::seal(file.into())?.memory)
    };
    make().map_err(CompileError::Memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_share_neither_keys_nor_memory() {
        let module = Module::from_bytes(*b"module").unwrap();
        let tenants = [None, Some(""), Some("\0"), Some("a"), Some("b")];
        let keys = tenants.map(|it| Key::of(&module, "e", Codegen::default(), it));
        for (position, key) in keys.iter().enumerate() {
            assert!(!keys[..position].contains(key), "key {position} is another's");
        }
        let store = |tenant: Option<&str>| ArtefactStore::shared(None, tenant.map(Arc::from));
        assert!(Arc::ptr_eq(&store(Some("a")), &store(Some("a"))));
        assert!(!Arc::ptr_eq(&store(Some("a")), &store(Some("b"))) && !Arc::ptr_eq(&store(Some("a")), &store(None)));
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
        slots.holds(key(0), MAX_IN_MEMORY_BYTES / 2);
        slots.holds(key(9), MAX_IN_MEMORY_BYTES / 2);
        assert_eq!(slots.by_key.len(), MAX_IN_MEMORY);
        slots.slot(key(0));
        slots.holds(key(10), 1);
        assert!(slots.by_key.contains_key(&key(0)) && !slots.by_key.contains_key(&key(9)));
        slots.holds(key(10), u64::MAX / 2);
        assert_eq!(slots.by_key.len(), 1, "an artefact that is too large is alone");
    }

    #[test]
    fn a_key_is_that_of_all_its_parts() {
        let module = Module::from_bytes(*b"module").unwrap();
        let of = |engine, codegen, tenant| Key::of(&module, engine, codegen, tenant);
        let mut keys = vec![
            of("a", Codegen::Interruptible, None),
            of("b", Codegen::Interruptible, None),
            of("a", Codegen::Metered, None),
            of("a", Codegen::Interruptible, Some("")),
            of("a", Codegen::Interruptible, Some("x")),
            of("ainterruptible", Codegen::Interruptible, None),
            Key::of(&Module::from_bytes(*b"other").unwrap(), "a", Codegen::Interruptible, None),
        ];
        keys.sort_by_key(|key| key.0);
        keys.dedup();
        assert_eq!(keys.len(), 7);
    }

    #[test]
    fn an_artefact_cannot_be_changed() {
        let mut file = File::from(memory("test").unwrap());
        file.write_all(b"native code").unwrap();
        let artefact = Artefact::seal(file.into()).unwrap();
        assert!(rustix::io::write(&artefact.memory, b"x").is_err());
    }
}

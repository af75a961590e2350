//! A module: bytes and their identity. Nothing here looks into them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sandgate_wire::ModuleId;
use sha2::{Digest, Sha256};

use crate::error::ModuleError;

/// Code to run: a WebAssembly module for `wasm32-wasip1`, named by the SHA-256 of its bytes.
///
/// Cheap to clone. Nothing is compiled or checked here; that happens in a process of its own when the module is first
/// executed, once per machine.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    id: ModuleId,
    bytes: Bytes,
    name: String,
}

impl Module {
    /// Reads a module from a file. Later changes of the file do not matter.
    ///
    /// # Errors
    /// [`ModuleError`] if the file cannot be read or is empty.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Module, ModuleError> {
        Module::from_file_up_to(path, u64::MAX)
    }

    /// Reads a module from a file that has at most `maximum` bytes. No more of it than that is held, so that a file without
    /// an end, such as a device, is an error.
    ///
    /// # Errors
    /// [`ModuleError`] if the file cannot be read, is empty or has more bytes.
    pub fn from_file_up_to(path: impl AsRef<Path>, maximum: u64) -> Result<Module, ModuleError> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let failed = |source| ModuleError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut bytes = Vec::new();
        if length <= maximum {
            file.take(maximum.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        }
        if length.max(bytes.len() as u64) > maximum {
            return Err(ModuleError::TooLarge { name, maximum });
        }
        Module::new(name, bytes.into())
    }

    /// A module from its bytes.
    ///
    /// # Errors
    /// [`ModuleError::Empty`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Module, ModuleError> {
        Module::new("<bytes>".to_owned(), Bytes::from(bytes.into()))
    }

    fn new(name: String, bytes: Bytes) -> Result<Module, ModuleError> {
        if bytes.is_empty() {
            return Err(ModuleError::Empty { name });
        }
        Ok(Module::of(name, bytes))
    }

    /// A module of bytes that are some.
    pub(crate) fn of(name: String, bytes: Bytes) -> Module {
        let id = ModuleId(Sha256::digest(&bytes).into());
        Module { inner: Arc::new(Inner { id, bytes, name }) }
    }

    /// The same module by another name.
    pub(crate) fn named(&self, name: &str) -> Module {
        let Inner { id, bytes, .. } = &*self.inner;
        Module { inner: Arc::new(Inner { id: *id, bytes: bytes.clone(), name: name.to_owned() }) }
    }

    /// Stands for a module whose bytes are elsewhere.
    pub(crate) fn absent(id: ModuleId, name: String) -> Module {
        Module { inner: Arc::new(Inner { id, bytes: Bytes::new(), name }) }
    }

    /// The SHA-256 of the bytes.
    pub fn id(&self) -> ModuleId {
        self.inner.id
    }

    /// The file's name, or `<bytes>`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The module's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.inner.bytes
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Module {} {:?}>", self.inner.name, self.inner.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_by_its_bytes() {
        let module = Module::from_bytes(*b"abc").unwrap();
        assert_eq!(module.id().to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(module.id(), Module::from_bytes(*b"abc").unwrap().id());
    }

    #[test]
    fn a_missing_or_empty_file_is_an_error_that_names_it() {
        let error = Module::from_file("/nonexistent/x.wasm").unwrap_err();
        assert_eq!(error.to_string(), "cannot read module `/nonexistent/x.wasm`");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Module::from_file(file.path()), Err(ModuleError::Empty { .. })));
        std::fs::write(file.path(), "1234").unwrap();
        assert_eq!(Module::from_file_up_to(file.path(), 4).unwrap().bytes(), b"1234");
        assert!(matches!(Module::from_file_up_to(file.path(), 3), Err(ModuleError::TooLarge { maximum: 3, .. })));
        assert!(matches!(Module::from_file_up_to("/dev/zero", 3), Err(ModuleError::TooLarge { maximum: 3, .. })));
    }
}

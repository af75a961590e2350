//! Modules in the object store, by the SHA-256 of their bytes. What comes out of it is hashed before it is anything.

use std::time::Duration;

use async_nats::jetstream::object_store::{GetErrorKind, InfoErrorKind, ObjectMetadata, ObjectStore};
use sandgate_wire::ModuleId;
use sandgate_wire::text::printable;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::error::{Cause, DurableError};
use super::message::cut;
use super::nats::{Attempts, Nats};
use crate::module::Module;

/// How long one transfer may take.
const TRANSFER: Duration = Duration::from_secs(120);
/// How often a module that is not what it should be is fetched again: it might be just being replaced.
const FETCHES: u32 = 3;
/// What a module is cut into, if the server takes such messages, and what a message takes besides.
const CHUNK_BYTES: usize = 128 << 10;
const CHUNK_OVERHEAD: usize = 1 << 10;
/// The longest name of a module that is kept.
const MAX_NAME_BYTES: usize = 256;

fn name_of(module: ModuleId) -> String {
    module.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn bucket(nats: &Nats) -> Result<ObjectStore, DurableError> {
    let mut attempts = Attempts::new(nats, "open the object store");
    loop {
        match nats.context.get_object_store(nats.names.modules()).await {
            Ok(bucket) => return Ok(bucket),
            Err(error) if Cause::of(&error).to_string().contains("not found") => {
                return Err(DurableError::Refused { doing: "open the object store", source: Cause::of(&error) });
            }
            Err(_) => attempts.again(true).await?,
        }
    }
}

/// Puts a module there, if it is not.
pub(super) async fn put(nats: &Nats, module: &Module) -> Result<(), DurableError> {
    let doing = "store the module";
    let (bucket, name) = (bucket(nats).await?, name_of(module.id()));
    let mut attempts = Attempts::new(nats, doing);
    loop {
        match bucket.info(&name).await {
            // One that is something else is put right here, by who has it.
            Ok(info) if !info.deleted && get_once(nats, module.id(), module.bytes().len() as u64).await.is_ok() => {
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if error.kind() == InfoErrorKind::NotFound => {}
            Err(_) => {
                attempts.again(true).await?;
                continue;
            }
        }
        let meta = ObjectMetadata {
            name: name.clone(),
            chunk_size: Some(CHUNK_BYTES.min(nats.max_payload().saturating_sub(CHUNK_OVERHEAD).max(1))),
            description: Some(cut(&printable(module.name()), MAX_NAME_BYTES).to_owned()),
            ..ObjectMetadata::default()
        };
        let mut bytes = module.bytes();
        match timeout(TRANSFER, bucket.put(meta, &mut bytes)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) | Err(_) => attempts.again(true).await?,
        }
    }
}

/// The module with this hash, of at most `maximum` bytes.
pub(super) async fn get(nats: &Nats, id: ModuleId, name: &str, maximum: u64) -> Result<Module, DurableError> {
    let mut attempts = Attempts::new(nats, "give the module");
    let mut fetched = 0;
    loop {
        match get_once(nats, id, maximum).await {
            Ok(bytes) => return Ok(Module::of(cut(name, MAX_NAME_BYTES).to_owned(), bytes.into())),
            Err(Some(error @ DurableError::LargeModule { .. })) => return Err(error),
            Err(Some(error)) => {
                fetched += 1;
                if fetched >= FETCHES {
                    return Err(error);
                }
            }
            Err(None) => {}
        }
        attempts.again(true).await?;
    }
}

/// `None` is the server's or the network's fault.
async fn get_once(nats: &Nats, id: ModuleId, maximum: u64) -> Result<Vec<u8>, Option<DurableError>> {
    let bucket = bucket(nats).await.map_err(Some)?;
    let mut object = match bucket.get(name_of(id)).await {
        Ok(object) => object,
        Err(error) if error.kind() == GetErrorKind::NotFound => {
            return Err(Some(DurableError::NoModule { module: id }));
        }
        Err(error) if error.kind() == GetErrorKind::BucketLink => {
            return Err(Some(DurableError::OtherModule { module: id }));
        }
        Err(_) => return Err(None),
    };
    if object.info().size as u64 > maximum {
        return Err(Some(DurableError::LargeModule { module: id, maximum }));
    }
    let mut bytes = Vec::new();
    let mut limited = (&mut object).take(maximum.saturating_add(1));
    match timeout(TRANSFER, limited.read_to_end(&mut bytes)).await {
        Ok(Ok(_)) => {}
        // The library compares with the digest that the store itself has of it.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(Some(DurableError::OtherModule { module: id }));
        }
        Ok(Err(_)) | Err(_) => return Err(None),
    }
    if bytes.len() as u64 > maximum {
        return Err(Some(DurableError::LargeModule { module: id, maximum }));
    }
    if bytes.is_empty() || Module::of(String::new(), bytes.clone().into()).id() != id {
        return Err(Some(DurableError::OtherModule { module: id }));
    }
    Ok(bytes)
}

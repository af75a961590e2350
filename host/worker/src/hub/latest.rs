//! What was executed last, so that the same once more need not be decoded: the tasks of a pool differ in their arguments alone.

use std::sync::Arc;

use sandgate_wire::ToWorker;
use sandgate_wire::frame::Frame;
use sandgate_wire::message::{DecodeError, Execute, kind};

#[derive(Debug, Default)]
pub(crate) struct Latest(Option<(Box<[u8]>, Arc<Execute>)>);

impl Latest {
    /// What an EXECUTE says.
    pub(crate) fn decode(&mut self, frame: Frame<'_>) -> Result<Arc<Execute>, DecodeError> {
        if let Some((body, execute)) = &self.0
            && **body == *frame.payload
        {
            return Ok(Arc::clone(execute));
        }
        let body = Box::from(frame.payload);
        let ToWorker::Execute(_, execute) = ToWorker::decode(frame)? else {
            return Err(DecodeError::Kind(kind::EXECUTE));
        };
        let execute = Arc::new(execute);
        self.0 = Some((body, Arc::clone(&execute)));
        Ok(execute)
    }
}

#[cfg(test)]
mod tests {
    use sandgate_wire::frame::Header;
    use sandgate_wire::grants::ExecutionGrants;
    use sandgate_wire::message::{Codegen, Entry};
    use sandgate_wire::{ChannelId, Limits, ModuleId};

    use super::*;

    fn execute(task: &str) -> Execute {
        Execute {
            module: ModuleId([7; 32]),
            codegen: Codegen::default(),
            entry: Entry::Task(task.to_owned()),
            has_arguments: true,
            argv: vec!["guest".to_owned()],
            limits: Limits::for_tasks(),
            grants: ExecutionGrants::default(),
            stdin: false,
            patient: true,
        }
    }

    #[test]
    fn the_same_is_decoded_once_and_anything_else_anew() {
        let mut latest = Latest::default();
        let mut decode = |task: &str, cut: usize| {
            let encoded = ToWorker::Execute(ChannelId(1), execute(task)).encode();
            let payload = &encoded.body[cut..];
            let length = u32::try_from(payload.len()).unwrap();
            let header = Header { length, kind: encoded.kind, flags: 0, channel: ChannelId(1) };
            latest.decode(Frame { header, payload })
        };
        let first = decode("one", 0).unwrap();
        assert_eq!(*first, execute("one"));
        assert!(Arc::ptr_eq(&first, &decode("one", 0).unwrap()));
        assert_eq!(*decode("two", 0).unwrap(), execute("two"));
        assert!(decode("two", 1).is_err());
        assert_eq!(*decode("one", 0).unwrap(), execute("one"));
    }
}

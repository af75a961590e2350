//! Executions that have not begun. Nothing is made for one before it begins, unless something arrives for its channel: whoever
//! gives a worker many short tasks has it hold little for each.

use std::collections::VecDeque;
use std::sync::Arc;

use sandgate_wire::message::Execute;
use sandgate_wire::{ChannelId, Message};

use crate::execution::Execution;

/// An execution that was accepted, and waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: ChannelId,
    pub(super) execute: Arc<Execute>,
    pub(super) arguments: Option<Message>,
    /// Once it has a channel.
    pub(super) execution: Option<Arc<Execution>>,
}

/// All of them, in the order in which they begin.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Some have higher ids than others behind them.
    is_mixed: bool,
    /// How many have no channel yet.
    bare: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many have no channel yet.
    pub(super) fn bare(&self) -> usize {
        self.bare
    }

    /// Adds one that has no channel.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.is_mixed = match self.waiting.back() {
            None => false,
            Some(last) => self.is_mixed || last.id > waiting.id,
        };
        self.bare += 1;
        self.waiting.push_back(waiting);
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let first = self.waiting.pop_front()?;
        self.bare -= usize::from(first.execution.is_none());
        Some(first)
    }

    fn find(&self, id: ChannelId) -> Option<usize> {
        if self.is_mixed {
            return self.waiting.iter().position(|waiting| waiting.id == id);
        }
        self.waiting.binary_search_by_key(&id, |waiting| waiting.id).ok()
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, id: ChannelId) -> Option<Waiting> {
        let removed = self.waiting.remove(self.find(id)?)?;
        self.bare -= usize::from(removed.execution.is_none());
        Some(removed)
    }

    /// Has one have a channel from here on, of the execution that `make` makes of it. None if it has one, or is not there.
    pub(super) fn give_channel(
        &mut self,
        id: ChannelId,
        make: impl FnOnce(&Waiting) -> Arc<Execution>,
    ) -> Option<Arc<Execution>> {
        let position = self.find(id)?;
        let waiting = &mut self.waiting[position];
        if waiting.execution.is_some() {
            return None;
        }
        self.bare -= 1;
        Some(Arc::clone(waiting.execution.insert(make(waiting))))
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        *self = Queue::default();
    }
}

#[cfg(test)]
mod tests {
    use sandgate_wire::Limits;
    use sandgate_wire::ModuleId;
    use sandgate_wire::grants::ExecutionGrants;
    use sandgate_wire::message::{Codegen, Entry};

    use super::*;
    use crate::reading::Waiters;

    fn queue(ids: &[u64]) -> Queue {
        let execute = Arc::new(Execute {
            module: ModuleId([7; 32]),
            codegen: Codegen::default(),
            entry: Entry::Start,
            has_arguments: false,
            argv: Vec::new(),
            limits: Limits::for_tasks(),
            grants: ExecutionGrants::default(),
            stdin: false,
            patient: false,
        });
        let mut queue = Queue::default();
        for id in ids {
            let execute = Arc::clone(&execute);
            queue.push(Waiting { id: ChannelId(*id), execute, arguments: None, execution: None });
        }
        queue
    }

    fn make(waiting: &Waiting) -> Arc<Execution> {
        Arc::new(Execution::new(waiting.id, waiting.execute.limits.clone(), &Arc::new(Waiters::default())))
    }

    #[test]
    fn each_is_found_in_whatever_order_they_came() {
        for ids in [[1, 3, 5, 7, 9], [5, 1, 9, 3, 7], [9, 7, 5, 3, 1]] {
            let mut queue = queue(&ids);
            assert!(queue.remove(ChannelId(2)).is_none() && queue.remove(ChannelId(11)).is_none());
            assert_eq!(queue.give_channel(ChannelId(3), make).map(|made| made.id), Some(ChannelId(3)));
            assert!(queue.give_channel(ChannelId(3), make).is_none(), "it has one");
            assert_eq!((queue.len(), queue.bare()), (5, 4));
            assert_eq!(queue.remove(ChannelId(7)).map(|removed| removed.id), Some(ChannelId(7)));
            let left: Vec<(u64, bool)> =
                std::iter::from_fn(|| queue.pop()).map(|it| (it.id.0, it.execution.is_some())).collect();
            let expected: Vec<(u64, bool)> = ids.iter().filter(|id| **id != 7).map(|id| (*id, *id == 3)).collect();
            assert_eq!(left, expected);
            assert_eq!((queue.len(), queue.bare()), (0, 0));
        }
    }

    #[test]
    fn order_is_found_again_once_all_have_begun() {
        let mut queue = queue(&[5, 1]);
        assert!(queue.is_mixed);
        while queue.pop().is_some() {}
        queue.push(Waiting { id: ChannelId(7), ..self::queue(&[1]).pop().unwrap() });
        assert!(!queue.is_mixed);
    }
}

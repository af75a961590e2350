//! What flies on a lane, by the numbers of its runs: they grow, and what began first mostly ends first.

use std::collections::VecDeque;

/// Values by number. Each number is higher than all before it.
#[derive(Debug)]
pub(crate) struct Runs<V>(VecDeque<(u64, V)>);

impl<V> Default for Runs<V> {
    fn default() -> Runs<V> {
        Runs(VecDeque::new())
    }
}

impl<V> Runs<V> {
    /// Puts a value behind all others.
    pub(crate) fn insert(&mut self, number: u64, value: V) {
        debug_assert!(self.0.back().is_none_or(|(last, _)| *last < number), "run {number} is no new one");
        self.0.push_back((number, value));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, number: u64) -> Option<usize> {
        match self.0.front() {
            Some((first, _)) if *first == number => Some(0),
            _ => self.0.binary_search_by_key(&number, |(number, _)| *number).ok(),
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<&V> {
        self.find(number).map(|at| &self.0[at].1)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut V> {
        self.find(number).map(|at| &mut self.0[at].1)
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<V> {
        let at = self.find(number)?;
        self.0.remove(at).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_number_has_its_value_until_that_is_removed(steps in prop::collection::vec((0..4_u8, 0..40_u64), 0..200)) {
            let (mut runs, mut expected) = (Runs::default(), std::collections::BTreeMap::new());
            let mut next = 0;
            for (step, number) in steps {
                if step < 2 {
                    next += 1 + number % 3;
                    runs.insert(next, next * 10);
                    expected.insert(next, next * 10);
                    continue;
                }
                let number = if step == 2 { expected.keys().next().copied().unwrap_or(number) } else { next.saturating_sub(number) };
                prop_assert_eq!(runs.get(number), expected.get(&number));
                prop_assert_eq!(runs.get_mut(number), expected.get_mut(&number));
                prop_assert_eq!(runs.remove(number), expected.remove(&number));
            }
        }
    }
}

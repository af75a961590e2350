//! [`Numbered`]: what has a number that grows, most of which is gone soon.
//!
//! ```text
//!   older ones that stay long         the recent ones, in the order of their numbers
//!   ┌──────────────────────┐   ┌───┬───┬───┬───┬───┬───┬───┐
//!   │ by their numbers     │   │ 7 │   │ 9 │10 │   │12 │13 │ ◄── added here, mostly
//!   └──────────────────────┘   └───┴───┴───┴───┴───┴───┴───┘
//! ```
//!
//! Neighbours in number are neighbours in memory, so that whoever adds them and whoever takes them out, on other processors, walk
//! through it. There are never many more places than entries: what stays while others come and go moves to the older ones.

use std::collections::{HashMap, VecDeque};

use sandgate_wire::ids::ChannelHashes;

/// Places that there may be besides twice as many as entries.
const FREE: usize = 4096;

/// Values by their numbers.
#[derive(Debug)]
pub(crate) struct Numbered<V> {
    /// The number of the first place.
    first: u64,
    /// The first and the last one are not empty.
    recent: VecDeque<Option<V>>,
    recent_count: usize,
    old: HashMap<u64, V, ChannelHashes>,
}

impl<V> Default for Numbered<V> {
    fn default() -> Numbered<V> {
        Numbered { first: 0, recent: VecDeque::new(), recent_count: 0, old: HashMap::default() }
    }
}

impl<V> Numbered<V> {
    pub(crate) fn len(&self) -> usize {
        self.recent_count + self.old.len()
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok().filter(|place| *place < self.recent.len())
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.get(number).is_some()
    }

    pub(crate) fn get(&self, number: u64) -> Option<&V> {
        let recent = self.place(number).and_then(|place| self.recent[place].as_ref());
        recent.or_else(|| self.old.get(&number))
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut V> {
        // Of those that came early some are among the older ones.
        let recent = self.place(number).and_then(|place| self.recent[place].as_mut());
        recent.or_else(|| self.old.get_mut(&number))
    }

    /// Adds a value whose number is not in use.
    pub(crate) fn insert(&mut self, number: u64, value: V) {
        debug_assert!(!self.contains(number), "each has a number of its own");
        if self.recent.is_empty() {
            self.first = number;
        }
        let ahead = number.checked_sub(self.first).and_then(|ahead| usize::try_from(ahead).ok());
        let Some(place) = ahead.filter(|place| *place < self.recent.len() + FREE) else {
            self.old.insert(number, value);
            return;
        };
        if place >= self.recent.len() {
            self.recent.resize_with(place + 1, || None);
        }
        self.recent_count += usize::from(self.recent[place].replace(value).is_none());
        self.trim();
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<V> {
        let recent = self.place(number).and_then(|place| Some((place, self.recent[place].take()?)));
        let Some((place, value)) = recent else { return self.old.remove(&number) };
        self.recent_count -= 1;
        if place == 0 || place + 1 == self.recent.len() || self.has_many_places() {
            self.trim();
        }
        Some(value)
    }

    fn has_many_places(&self) -> bool {
        self.recent.len() > 2 * self.recent_count + FREE
    }

    /// Has neither empty places at its ends nor too many in all.
    fn trim(&mut self) {
        while let Some(None) = self.recent.back() {
            self.recent.pop_back();
        }
        while let Some(first) = self.recent.front() {
            if first.is_some() && !self.has_many_places() {
                return;
            }
            if let Some(value) = self.recent.pop_front().flatten() {
                self.old.insert(self.first, value);
                self.recent_count -= 1;
            }
            self.first += 1;
        }
    }

    /// All of them, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        let recent = (self.first..).zip(&self.recent).filter_map(|(number, value)| Some((number, value.as_ref()?)));
        recent.chain(self.old.iter().map(|(number, value)| (*number, value)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stays_does_not_keep_the_places_of_what_has_gone() {
        let mut numbered = Numbered::default();
        let kept = [0, 1, 50_000, 99_999];
        for number in 0..100_000_u64 {
            numbered.insert(number, number);
            let before = number.saturating_sub(100);
            if number >= 100 && !kept.contains(&before) {
                assert_eq!(numbered.remove(before), Some(before));
            }
            assert!(numbered.recent.len() <= FREE + 2 * numbered.len(), "{number}");
        }
        kept.iter().for_each(|number| assert_eq!(numbered.get(*number), Some(number)));
        assert_eq!(numbered.len(), 103);
        assert!(numbered.old.len() >= 2, "what has stayed for long is among the older ones");
    }

    #[test]
    fn places_go_also_while_nothing_is_added() {
        let mut numbered = Numbered::default();
        (0..50_000_u64).for_each(|number| numbered.insert(number, number));
        for number in 1..49_999 {
            assert_eq!(numbered.remove(number), Some(number));
        }
        assert!(numbered.recent.len() <= FREE + 4, "{}", numbered.recent.len());
        assert_eq!([0, 49_999].map(|number| numbered.remove(number)), [Some(0), Some(49_999)]);
    }

    #[test]
    fn numbers_can_be_far_apart() {
        let mut numbered = Numbered::default();
        let numbers = [5, u64::MAX, 4, 0, 5 + FREE as u64, u64::MAX - 1, 6];
        numbers.iter().for_each(|number| numbered.insert(*number, *number));
        assert!(numbered.recent.len() <= 2 * FREE);
        let mut all: Vec<u64> = numbered.iter().map(|(number, _)| number).collect();
        all.sort_unstable();
        let mut expected = numbers.to_vec();
        expected.sort_unstable();
        assert_eq!(all, expected);
        numbers.iter().for_each(|number| assert_eq!(numbered.remove(*number), Some(*number)));
        assert_eq!((numbered.len(), numbered.recent.len()), (0, 0));
    }

    #[test]
    fn an_older_one_is_found_although_the_recent_ones_reach_beyond_it() {
        let mut numbered = Numbered::default();
        let far = FREE as u64 + 4;
        [3, far, 4, 5, far + 1].iter().for_each(|number| numbered.insert(*number, *number));
        assert!(numbered.recent.len() as u64 > far - 3 && numbered.old.contains_key(&far));
        assert_eq!(numbered.get(far), Some(&far));
        assert_eq!(numbered.get_mut(far).copied(), Some(far));
        assert_eq!((numbered.remove(far), numbered.remove(far), numbered.len()), (Some(far), None, 4));
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..40_u64, 0..4_u8, any::<bool>()), 0..200)) {
            let (mut numbered, mut model) = (Numbered::default(), BTreeMap::new());
            for (number, kind, far) in steps {
                let number = if far { number * 1000 } else { number };
                match kind {
                    0 => prop_assert_eq!(numbered.remove(number), model.remove(&number)),
                    1 => prop_assert_eq!(numbered.get_mut(number), model.get_mut(&number)),
                    _ if model.contains_key(&number) => prop_assert!(numbered.contains(number)),
                    _ => {
                        numbered.insert(number, number + 1);
                        model.insert(number, number + 1);
                    }
                }
                prop_assert_eq!(numbered.len(), model.len());
                let all: BTreeMap<u64, u64> = numbered.iter().map(|(number, value)| (number, *value)).collect();
                prop_assert_eq!(&all, &model);
                prop_assert!(!matches!(numbered.recent.front(), Some(None)));
                prop_assert!(!matches!(numbered.recent.back(), Some(None)));
            }
        }
    }
}

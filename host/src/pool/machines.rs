//! [`Machines`]: over which machines pools run, while they run.
//!
//! A list, and the pools that want to know when it changes. Each pool compares it with what it has: who is not on it any more
//! leaves, who is new joins.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::driver::Note;
use super::result::PoolError;
use super::seat::Told;
use crate::error::GatewayError;
use crate::remote::ways;
use crate::spec::Spec;

/// The machines of one or more [pools](super::Pool), which may change while these run. Clones are the same list.
///
/// One that is added joins the pools as soon as it is reached, with a gateway for each of its cores. One that is taken away
/// gets no more tasks: what runs there comes to its end, what waits there is run elsewhere, and then its gateways end, and its
/// agent with them. Every input has exactly one result all the same. Tasks of a pool without any machine wait for one.
///
/// ```no_run
/// use sandgate::{Machines, Module, Pool, Spec};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let machines = Machines::new([Spec::popen()])?;
/// let pool = Pool::builder(&Module::from_file("words.wasm")?).task("count_words").machines_of(&machines).build()?;
/// let results = pool.map::<_, u64>(["a b", "c"]);
/// machines.set([Spec::popen(), "ssh=me@big".parse()?])?;
/// # drop(results);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Machines {
    list: Arc<Mutex<List>>,
}

/// A machine that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("machine {} cannot be used", position + 1)]
pub struct BadMachine {
    /// Which one of those that were named, from 0.
    pub position: usize,
    /// Why.
    #[source]
    pub source: GatewayError,
}

/// A machine on the list.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// By which pools know it: no other one ever has it.
    pub(crate) number: u64,
    /// As it was named.
    named: Spec,
    /// With an id.
    pub(crate) spec: Spec,
}

#[derive(Default)]
struct List {
    machines: Vec<Machine>,
    next: u64,
    pools: Vec<Told>,
}

impl Machines {
    /// A list of these. Nothing is reached yet.
    ///
    /// # Errors
    /// [`BadMachine`] if one is to start from (`via=`) a machine that is not among them, or has the id of another one.
    pub fn new(specs: impl IntoIterator<Item = Spec>) -> Result<Machines, BadMachine> {
        let machines = Machines { list: Arc::default() };
        machines.set(specs)?;
        Ok(machines)
    }

    /// An empty one, whose machines are called as if there had been so many.
    pub(crate) fn after(count: usize) -> Machines {
        Machines { list: Arc::new(Mutex::new(List { next: count as u64, ..List::default() })) }
    }

    /// These are the machines from now on. One that is named as before stays what it is; of several that are named alike as
    /// many stay as are named now. Does not block.
    ///
    /// # Errors
    /// [`BadMachine`] if one is to start from (`via=`) a machine that is not among them, or has the id of another one; nothing
    /// changes then.
    pub fn set(&self, specs: impl IntoIterator<Item = Spec>) -> Result<(), BadMachine> {
        let specs: Vec<Spec> = specs.into_iter().collect();
        let is_given = |id: &str| specs.iter().any(|spec| spec.given_id() == Some(id));
        let mut list = self.list.lock();
        let mut before = list.machines.clone();
        let mut next = list.next;
        let mut machines = Vec::new();
        for named in specs.iter().cloned() {
            // One that was there is not, if another one has its name now.
            let stays = |machine: &Machine| {
                machine.named == named
                    && (named.given_id().is_some() || !is_given(machine.spec.given_id().unwrap_or_default()))
            };
            let machine = match before.iter().position(stays) {
                Some(at) => before.remove(at),
                None => {
                    let number = (next..).find(|number| !is_given(&format!("gw{number}"))).unwrap_or(next);
                    next = number + 1;
                    let spec = match named.given_id() {
                        Some(_) => named.clone(),
                        None => named.clone().id(format!("gw{number}")),
                    };
                    Machine { number, named, spec }
                }
            };
            machines.push(machine);
        }
        check(&machines)?;
        (list.machines, list.next) = (machines, next);
        list.tell();
        Ok(())
    }

    /// Adds one. Does not block.
    ///
    /// # Errors
    /// [`BadMachine`] if it is to start from (`via=`) a machine that is not there.
    pub fn add(&self, spec: Spec) -> Result<(), BadMachine> {
        self.set(self.specs().into_iter().chain([spec]))
    }

    /// Takes one away that is named like this; whether there was one. Does not block.
    ///
    /// # Errors
    /// [`BadMachine`] if another one is to start from it; nothing changes then.
    pub fn remove(&self, spec: &Spec) -> Result<bool, BadMachine> {
        let mut specs = self.specs();
        let Some(at) = specs.iter().position(|other| other == spec) else { return Ok(false) };
        specs.remove(at);
        self.set(specs)?;
        Ok(true)
    }

    /// How they are named.
    pub fn specs(&self) -> Vec<Spec> {
        self.list.lock().machines.iter().map(|machine| machine.named.clone()).collect()
    }

    /// Those that there are, and later changes as notes to this pool.
    pub(crate) fn follow(&self, pool: &Told) {
        let mut list = self.list.lock();
        list.pools.push(pool.clone());
        list.tell();
    }

    pub(crate) fn all(&self) -> Vec<Machine> {
        self.list.lock().machines.clone()
    }
}

impl List {
    /// Under the lock, so that the last change is the last note.
    fn tell(&mut self) {
        let machines: Arc<[Machine]> = self.machines.clone().into();
        self.pools.retain(|pool| {
            pool.seat.strong_count() > 0 && pool.notes.send(Note::Machines(Arc::clone(&machines))).is_ok()
        });
    }
}

/// Whether each has an id of its own, and there is a way to it.
fn check(machines: &[Machine]) -> Result<(), BadMachine> {
    let mut ids = HashSet::new();
    for (position, id) in machines.iter().filter_map(|machine| machine.spec.given_id()).enumerate() {
        if !ids.insert(id) {
            return Err(BadMachine { position, source: GatewayError::DuplicateId { id: id.to_owned() } });
        }
    }
    let mut specs: Vec<Spec> = machines.iter().map(|machine| machine.spec.clone()).collect();
    ways::find(&mut specs, HashMap::new()).map_err(|source| {
        let position = match &source {
            GatewayError::NoSuchWay { id, .. } => specs.iter().position(|spec| spec.given_id() == Some(id)),
            _ => None,
        };
        BadMachine { position: position.unwrap_or(0), source }
    })
}

impl From<BadMachine> for PoolError {
    fn from(bad: BadMachine) -> PoolError {
        PoolError::Gateway(bad.source)
    }
}

impl fmt::Debug for Machines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Machines {:?}>", self.all().iter().map(|machine| machine.spec.given_id()).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(texts: &[&str]) -> Vec<Spec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn who_is_named_as_before_stays() {
        let machines = Machines::new(specs(&["popen", "exec=a", "popen"])).unwrap();
        let check = |texts: &[&str], expected: &[(u64, &str)]| {
            machines.set(specs(texts)).unwrap();
            let all = machines.all();
            let found: Vec<(u64, &str)> = all.iter().map(|it| (it.number, it.spec.given_id().unwrap())).collect();
            assert_eq!(found, expected, "{texts:?}");
        };
        check(&["exec=a", "popen"], &[(1, "gw1"), (0, "gw0")]);
        check(&["popen", "popen", "exec=b//id=b"], &[(0, "gw0"), (3, "gw3"), (4, "b")]);
        // Another command for the same id is another machine.
        check(&["exec=c//id=b"], &[(5, "b")]);
        check(&[], &[]);
        machines.add("exec=a".parse().unwrap()).unwrap();
        assert!(machines.remove(&"exec=a".parse().unwrap()).unwrap());
        assert!(!machines.remove(&"exec=a".parse().unwrap()).unwrap());
    }

    #[test]
    fn each_has_an_id_of_its_own() {
        let bad = Machines::new(specs(&["popen", "exec=a//id=x", "exec=b//id=x"])).unwrap_err();
        assert_eq!(bad.position, 2);
        assert!(matches!(bad.source, GatewayError::DuplicateId { id } if id == "x"));
        let machines = Machines::new(specs(&["popen//id=gw1", "exec=a", "exec=b"])).unwrap();
        let ids = || -> Vec<String> {
            machines.all().iter().filter_map(|machine| machine.spec.given_id().map(str::to_owned)).collect()
        };
        assert_eq!(ids(), ["gw1", "gw2", "gw3"]);
        machines.set(specs(&["exec=a", "popen//id=gw2"])).unwrap();
        assert_eq!(ids(), ["gw4", "gw2"]);
    }

    #[test]
    fn what_is_wrong_changes_nothing_and_says_where() {
        let machines = Machines::new(specs(&["exec=a//id=a", "exec=b//via=a"])).unwrap();
        let bad = machines.set(specs(&["popen", "exec=b//id=b//via=nobody"])).unwrap_err();
        assert_eq!(bad.position, 1);
        assert!(bad.source.to_string().contains("`nobody`"), "{}", bad.source);
        assert_eq!(machines.specs(), specs(&["exec=a//id=a", "exec=b//via=a"]));
        assert!(machines.remove(&"exec=a//id=a".parse().unwrap()).is_err(), "another one starts from it");
    }
}

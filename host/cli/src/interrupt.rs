//! Ctrl-C and its kin: the first asks for the end, the second does not ask.
//!
//! ```text
//!  signal ─► before there is work: exit at once ─ workers end with this process
//!         └► while there is: what was given to `on_interrupt`, once ─► the command ends by itself ─ a second one: exit at once
//! ```

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::exit::Exit;

type Action = Box<dyn FnMut() + Send>;

/// What the command knows of signals. Clones are the same.
#[derive(Clone)]
pub(crate) struct Interrupt {
    signal: Arc<AtomicI32>,
    action: Arc<Mutex<Option<Action>>>,
}

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn install() -> Result<Interrupt> {
        let interrupt = Interrupt { signal: Arc::default(), action: Arc::default() };
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        let mut signals = Signals::new(wanted).context("signals cannot be listened to")?;
        if ignored >> (SIGXFSZ - 1) & 1 == 0 {
            // A file that may not grow is an error of whoever writes it, and no reason to end without a word.
            signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
                .context("signals cannot be taken")?;
        }
        let ours = interrupt.clone();
        let listen = move || signals.forever().for_each(|signal| ours.arrived(signal));
        std::thread::Builder::new()
            .name("sandgate-signals".to_owned())
            .spawn(listen)
            .context("no thread for signals")?;
        Ok(interrupt)
    }

    /// Sets what the first signal does.
    pub(crate) fn on_interrupt(&self, action: impl FnMut() + Send + 'static) {
        *self.action.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(action));
    }

    /// How the command ends, if it was interrupted.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.signal.load(Ordering::Acquire) {
            0 => None,
            signal => Some(Exit::Interrupted(signal)),
        }
    }

    fn arrived(&self, signal: i32) {
        let first = self.signal.swap(signal, Ordering::AcqRel) == 0;
        let mut action = self.action.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *action {
            Some(action) if first => action(),
            _ => std::process::exit(Exit::Interrupted(signal).code().into()),
        }
    }
}

/// The signals that this process was told to ignore when it was started, as `nohup` does; a bit each. They stay ignored.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<Interrupt {:?}>", self.exit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_system() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t1\n"), 0x1001);
        assert_eq!(ignored(""), 0);
    }
}

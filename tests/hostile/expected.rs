//! How a row may end, and whether what is said about the end is right and tells no secrets.

use std::error::Error;

use sandgate::{ExecError, KilledBy, LimitName, ModuleLimitName, Outcome, Rejection, TrapKind};
use sandgate_tests::{guests_dir, repository, worker};

/// What must come of a row.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Returned,
    Trapped(TrapKind),
    TimedOut,
    Limit(LimitName),
    Exited(i32),
    /// With this in its message.
    Panicked(&'static str),
    /// With this in its message.
    Failed(&'static str),
    /// With this in its message.
    CallbackFailed(&'static str),
    Killed,
    /// Before anything ran, with all of this in the text.
    Rejected(&'static [&'static str]),
    /// Before anything ran, for one of these names of a feature; `true` if a profile has it.
    Feature(&'static [&'static str], bool),
    Module(ModuleLimitName),
    /// By the library, before anything was sent, with all of this in the text.
    Refused(&'static [&'static str]),
    AnyOf(Vec<Expected>),
}

/// How a row ended.
#[derive(Debug)]
pub(crate) enum End {
    Outcome(Outcome),
    Refused(ExecError),
}

impl End {
    /// All that is said about it: the text and those of its causes.
    pub(crate) fn text(&self) -> String {
        match self {
            End::Outcome(outcome) => outcome.to_string(),
            End::Refused(error) => {
                let mut text = error.to_string();
                let mut cause = error.source();
                while let Some(error) = cause {
                    text = format!("{text}: {error}");
                    cause = error.source();
                }
                text
            }
        }
    }

    fn rejection(&self) -> Option<&Rejection> {
        match self {
            End::Outcome(Outcome::Rejected { reason }) | End::Refused(ExecError::Rejected { reason, .. }) => {
                Some(reason)
            }
            _ => None,
        }
    }
}

impl Expected {
    pub(crate) fn is(&self, end: &End) -> bool {
        let text = || end.text().to_lowercase();
        let has = |parts: &[&str]| parts.iter().all(|part| text().contains(&part.to_lowercase()));
        match (self, end) {
            (Expected::AnyOf(any), end) => any.iter().any(|expected| expected.is(end)),
            (Expected::Returned, End::Outcome(Outcome::Returned))
            | (Expected::TimedOut, End::Outcome(Outcome::TimedOut { .. }))
            | (Expected::Killed, End::Outcome(Outcome::Killed { by: KilledBy::Kill, .. })) => true,
            (Expected::Trapped(kind), End::Outcome(Outcome::Trapped { kind: found, .. })) => kind == found,
            (Expected::Limit(limit), End::Outcome(Outcome::LimitExceeded { limit: found, .. })) => limit == found,
            (Expected::Exited(code), End::Outcome(Outcome::Exited { code: found })) => code == found,
            (Expected::Panicked(part), End::Outcome(Outcome::Panicked { message, .. }))
            | (Expected::CallbackFailed(part), End::Outcome(Outcome::CallbackFailed { message }))
            | (Expected::Failed(part), End::Outcome(Outcome::Failed { message })) => message.contains(part),
            (Expected::Rejected(parts), end) => end.rejection().is_some() && has(parts),
            (Expected::Feature(names, offered), end) => match end.rejection() {
                Some(Rejection::Feature { feature, offered: found, .. }) => {
                    names.iter().any(|name| feature.contains(name)) && offered == found
                }
                _ => false,
            },
            (Expected::Module(limit), end) => {
                matches!(end.rejection(), Some(Rejection::ModuleLimit { limit: found, .. }) if limit == found)
            }
            (Expected::Refused(parts), End::Refused(_)) => end.rejection().is_none() && has(parts),
            _ => false,
        }
    }
}

/// What is wrong with the text about an end: it has to name the cause, the limit with its value and the setting.
pub(crate) fn text_problems(end: &End) -> Vec<String> {
    let text = end.text();
    let mut wanted: Vec<String> = Vec::new();
    match (end, end.rejection()) {
        (End::Outcome(Outcome::TimedOut { after }), _) => wanted.extend([format!("{after:?}"), "timeout=".to_owned()]),
        (End::Outcome(Outcome::Trapped { kind: TrapKind::StackOverflow, stack_bytes, .. }), _) => {
            let value = stack_bytes.map_or_else(|| "the size of its stack".to_owned(), |bytes| bytes.to_string());
            wanted.extend([value, LimitName::Stack.setting().to_owned()]);
        }
        (End::Outcome(Outcome::LimitExceeded { limit, value }), _) => {
            wanted.extend([limit.setting().to_owned(), value.to_string()]);
            if *value == 0 && *limit != LimitName::Fuel {
                wanted.push("a value that is not 0".to_owned());
            }
        }
        (_, Some(Rejection::ModuleLimit { limit, value, .. })) => {
            wanted.extend([limit.setting().to_owned(), value.to_string()]);
        }
        (_, Some(Rejection::Feature { feature, offered, .. })) => {
            wanted.push(feature.clone());
            wanted.extend(offered.then(|| "profile=".to_owned()));
        }
        // A name with escapes in it is shown in another way.
        (_, Some(Rejection::UnknownImport { import, .. })) if !import.contains(char::is_control) => {
            wanted.push(import.clone())
        }
        _ => {}
    }
    let lacks = wanted.into_iter().filter(|part| !text.contains(part.as_str()));
    let lacks = lacks.map(|part| format!("its text does not say `{part}`: {text}"));
    lacks.chain(secrets(end).into_iter().map(|secret| format!("its text tells {secret}: {text}"))).collect()
}

/// What of the host's a text gives away: places, variables, addresses.
fn secrets(end: &End) -> Vec<String> {
    let text = format!("{}\n{end:?}", end.text());
    let mut places = vec![
        repository().display().to_string(),
        guests_dir().display().to_string(),
        worker().parent().expect("a directory").display().to_string(),
        concat!("/.car", "go/").to_owned(),
        "/rustc/".to_owned(),
    ];
    places.extend(std::env::var("HOME").ok().filter(|home| home.len() > 1).map(|home| format!("{home}/")));
    let mut found: Vec<String> = places.into_iter().filter(|place| text.contains(place.as_str())).collect();
    if text.split("0x").skip(1).any(|rest| rest.chars().take_while(char::is_ascii_hexdigit).count() >= 9) {
        found.push("an address".to_owned());
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        found.push("a terminal what to do".to_owned());
    }
    found
}

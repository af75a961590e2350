//! Why a module is refused, in a form that names what would have to change.

use sandgate::{LimitName, Limits, ModuleLimitName as Name, ModuleLimits, Profile, Rejection, Shape};

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// A word for scripts.
    pub(crate) kind: &'static str,
    /// For people; nothing in it is acted on by a terminal.
    pub(crate) message: String,
    /// What would have to be set so that it is none, if there is anything.
    pub(crate) remedy: Option<String>,
}

impl From<&Rejection> for Problem {
    fn from(reason: &Rejection) -> Problem {
        let (kind, remedy) = match reason {
            Rejection::InvalidModule { .. } => ("invalid-module", None),
            Rejection::UnknownImport { .. } => ("unknown-import", None),
            Rejection::AbiVersion { .. } => ("abi-version", None),
            Rejection::Compilation { .. } => ("compilation", None),
            Rejection::ModuleLimit { limit, found: 0, .. } => {
                ("limit", Some(format!("a higher `{}`", limit.setting())))
            }
            // Counting stops at the limit, so there may be more.
            Rejection::ModuleLimit { limit, found, .. } => {
                ("limit", Some(format!("`{}{found}` or higher", limit.setting())))
            }
            Rejection::Feature { feature, offered: true, .. } => ("feature", Some(format!("`profile={feature}`"))),
            Rejection::Feature { .. } => ("feature", None),
            _ => ("rejected", None),
        };
        Problem { kind, message: super::report::one_line(&reason.to_string()), remedy }
    }
}

impl Problem {
    /// Whether a gateway's settings could take the module, as far as this reason goes.
    pub(crate) fn has_a_setting(reason: &Rejection) -> bool {
        match reason {
            Rejection::ModuleLimit { limit, .. } => !matches!(limit, Name::CompileTime | Name::CompileMemory),
            Rejection::Feature { offered, .. } => *offered,
            _ => false,
        }
    }

    /// All reasons that lie in what a module measures.
    pub(crate) fn of_shape(shape: &Shape, limits: &AllLimits, profile: Profile) -> Vec<Problem> {
        let over = measures(shape, limits).into_iter().filter(|measure| measure.found > measure.limit);
        let over = over.map(|Measure { what, setting, found, limit }| {
            let what = super::report::shortened(&what);
            let message = format!("module has {found} {what}, its limit is {limit} (setting `{setting}`)");
            Problem { kind: "limit", message, remedy: Some(format!("`{setting}{found}`")) }
        });
        let mut problems: Vec<Problem> = over.collect();
        let lacking: Vec<&str> = shape.features.features().filter(|it| !profile.has(*it)).map(|it| it.name()).collect();
        if !lacking.is_empty() {
            let wanted = profile.features().map(|it| it.name()).chain(lacking.iter().copied());
            let remedy = Some(format!("`profile={}`", wanted.collect::<Vec<_>>().join(",")));
            let message = format!(
                "module needs {}, the profile is `{profile}` (setting `profile=`)",
                lacking.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            );
            problems.push(Problem { kind: "feature", message, remedy });
        }
        problems
    }
}

/// Something that is counted in a module, and how much of it there may be.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) what: String,
    pub(crate) setting: &'static str,
    pub(crate) found: u64,
    pub(crate) limit: u64,
}

/// What a module is held against: when it is compiled, and when an instance of it is made.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllLimits {
    pub(crate) module: ModuleLimits,
    pub(crate) instance: Limits,
}

/// What a module measures against each limit.
pub(crate) fn measures(shape: &Shape, limits: &AllLimits) -> Vec<Measure> {
    let AllLimits { module: limits, instance } = limits;
    let module = [
        (Name::ModuleBytes, shape.module_bytes, limits.module_bytes),
        (Name::Functions, shape.functions.into(), limits.functions.into()),
        (Name::FunctionBytes, shape.function_bytes, limits.function_bytes),
        (Name::Locals, shape.locals.into(), limits.locals.into()),
        (Name::Nesting, shape.nesting.into(), limits.nesting.into()),
        (Name::JumpTargets, shape.jump_targets, limits.jump_targets),
        (Name::Items, shape.items.into(), limits.items.into()),
    ]
    .map(|(name, found, limit)| Measure { what: name.to_string(), setting: name.setting(), found, limit });
    let instance = [
        ("bytes of memory at its start", LimitName::Memory, shape.memory_bytes, instance.memory_bytes),
        ("table elements at its start", LimitName::Table, shape.table_elements, instance.table_elements),
    ]
    .map(|(what, name, found, limit)| Measure { what: what.to_owned(), setting: name.setting(), found, limit });
    module.into_iter().chain(instance).collect()
}

#[cfg(test)]
mod tests {
    use sandgate::Feature;

    use super::*;

    #[test]
    fn every_reason_in_a_shape_is_told() {
        let features = Profile::MINIMAL.with(Feature::RelaxedSimd).with(Feature::TailCall);
        let shape = Shape { functions: 200_001, locals: 10_001, features, ..Shape::default() };
        let told = Problem::of_shape(&shape, &AllLimits::default(), Profile::MINIMAL.with(Feature::TailCall));
        let remedies: Vec<_> = told.iter().flat_map(|problem| problem.remedy.as_deref()).collect();
        assert_eq!(remedies, ["`functions=200001`", "`locals=10001`", "`profile=tail-call,simd,relaxed-simd`"]);
        assert_eq!(told[2].message.matches("simd").count(), 2, "{}", told[2].message);
        assert_eq!(Problem::of_shape(&Shape::default(), &AllLimits::default(), Profile::MINIMAL), []);
    }

    #[test]
    fn the_first_limit_is_the_one_that_the_library_names() {
        let limits = AllLimits::default();
        let shape = Shape {
            module_bytes: u64::MAX,
            functions: u32::MAX,
            function_bytes: u64::MAX,
            locals: u32::MAX,
            nesting: u32::MAX,
            jump_targets: u64::MAX,
            items: u32::MAX,
            memory_bytes: u64::MAX,
            table_elements: u64::MAX,
            ..Shape::default()
        };
        let first = &measures(&shape, &limits)[0];
        let named = limits.module.exceeded_by(&shape).map(|(name, found, limit)| (name.setting(), found, limit));
        assert_eq!(named, Some((first.setting, first.found, first.limit)));
        assert!(measures(&shape, &limits).iter().all(|measure| measure.found > measure.limit));
    }

    #[test]
    fn only_what_a_setting_changes_is_looked_at_again() {
        let limit = |limit| Rejection::ModuleLimit { limit, found: 0, value: 1, item: String::new() };
        assert!(Problem::has_a_setting(&limit(Name::Nesting)));
        assert!(!Problem::has_a_setting(&limit(Name::CompileTime)));
        assert_eq!(Problem::from(&limit(Name::CompileTime)).remedy.as_deref(), Some("a higher `compile-time=`"));
        let invalid = Rejection::InvalidModule { message: "a\nb\u{1b}".to_owned() };
        assert!(!Problem::has_a_setting(&invalid));
        let Problem { kind, message, .. } = Problem::from(&invalid);
        assert_eq!((kind, &message[..]), ("invalid-module", r"not an acceptable module: a\nb\u{1b}"));
    }
}

//! What was found, as text and as JSON. All names are the module's: in text what a terminal acts on is made visible, and in
//! JSON it is written as JSON's own escapes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use sandgate::schema::{ItemKind, ModuleDescription, Node, TaskSchema, TypeSchema};
use sandgate::text::{is_active, printable};
use sandgate::{ModuleId, Profile};
use serde_json::{Value, json};

use super::needs::needs;
use super::problem::{AllLimits, Measure, Problem, measures};
use crate::cache::bytes_text;

/// The export that a program begins at.
const START: &str = "_start";
/// Width of lists of names.
const WIDTH: usize = 100;
/// Most names of a list in text.
const MAX_NAMES: usize = 200;

/// All that was found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// None if not all of the file was read.
    pub(crate) id: Option<ModuleId>,
    pub(crate) profile: Profile,
    pub(crate) limits: AllLimits,
    /// None if it cannot be compiled under any setting.
    pub(crate) description: Option<ModuleDescription>,
    pub(crate) problems: Vec<Problem>,
    /// Whether there may be more problems than these, since looking further would take too much.
    pub(crate) is_partial: bool,
}

impl Report {
    pub(crate) fn is_accepted(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn to_json(&self) -> String {
        let problems = self
            .problems
            .iter()
            .map(|Problem { kind, message, remedy }| json!({ "kind": kind, "message": message, "remedy": remedy }));
        let mut value = json!({
            "module": self.path.to_string_lossy(),
            "sha256": self.id.map(|id| id.to_string()),
            "bytes": self.bytes,
            "accepted": self.is_accepted(),
            "profile": self.profile.to_string(),
            "problems": problems.collect::<Vec<Value>>(),
            "problems_are_partial": self.is_partial,
            "description": null,
        });
        if let Some(description) = &self.description {
            value["description"] = self.description_json(description);
        }
        escaped(&format!("{value:#}\n"))
    }

    fn description_json(&self, description: &ModuleDescription) -> Value {
        let shape = &description.shape;
        let imports = description.imports.iter();
        let imports = imports.map(|it| json!({ "module": it.module, "name": it.name, "kind": it.kind.name() }));
        let exports = description.exports.iter().map(|it| json!({ "name": it.name, "kind": it.kind.name() }));
        let needs = needs(description);
        let needs = needs.iter().map(|it| json!({ "what": it.what, "given": it.given, "functions": it.functions }));
        let measures = measures(shape, &self.limits).into_iter().map(|Measure { what, setting, found, limit }| {
            json!({ "what": what, "setting": setting, "found": found, "limit": limit })
        });
        json!({
            "has_main": has_main(description),
            "tasks": description.tasks.iter().map(task_json).collect::<Vec<Value>>(),
            "undescribed_tasks": undescribed(description),
            "tasks_unreadable": description.trouble.as_ref().map(ToString::to_string),
            "imports": imports.collect::<Vec<Value>>(),
            "exports": exports.collect::<Vec<Value>>(),
            "lists_are_cut": description.is_cut,
            "features": shape.features.features().map(|it| it.name()).collect::<Vec<_>>(),
            "needs": needs.collect::<Vec<Value>>(),
            "limits": measures.collect::<Vec<Value>>(),
        })
    }
}

fn has_main(description: &ModuleDescription) -> bool {
    description.exports.iter().any(|export| export.name == START && export.kind == ItemKind::Function)
}

/// Tasks that the module exports and does not describe.
fn undescribed(description: &ModuleDescription) -> Vec<&str> {
    description.task_names().filter(|name| description.task(name).is_none()).collect()
}

fn task_json(task: &TaskSchema) -> Value {
    let parameters = task.parameters.iter();
    let parameters = parameters.map(|it| json!({ "name": it.name, "type": it.schema.to_string() }));
    json!({
        "name": task.name,
        "signature": task.to_string(),
        "help": task.help,
        "takes_channel": task.takes_channel,
        "parameters": parameters.collect::<Vec<Value>>(),
        "result": if task.result.is_unit() { Value::Null } else { task.result.to_string().into() },
        "types": types(task),
    })
}

/// The named types of a task, in the order of their definition.
fn types(task: &TaskSchema) -> Vec<String> {
    // Parameters and result share one table of definitions.
    task.result.definitions().iter().map(ToString::to_string).collect()
}

/// JSON whose texts a terminal does not act on, of the same meaning.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_active(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out += &format!("\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Text of somebody else's that stays on its line.
pub(crate) fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\\n").replace('\t', "\\t")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = if self.is_accepted() { "accepted" } else { "refused" };
        writeln!(f, "{}: {answer}", one_line(&self.path.to_string_lossy()))?;
        for Problem { message, remedy, .. } in &self.problems {
            writeln!(f, "  {message}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "    to take it: {remedy}")?;
            }
        }
        if self.is_partial {
            writeln!(f, "  there may be more reasons: to look further would take too much time or memory")?;
        }
        match self.id {
            Some(id) => writeln!(f, "  {}, profile `{}`, SHA-256 {id}", bytes_text(self.bytes), self.profile)?,
            None => writeln!(f, "  {}, profile `{}`", bytes_text(self.bytes), self.profile)?,
        }
        let Some(description) = &self.description else { return Ok(()) };
        write_entries(f, description)?;
        write_needs(f, description)?;
        write_imports(f, description)?;
        write_exports(f, description)?;
        writeln!(f, "\nMeasures{:>58} {:>12}  setting", "found", "limit")?;
        for Measure { what, setting, found, limit } in measures(&description.shape, &self.limits) {
            let mark = if found > limit { "  OVER" } else { "" };
            writeln!(f, "  {:<50} {found:>13} {limit:>12}  {setting}{mark}", shortened(&what))?;
        }
        Ok(())
    }
}

/// A limit's name where it is clear that it is a module's.
pub(crate) fn shortened(text: &str) -> &str {
    text.strip_suffix(" of a module").unwrap_or(text)
}

fn write_entries(f: &mut fmt::Formatter<'_>, description: &ModuleDescription) -> fmt::Result {
    writeln!(f, "\nEntry points")?;
    let undescribed = undescribed(description);
    if has_main(description) {
        writeln!(f, "  main")?;
    } else if description.tasks.is_empty() && undescribed.is_empty() {
        writeln!(f, "  none: nothing of it can be run")?;
    }
    for task in &description.tasks {
        let channel = if task.takes_channel { ", and talks on its channel" } else { "" };
        writeln!(f, "  {}{channel}", one_line(&task.to_string()))?;
        for line in printable(&task.help).lines().map(str::trim_end) {
            if line.is_empty() { writeln!(f) } else { writeln!(f, "      {line}") }?;
        }
        for ty in types(task) {
            writeln!(f, "      {}", one_line(&ty))?;
        }
        if opaque(task) {
            writeln!(f, "      cannot be called with JSON: an argument has no schema")?;
        }
    }
    for name in undescribed {
        writeln!(f, "  {}: a task without a description", one_line(name))?;
    }
    match &description.trouble {
        Some(error) => writeln!(f, "  its description of its tasks cannot be read: {}", one_line(&error.to_string())),
        None => Ok(()),
    }
}

/// Whether an argument is of a type that is not described.
fn opaque(task: &TaskSchema) -> bool {
    let is_opaque = |schema: &TypeSchema| matches!(schema.root(), Node::Opaque(_));
    task.parameters.iter().any(|parameter| is_opaque(&parameter.schema))
}

fn write_needs(f: &mut fmt::Formatter<'_>, description: &ModuleDescription) -> fmt::Result {
    writeln!(f, "\nNeeds")?;
    let features: Vec<&str> = description.shape.features.features().map(|it| it.name()).collect();
    let features = if features.is_empty() { "none beyond `minimal`".to_owned() } else { features.join(", ") };
    writeln!(f, "  {:<16} {features}", "features")?;
    for need in needs(description) {
        writeln!(f, "  {:<16} {}", need.what, need.given)?;
    }
    Ok(())
}

fn write_imports(f: &mut fmt::Formatter<'_>, description: &ModuleDescription) -> fmt::Result {
    let mut by_module: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for import in &description.imports {
        by_module.entry(&import.module).or_default().push(named(&import.name, import.kind.name()));
    }
    let more = if description.is_cut { " at least" } else { "" };
    writeln!(f, "\nImports: {}{more}", description.imports.len())?;
    for (module, names) in by_module {
        writeln!(f, "  from {}", one_line(module))?;
        write_names(f, &names)?;
    }
    Ok(())
}

fn write_exports(f: &mut fmt::Formatter<'_>, description: &ModuleDescription) -> fmt::Result {
    let more = if description.is_cut { " at least" } else { "" };
    writeln!(f, "\nExports: {}{more}", description.exports.len())?;
    let names: Vec<String> = description.exports.iter().map(|it| named(&it.name, it.kind.name())).collect();
    write_names(f, &names)
}

/// A name, with its kind unless it is the usual one.
fn named(name: &str, kind: &str) -> String {
    let name = one_line(name);
    if kind == "function" { name } else { format!("{name} ({kind})") }
}

fn write_names(f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
    let mut line = String::new();
    for (at, name) in names.iter().take(MAX_NAMES).enumerate() {
        let comma = if at + 1 == names.len() { "" } else { "," };
        if !line.is_empty() && line.len() + name.len() + 2 > WIDTH {
            writeln!(f, "     {line}")?;
            line.clear();
        }
        line += &format!(" {name}{comma}");
    }
    if !line.is_empty() {
        writeln!(f, "     {line}")?;
    }
    match names.len().checked_sub(MAX_NAMES + 1) {
        Some(more) => writeln!(f, "      and {} more, which `--json` lists", more + 1),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_without_a_change_of_meaning() {
        let text = "a\u{9b}2J\u{202e}b\u{1b}";
        let json = escaped(&json!([text]).to_string());
        assert!(json.chars().all(|c| !is_active(c)), "{json}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!([text]));
    }

    #[test]
    fn a_file_that_was_not_read_is_reported_all_the_same() {
        let problem = Problem { kind: "limit", message: "too large".to_owned(), remedy: Some("`module=1`".to_owned()) };
        let report = Report {
            path: "a\u{1b}\n.wasm".into(),
            bytes: 1,
            id: None,
            profile: Profile::MINIMAL,
            limits: AllLimits::default(),
            description: None,
            problems: vec![problem],
            is_partial: true,
        };
        let text = report.to_string();
        assert!(text.starts_with("a\\u{1b}\\n.wasm: refused\n  too large\n"), "{text}");
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!((&json["accepted"], &json["sha256"]), (&json!(false), &Value::Null));
        assert!(text.contains("there may be more reasons") && json["problems_are_partial"] == json!(true));
    }
}

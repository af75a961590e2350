//! Where the inputs of a run come from: one after the other, read when they are asked for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};
use sha2::{Digest, Sha256};

/// The largest input. A worker takes no larger message unless its gateway says so.
const DEFAULT_MAX_BYTES: u64 = 64 << 20;

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// Its position, from 0.
    pub(crate) index: u64,
    /// The file it is the content of.
    pub(crate) path: Option<PathBuf>,
    /// Its bytes, without the separator.
    pub(crate) bytes: Vec<u8>,
}

impl Input {
    /// By which a journal knows it again.
    pub(crate) fn digest(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        if let Some(path) = &self.path {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update([0]);
        }
        hash.update(&self.bytes);
        let digest = hash.finalize();
        std::array::from_fn(|at| digest[at])
    }
}

/// Why there is no input.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("input {index} cannot be read")]
    Read { index: u64, source: io::Error },
    #[error("input `{}` cannot be read", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{what} is larger than {limit} bytes (setting `--max-input`)")]
    TooLarge { what: String, limit: u64 },
    #[error("there is no file `{0}`")]
    Missing(String),
    #[error("`{pattern}` is no pattern")]
    Pattern { pattern: String, source: glob::PatternError },
    #[error("no file matches `{0}`")]
    NoMatch(String),
}

impl InputError {
    /// Whether the inputs behind this one can still be had.
    pub(crate) fn is_of_one_input(&self) -> bool {
        matches!(self, InputError::File { .. } | InputError::TooLarge { .. })
    }
}

/// How a stream is cut into inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Separator {
    /// A line break; a carriage return before it is left out, and so is the end of the last line.
    Line,
    /// A NUL byte.
    Nul,
}

impl Separator {
    fn byte(self) -> u8 {
        match self {
            Separator::Line => b'\n',
            Separator::Nul => 0,
        }
    }
}

/// The inputs of a run, in order.
pub(crate) struct Inputs {
    source: Source,
    next: u64,
    max_bytes: u64,
    /// What was read cannot be gone on from.
    ended: bool,
}

enum Source {
    Stream { reader: BufReader<Box<dyn Read + Send>>, separator: Separator },
    Files(std::vec::IntoIter<PathBuf>),
}

impl Inputs {
    /// The parts of a stream.
    pub(crate) fn stream(reader: impl Read + Send + 'static, separator: Separator) -> Inputs {
        let reader = BufReader::with_capacity(1 << 18, Box::new(reader) as Box<dyn Read + Send>);
        Inputs::of(Source::Stream { reader, separator })
    }

    /// The content of files: those named, the ordinary files that patterns match, and all of them in the directories among
    /// both, sorted.
    pub(crate) fn files(names: &[impl AsRef<OsStr>]) -> Result<Inputs, InputError> {
        let mut paths = Vec::new();
        for name in names {
            find(name.as_ref(), &mut paths)?;
        }
        Ok(Inputs::of(Source::Files(paths.into_iter())))
    }

    fn of(source: Source) -> Inputs {
        Inputs { source, next: 0, max_bytes: DEFAULT_MAX_BYTES, ended: false }
    }

    /// Refuses inputs that are larger than this.
    pub(crate) fn max_bytes(mut self, bytes: u64) -> Inputs {
        self.max_bytes = bytes;
        self
    }

    /// Whether the next one is there without anything being read, which may take as long as it likes.
    pub(crate) fn is_at_hand(&self) -> bool {
        match &self.source {
            Source::Stream { reader, separator } => reader.buffer().contains(&separator.byte()),
            Source::Files(_) => false,
        }
    }

    /// The files that are left.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        match &self.source {
            Source::Stream { .. } => &[],
            Source::Files(files) => files.as_slice(),
        }
    }

    fn pull(&mut self) -> Option<Result<Input, InputError>> {
        let (index, limit) = (self.next, self.max_bytes);
        match &mut self.source {
            Source::Stream { reader, separator } => match part(reader, *separator, limit) {
                Ok(Part::Whole(bytes)) => Some(Ok(Input { index, path: None, bytes })),
                Ok(Part::TooLarge) => Some(Err(InputError::TooLarge { what: format!("input {index}"), limit })),
                Ok(Part::End) => None,
                Err(source) => Some(Err(InputError::Read { index, source })),
            },
            Source::Files(files) => {
                let path = files.next()?;
                Some(content(&path, limit).map(|bytes| Input { index, path: Some(path), bytes }))
            }
        }
    }
}

impl Iterator for Inputs {
    type Item = Result<Input, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let pulled = self.pull();
        self.next += 1;
        self.ended = match &pulled {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(error)) => !error.is_of_one_input(),
        };
        pulled
    }
}

enum Part {
    Whole(Vec<u8>),
    TooLarge,
    End,
}

fn part(reader: &mut impl BufRead, separator: Separator, limit: u64) -> io::Result<Part> {
    let mut bytes = Vec::new();
    // Two more, for the separator.
    reader.by_ref().take(limit.saturating_add(2)).read_until(separator.byte(), &mut bytes)?;
    if bytes.is_empty() {
        return Ok(Part::End);
    }
    let complete = bytes.last() == Some(&separator.byte());
    if complete {
        bytes.pop();
        if separator == Separator::Line && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.len() as u64 <= limit {
        return Ok(Part::Whole(bytes));
    }
    if !complete {
        reader.skip_until(separator.byte())?;
    }
    Ok(Part::TooLarge)
}

fn content(path: &Path, limit: u64) -> Result<Vec<u8>, InputError> {
    let failed = |source| InputError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(InputError::TooLarge { what: format!("`{}`", path.display()), limit });
    }
    Ok(bytes)
}

fn find(name: &OsStr, paths: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let path = Path::new(name);
    if path.is_dir() {
        return beneath(path, paths);
    }
    // A file that is called like a pattern is meant itself.
    if path.exists() {
        paths.push(path.to_owned());
        return Ok(());
    }
    // What is not UTF-8 is a name.
    let Some(name) = name.to_str().filter(|name| name.contains(['*', '?', '['])) else {
        return Err(InputError::Missing(path.display().to_string()));
    };
    let pattern = |source| InputError::Pattern { pattern: name.to_owned(), source };
    let before = paths.len();
    if name.contains("**") {
        let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
        find_deep(&plain, &Pattern::new(&plain.to_string_lossy()).map_err(pattern)?, paths)?;
        return if paths.len() == before { Err(InputError::NoMatch(name.to_owned())) } else { Ok(()) };
    }
    for found in glob::glob(name).map_err(pattern)? {
        let found = found.map_err(|error| InputError::File { path: error.path().to_owned(), source: error.into() })?;
        if found.is_dir() {
            beneath(&found, paths)?;
        } else if found.is_file() {
            // No pipe or device, whose turn might never end.
            paths.push(found);
        }
    }
    if paths.len() == before { Err(InputError::NoMatch(name.to_owned())) } else { Ok(()) }
}

/// What a pattern matches that goes into directories, however deep. As in a directory, links to directories are not followed,
/// and a file that is matched, and is in a directory that is, is one input.
fn find_deep(name: &Path, pattern: &Pattern, paths: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let is_plain = |part: &Component<'_>| !part.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte));
    let start: PathBuf = name.components().take_while(is_plain).collect();
    let start = if start.as_os_str().is_empty() { Path::new(".") } else { &start };
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let is_matched = |path: &Path| pattern.matches_path_with(path.strip_prefix("./").unwrap_or(path), options);
    // How deep the directory that is matched is, whose files all count.
    let mut within: Option<usize> = None;
    for entry in walkdir::WalkDir::new(start).sort_by_file_name() {
        let entry = entry.map_err(|error| unreadable(error, start))?;
        within = within.filter(|depth| entry.depth() > *depth);
        let counts = within.is_some() || is_matched(entry.path());
        if counts && entry.path().is_file() {
            paths.push(entry.path().strip_prefix("./").unwrap_or(entry.path()).to_owned());
        } else if counts && entry.file_type().is_dir() {
            within = within.or(Some(entry.depth()));
        }
    }
    Ok(())
}

fn unreadable(error: walkdir::Error, directory: &Path) -> InputError {
    InputError::File { path: error.path().unwrap_or(directory).to_owned(), source: error.into() }
}

/// All files beneath a directory. Links to directories are not followed, so that there is an end.
fn beneath(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<(), InputError> {
    for entry in walkdir::WalkDir::new(directory).sort_by_file_name() {
        let entry = entry.map_err(|error| unreadable(error, directory))?;
        if entry.path().is_file() {
            paths.push(entry.into_path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn check(text: &[u8], separator: Separator, expected: &[&[u8]]) {
        let inputs = Inputs::stream(io::Cursor::new(text.to_vec()), separator);
        let inputs: Vec<Input> = inputs.map(Result::unwrap).collect();
        let bytes: Vec<&[u8]> = inputs.iter().map(|input| &input.bytes[..]).collect();
        assert_eq!(bytes, expected, "{}", String::from_utf8_lossy(text));
        assert!(inputs.iter().enumerate().all(|(at, input)| input.index == at as u64));
    }

    #[test]
    fn streams_are_cut_where_they_should_be() {
        check(b"", Separator::Line, &[]);
        check(b"a", Separator::Line, &[b"a"]);
        check(b"a\n", Separator::Line, &[b"a"]);
        check(b"a\r\n\r\n\nb", Separator::Line, &[b"a", b"", b"", b"b"]);
        check(b"a\xff\r", Separator::Line, &[b"a\xff\r"]);
        check(b"a\n\0b\0\0c", Separator::Nul, &[b"a\n", b"b", b"", b"c"]);
    }

    #[test]
    fn what_is_too_large_is_left_out_and_the_rest_goes_on() {
        for text in ["abc\nabcd\nabcdefgh\nx\r\nabcd", "abc\r\nabcd\r\nabcdefghijklmnop\nx\nabcde"] {
            let inputs = Inputs::stream(io::Cursor::new(text.to_owned()), Separator::Line).max_bytes(3);
            let found: Vec<Option<u64>> = inputs.map(|input| input.ok().map(|input| input.index)).collect();
            assert_eq!(found, [Some(0), None, None, Some(3), None], "{text:?}");
        }
    }

    #[test]
    fn files_are_found_by_name_by_pattern_and_in_directories() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_str().unwrap();
        for name in ["b/2.txt", "b/1.txt", "b/c/3.md", "a.txt", "[x].txt"] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let check = |names: &[&str], expected: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| format!("{root}/{name}")).collect();
            let inputs = Inputs::files(&names).unwrap();
            assert_eq!(inputs.paths().len(), expected.len());
            let found: Vec<String> = inputs.map(|input| String::from_utf8(input.unwrap().bytes).unwrap()).collect();
            assert_eq!(found, expected, "{names:?}");
        };
        check(&["a.txt", "b"], &["a.txt", "b/1.txt", "b/2.txt", "b/c/3.md"]);
        check(&["b/*.txt"], &["b/1.txt", "b/2.txt"]);
        check(&["**/*.md"], &["b/c/3.md"]);
        check(&["[x].txt"], &["[x].txt"]);
        let odd = directory.path().join(OsStr::from_bytes(b"\xff"));
        std::fs::write(&odd, "odd").unwrap();
        assert_eq!(Inputs::files(&[&odd]).unwrap().paths(), [odd]);
        let _socket = UnixListener::bind(directory.path().join("b/socket")).unwrap();
        std::os::unix::fs::symlink("nowhere", directory.path().join("b/dangling")).unwrap();
        check(&["b/*"], &["b/1.txt", "b/2.txt", "b/c/3.md"]);
        for link in ["b/c/loop", "b/loop"] {
            std::os::unix::fs::symlink("..", directory.path().join(link)).unwrap();
        }
        check(&["b/**/*"], &["b/1.txt", "b/2.txt", "b/c/3.md"]);
        check(&["**/c"], &["b/c/3.md"]);
        check(&["**/[0-9].txt"], &["b/1.txt", "b/2.txt"]);
        check(&["b"], &["b/1.txt", "b/2.txt", "b/c/3.md"]);
        let failure = |name: &str| Inputs::files(&[format!("{root}/{name}")]).err().map(|error| error.to_string());
        assert!(failure("none.txt").unwrap().starts_with("there is no file"));
        assert!(failure("*.none").unwrap().starts_with("no file matches"));
        assert!(failure("***").unwrap().ends_with("is no pattern"));
    }

    #[test]
    fn a_file_that_is_gone_is_one_failed_input() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c"].map(|name| directory.path().join(name));
        names.iter().for_each(|name| std::fs::write(name, "x").unwrap());
        let inputs = Inputs::files(&[directory.path().to_str().unwrap().to_owned()]).unwrap();
        std::fs::remove_file(&names[1]).unwrap();
        assert_eq!(inputs.map(|input| input.is_ok()).collect::<Vec<_>>(), [true, false, true]);
    }
}

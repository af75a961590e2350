//! How far the audit is: a bar on a terminal, a line now and then elsewhere. Both on stderr.

use std::io::Write as _;

use indicatif::{ProgressBar, ProgressStyle};

const TEMPLATE: &str = "{msg} {wide_bar} {pos}/{len} files {per_sec} {eta}";
/// Lines of a whole pass where there is no terminal.
const LINES: usize = 4;

/// Counts files.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    bar: ProgressBar,
    files: usize,
    done: usize,
}

impl Progress {
    pub(crate) fn new(what: &str, files: usize) -> Progress {
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(files as u64).with_style(style).with_message(what.to_owned());
        Progress { what: what.to_owned(), bar, files, done: 0 }
    }

    pub(crate) fn add_one(&mut self) {
        self.bar.inc(1);
        self.done += 1;
        let (part, before) = (self.done * LINES / self.files, (self.done - 1) * LINES / self.files);
        if self.bar.is_hidden() && part > before {
            // Whoever has closed stderr does not want to know.
            let _ = writeln!(std::io::stderr(), "{}: {} of {} files", self.what, self.done, self.files);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! The page: what it holds is what was recorded, and a browser shows it, if there is one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::see::synthetic::{EVIL, Synthetic};

/// A variable that names a directory where pages stay, to be looked at; two are written there, one of 100,000 tasks.
const KEEP: &str = "SANDGATE_KEEP_REPORTS";

struct Made {
    html: String,
    runs: Runs,
    run: Synthetic,
    tally: Tally,
}

fn make(tasks: u64, gateways: usize) -> Made {
    let run = Synthetic::new(tasks, gateways);
    let mut tally = Tally::new(gateways);
    let runs = || {
        let (mut recorder, mut tally) = (Recorder::default(), Tally::new(gateways));
        for event in &run.events {
            if let Some(ended) = tally.take(event) {
                recorder.run(&ended, Some(&run.names[usize::try_from(ended.task).unwrap()]));
            }
        }
        recorder.finish(gateways)
    };
    for event in &run.events {
        tally.take(event);
    }
    let end = tally.last_end;
    for (gateway, place) in tally.gateways.iter_mut().enumerate() {
        for step in 0..400_u32 {
            let bytes = (20 << 20) + (u64::from(step) * 7919 + gateway as u64 * 104_729) % (30 << 20);
            place.memory_is(end / 400 * step, Some(bytes));
        }
    }
    let facts = Facts { module: "parse & <check>.wasm".to_owned(), gateways, ..Facts::default() };
    let page = Page { facts: &facts, tally: &tally, failures: &run.failures, stats: &run.stats, runs: runs() };
    let mut html = Vec::new();
    page.write(&mut html).unwrap();
    Made { html: String::from_utf8(html).unwrap(), runs: runs(), tally, run }
}

/// The bytes of a block of data, without a browser.
fn block(html: &str, name: &str) -> Vec<u8> {
    let open = format!("<script type=\"text/plain\" id=\"d-{name}\">");
    let from = html.find(&open).unwrap() + open.len();
    let to = from + html[from..].find("</script>").unwrap();
    BASE64_STANDARD.decode(&html[from..to]).unwrap()
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    assert_eq!(bytes.len() % N, 0);
    bytes.chunks(N).map(|chunk| number(chunk.try_into().unwrap())).collect()
}

#[test]
fn the_data_of_a_page_is_what_was_recorded() {
    let made = make(2000, 3);
    let column = |name| block(&made.html, name);
    assert_eq!(numbers(&column("start"), f64::from_le_bytes), made.runs.start_us);
    assert_eq!(numbers(&column("took"), f32::from_le_bytes), made.runs.took_us);
    assert_eq!(numbers(&column("task"), u32::from_le_bytes), made.runs.task);
    assert_eq!(numbers(&column("name"), u32::from_le_bytes), made.runs.name);
    assert_eq!(column("outcome"), made.runs.outcome);
    assert_eq!(column("attempt"), made.runs.attempt);
    let (names, ends) = (column("names"), numbers(&column("ends"), u32::from_le_bytes));
    for (row, &task) in made.runs.task.iter().enumerate() {
        let name = made.runs.name[row] as usize;
        let from = if name == 0 { 0 } else { ends[name - 1] as usize };
        assert_eq!(String::from_utf8_lossy(&names[from..ends[name] as usize]), made.run.names[task as usize]);
    }
    let is_last = |outcome: &&u8| **outcome & runs::AGAIN == 0;
    assert_eq!(made.runs.outcome.iter().filter(is_last).count(), 2000);
    let meta: Value = serde_json::from_slice(&column("meta")).unwrap();
    assert_eq!(meta["offsets"].as_array().unwrap().last().unwrap(), made.runs.start_us.len());
    let counts: Vec<u64> = serde_json::from_value(meta["counts"].clone()).unwrap();
    assert_eq!(counts, made.tally.outcomes);
    let causes = meta["causes"].as_array().unwrap();
    let all: u64 = causes.iter().map(|cause| cause["count"].as_u64().unwrap()).sum();
    assert_eq!(all, made.run.failures.count);
    assert_eq!(meta["marks"].as_array().unwrap().len(), made.tally.marks.len());
}

#[test]
fn nothing_that_a_guest_says_is_markup() {
    let made = make(1000, 2);
    let outside: String = made.html.split("<script type=\"text/plain\"").next().unwrap().to_owned();
    assert!(outside.contains("parse &amp; &lt;check&gt;.wasm"));
    for evil in [EVIL, "owned", "<check>"] {
        assert!(!made.html.contains(evil), "{evil}");
    }
    let meta = String::from_utf8(block(&made.html, "meta")).unwrap();
    assert!(meta.contains("owned"), "else nothing was tried");
    assert!(!STYLE.contains("url(") && !BODY.contains("http") && !SCRIPT.contains("http"), "a page loads nothing");
    assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("</script"));
}

#[test]
fn a_report_of_nothing_is_a_page() {
    let made = make(0, 1);
    assert!(made.html.contains("id=\"n-tasks\">0<"));
    let Some(dom) = dump(&made.html, "") else { return };
    assert!(dom.contains("in the timeline: nothing"), "{}", tail(&dom));
}

#[test]
fn a_browser_shows_the_numbers_and_finds_no_error() {
    let made = make(1000, 4);
    let (done, failed) = (made.run.stats.done, made.run.stats.failed());
    assert!(failed > 0 && made.run.stats.lost_workers > 0, "else little is shown");
    let Some(dom) = dump(&made.html, "#open") else { return };
    let shown = |text: &str| assert!(dom.contains(text), "`{text}` is not shown: {}", tail(&dom));
    shown(&format!("id=\"n-done\">{}<", count(done)));
    shown(&format!("id=\"n-failed\" class=\"bad\">{}<", count(failed)));
    shown(&format!("in the timeline: {} returned", count(done)));
    shown("1,000 tasks: p50 ");
    shown("unexpected end of file");
    shown("parser::parse_header");
    // As text, wherever it stands.
    shown("&lt;/script&gt;&lt;script&gt;document.title='owned'");
    assert!(!dom.contains("<title>owned"), "a guest's text was run");
}

/// The document as a browser has it once the page has run, and nothing was complained of; `None` if there is no browser.
fn dump(html: &str, fragment: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    std::fs::write(&page, html).unwrap();
    let Some(browser) = browser() else {
        let _ = writeln!(io::stderr(), "skipped: there is no chromium to show the page");
        return None;
    };
    let profile = dir.path().join("profile");
    let url = format!("file://{}{fragment}", page.display());
    let (dom, log) = run(&browser, &profile, &["--dump-dom", "--enable-logging=stderr", &url]);
    assert!(dom.contains("data-ready="), "the page's script has not come to its end: {log}");
    let errors = dom.split("<pre id=\"errors\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    assert_eq!(errors, Some(""), "errors of the page");
    let complaint = log.lines().find(|line| line.contains("CONSOLE"));
    assert_eq!(complaint, None, "on the console");
    Some(dom)
}

#[expect(clippy::disallowed_methods, reason = "the browser is waited for, with a deadline")]
fn run(browser: &Path, profile: &Path, arguments: &[&str]) -> (String, String) {
    let dir = profile.parent().unwrap();
    let (out, log) = (dir.join("out"), dir.join("log"));
    let file = |path: &Path| std::fs::File::create(path).unwrap();
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--window-size=1400,1000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&log))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let (never, tick) = (never_anything(), Duration::from_millis(20));
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the browser has not ended: {}", std::fs::read_to_string(&log).unwrap());
        }
        let _ = never.1.recv_timeout(tick);
    }
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    (read(&out), read(&log))
}

/// A channel on which nothing comes, to wait on.
fn never_anything() -> (std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>) {
    std::sync::mpsc::channel()
}

fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    found.find(|file| file.is_file())
}

fn tail(text: &str) -> &str {
    crate::see::text::tail(text, 3000)
}

#[test]
fn pages_can_be_kept_to_be_looked_at() {
    let Some(dir) = std::env::var_os(KEEP).map(PathBuf::from) else { return };
    for (tasks, gateways) in [(1000, 4), (100_000, 8), (100_000, 64)] {
        let start = Instant::now();
        let made = make(tasks, gateways);
        let text = crate::see::summary::text(&made.tally, &made.run.failures, &made.run.stats);
        std::fs::write(dir.join(format!("{tasks}-{gateways}.html")), &made.html).unwrap();
        std::fs::write(dir.join(format!("{tasks}-{gateways}.txt")), text).unwrap();
        let _ = writeln!(io::stderr(), "{tasks} tasks: {} bytes, made in {:?}", made.html.len(), start.elapsed());
    }
}

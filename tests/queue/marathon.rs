//! Many tasks over three workers that are killed and frozen in turn, while the server is restarted twice. How many is in
//! `SANDGATE_QUEUE_TASKS`; without it, few enough for every day.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::{Running, Watched, within};

use crate::client::Client;
use crate::commands::lines;
use crate::server::Server;

const TASKS: u64 = 6_000;
/// How long all of it may take, for every thousand tasks.
const FOR_EACH_THOUSAND: Duration = Duration::from_secs(20);
/// Between two blows.
const BETWEEN: Duration = Duration::from_millis(400);

#[test]
fn every_result_is_there_once_whatever_happens() {
    let Some(mut server) = Server::start("") else { return };
    let tasks = std::env::var("SANDGATE_QUEUE_TASKS").map_or(TASKS, |count| count.parse().unwrap());
    let limit = FOR_EACH_THOUSAND * u32::try_from(tasks / 1000 + 5).unwrap();
    let started = Instant::now();
    // Long enough for blows to fall while there is work.
    let millis = if tasks > TASKS { 1 } else { 4 };
    let input = lines(tasks, |number| format!("[{number}, {millis}]"));
    let expected = lines(tasks, |number| (number * 2).to_string());
    let words = ["--job", "marathon", "--json", "--task", "slowly", "@pooled"];
    let _ = server.submit(&words, &input).well();
    let submitted = started.elapsed();

    let start = |server: &Server| server.work(&["--jobs", "1", "--ack-wait", "2s", "--max-deliveries", "1000"]);
    let mut workers: Vec<Running> = (0..3).map(|_| start(&server)).collect();
    let url = server.url();
    let collected = std::sync::Arc::new(AtomicBool::new(false));
    let done = std::sync::Arc::clone(&collected);
    let collect = std::thread::Builder::new().name("collect".to_owned()).spawn(move || {
        let words = ["collect", "--nats", &url, "marathon"];
        let came = crate::commands::run(&words, b"", &[], limit);
        done.store(true, Ordering::Release);
        came
    });
    let (mut kills, mut freezes, mut restarts) = (0, 0, 0);
    let mut blow = 0;
    while !collected.load(Ordering::Acquire) && started.elapsed() < limit {
        std::thread::park_timeout(BETWEEN);
        let which = blow % 3;
        let watched = Watched::new(workers[which].pid());
        match blow % 4 {
            0 | 2 => {
                workers[which].kill();
                workers[which] = start(&server);
                kills += 1;
            }
            1 => {
                // Longer than a task may go without a sign of life.
                watched.signal(Signal::STOP);
                std::thread::park_timeout(Duration::from_millis(2500));
                watched.signal(Signal::CONT);
                freezes += 1;
            }
            _ if restarts < 2 => {
                server.kill();
                std::thread::park_timeout(BETWEEN);
                assert!(server.start_again(), "it starts again");
                restarts += 1;
            }
            _ => {}
        }
        blow += 1;
    }
    let came = within(limit, "the end of the collection", move || collect.unwrap().join().unwrap());
    let taken = started.elapsed();
    let stored = Client::to(&server).messages("sandgate_results");
    assert_eq!((came.code, restarts), (Some(0), 2), "{}", came.stderr);
    assert!(came.stdout == expected, "results are not those of the inputs, in order and once each");
    tell(&format!(
        "{tasks} tasks submitted in {submitted:.1?}, all of it in {taken:.1?}: {kills} kills, {freezes} freezes, \
         {restarts} restarts; {stored} results stored",
    ));
}

#[expect(clippy::print_stderr, reason = "figures, for who asks for them")]
pub(crate) fn tell(text: &str) {
    eprintln!("{text}");
}

//! The plots of a run, each as the text of an SVG: which figures stand in which, and how their axes are marked. How a
//! chart is drawn is for [`svg`] to know.

mod svg;

use crate::plot::svg::{Axis, Chart, Curve, Place, Scale};
use crate::results::{Line, Results};
use crate::rows::Plot;
use crate::stats::Spread;

/// Each plot that has figures: its name and its text.
pub(crate) fn all(results: &Results) -> Vec<(&'static str, String)> {
    let plots = [Plot::Gateways, Plot::TaskLength, Plot::Latency, Plot::PayloadSize];
    plots.into_iter().filter_map(|plot| Some((name(plot), chart(results, plot)?.render()))).collect()
}

fn name(plot: Plot) -> &'static str {
    match plot {
        Plot::Gateways => "gateways",
        Plot::TaskLength => "task-length",
        Plot::Latency => "latency",
        Plot::PayloadSize => "payload-size",
    }
}

fn chart(results: &Results, plot: Plot) -> Option<Chart> {
    let lines: Vec<&Line> =
        results.lines.iter().filter(|line| line.point.is_some_and(|point| point.plot == plot)).collect();
    let curves = if plot == Plot::Latency { distributions(&lines) } else { curves(&lines) };
    if curves.iter().all(|curve| curve.places.is_empty()) {
        return None;
    }
    let axis = |label: &str, scale, mark: fn(f64) -> String| Axis { label: label.to_owned(), scale, mark };
    let (title, x, y) = match plot {
        Plot::Gateways => (
            format!("Tasks of 100 µs by number of gateways ({} cores)", results.machine.cores),
            axis("gateways, or threads", Scale::Linear { from_zero: true }, plain),
            axis("tasks a second", Scale::Linear { from_zero: true }, plain),
        ),
        Plot::TaskLength => (
            format!("Share of {} cores' time that is spent in tasks, by their length", results.machine.cores),
            axis("length of a task", Scale::Logarithmic, micros),
            axis("share of the ideal", Scale::Linear { from_zero: true }, percent),
        ),
        Plot::Latency => (
            "16 bytes to a task and back: share of answers by time".to_owned(),
            axis("time from a message to its answer", Scale::Logarithmic, seconds),
            axis("share that came sooner", Scale::Linear { from_zero: true }, percent),
        ),
        Plot::PayloadSize => (
            "A message to a task and back, by its size".to_owned(),
            axis("size of the message", Scale::Logarithmic, bytes),
            axis("megabytes a second, each byte counted once", Scale::Logarithmic, plain),
        ),
    };
    Some(Chart { title, subtitle: results.machine.summary(), x, y, curves })
}

/// The curves of both sides: medians, with the quartiles above and below.
fn curves(lines: &[&Line]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for line in lines {
        let Some(point) = line.point else { continue };
        for (name, spread) in [(point.ours, &line.ours), (point.other, &line.other)] {
            let Some(spread) = spread.as_ref().filter(|_| !name.is_empty()) else { continue };
            curve(&mut curves, name).places.push(place(point.x, point.factor, spread));
        }
    }
    curves
}

fn place(x: f64, factor: f64, spread: &Spread) -> Place {
    let range = spread.quartiles.map(|value| value * factor);
    Place { x, y: spread.median * factor, range: Some(range) }
}

/// The curves of the quantiles of both sides.
fn distributions(lines: &[&Line]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for line in lines {
        let (Some(point), Some(distributions)) = (line.point, &line.distributions) else { continue };
        for (name, quantiles) in [point.ours, point.other].into_iter().zip(distributions) {
            // The slowest of all is one sample's bad luck.
            for (percent, &seconds) in (0..100).zip(quantiles) {
                let place = Place { x: seconds, y: f64::from(percent) / 100.0, range: None };
                curve(&mut curves, name).places.push(place);
            }
        }
    }
    curves
}

fn curve<'a>(curves: &'a mut Vec<Curve>, name: &str) -> &'a mut Curve {
    let index = curves.iter().position(|curve| curve.name == name).unwrap_or_else(|| {
        curves.push(Curve { name: name.to_owned(), places: Vec::new() });
        curves.len() - 1
    });
    &mut curves[index]
}

fn plain(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value => format!("{value}"),
    }
}

fn percent(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

fn micros(value: f64) -> String {
    if value >= 1e3 { format!("{} ms", value / 1e3) } else { format!("{value} µs") }
}

fn seconds(value: f64) -> String {
    // Marks are powers of ten, and a float is not always exactly one.
    micros((value * 1e9).round() / 1e3)
}

fn bytes(value: f64) -> String {
    match value {
        value if value >= f64::from(1 << 20) => format!("{} MiB", value / f64::from(1 << 20)),
        value if value >= 1024.0 => format!("{} KiB", value / 1024.0),
        value => format!("{value} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_readable() {
        let check = |mark: fn(f64) -> String, value, expected| assert_eq!(mark(value), expected);
        check(plain, 20_000.0, "20 k");
        check(plain, 500.0, "500");
        check(percent, 0.2, "20 %");
        check(micros, 10_000.0, "10 ms");
        check(seconds, 1e-4, "100 µs");
        check(bytes, 65536.0, "64 KiB");
        check(bytes, 16.0, "16 B");
    }
}

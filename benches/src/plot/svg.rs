//! Draws a chart of curves as SVG. Knows numbers and names, not what they mean.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 140.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 56.0;
/// Told apart also by who does not see colours: their lines differ, too.
const STYLES: [(&str, &str); 4] = [("#1f5fa8", ""), ("#c8641e", "7 4"), ("#5b7f3a", "2 3"), ("#777777", "9 3 2 3")];
const INK: &str = "#333333";
const GRID: &str = "#dddddd";

pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) curves: Vec<Curve>,
}

pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// What stands at a mark.
    pub(crate) mark: fn(f64) -> String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear { from_zero: bool },
    Logarithmic,
}

#[derive(Debug)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) places: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Drawn as a line from one to the other.
    pub(crate) range: Option<[f64; 2]>,
}

/// An axis with its ends, and where its marks are.
struct Span {
    from: f64,
    to: f64,
    scale: Scale,
    marks: Vec<f64>,
}

impl Chart {
    pub(crate) fn render(&self) -> String {
        let places = || self.curves.iter().flat_map(|curve| &curve.places);
        let mut xs: Vec<f64> = places().map(|place| place.x).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        let of_y = places().flat_map(|place| place.range.into_iter().flatten().chain([place.y])).collect::<Vec<_>>();
        // A few values are their own marks.
        let few = (2..=8).contains(&xs.len()).then(|| xs.clone());
        let (x, y) = (Span::over(&xs, self.x.scale, few), Span::over(&of_y, self.y.scale, None));
        let at_x = |value| LEFT + x.part(value) * (WIDTH - LEFT - RIGHT);
        let at_y = |value| HEIGHT - BOTTOM - y.part(value) * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"{INK}\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, [LEFT, 26.0], "font-size=\"15\" font-weight=\"bold\"", &self.title);
        text(&mut svg, [LEFT, 44.0], "font-size=\"11\" fill=\"#666666\"", &self.subtitle);
        for &mark in &x.marks {
            line(&mut svg, [at_x(mark), TOP], [at_x(mark), HEIGHT - BOTTOM], GRID);
            text(&mut svg, [at_x(mark), HEIGHT - BOTTOM + 18.0], "text-anchor=\"middle\"", &(self.x.mark)(mark));
        }
        for &mark in &y.marks {
            line(&mut svg, [LEFT, at_y(mark)], [WIDTH - RIGHT, at_y(mark)], GRID);
            text(&mut svg, [LEFT - 8.0, at_y(mark) + 4.0], "text-anchor=\"end\"", &(self.y.mark)(mark));
        }
        line(&mut svg, [LEFT, HEIGHT - BOTTOM], [WIDTH - RIGHT, HEIGHT - BOTTOM], INK);
        line(&mut svg, [LEFT, TOP], [LEFT, HEIGHT - BOTTOM], INK);
        let middle = |from: f64, to: f64| f64::midpoint(from, to);
        text(&mut svg, [middle(LEFT, WIDTH - RIGHT), HEIGHT - 14.0], "text-anchor=\"middle\"", &self.x.label);
        let at = [18.0, middle(TOP, HEIGHT - BOTTOM)];
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 {} {})\"", at[0], at[1]);
        text(&mut svg, at, &turned, &self.y.label);

        for (index, curve) in self.curves.iter().enumerate() {
            let (colour, dashes) = STYLES[index % STYLES.len()];
            let mut sorted = curve.places.clone();
            sorted.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y)));
            let path: Vec<String> =
                sorted.iter().map(|place| format!("{:.1},{:.1}", at_x(place.x), at_y(place.y))).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
                path.join(" ")
            );
            for place in sorted.iter().filter(|place| place.range.is_some()) {
                let [low, high] = place.range.unwrap_or_default();
                line(&mut svg, [at_x(place.x), at_y(low)], [at_x(place.x), at_y(high)], colour);
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                    at_x(place.x),
                    at_y(place.y)
                );
            }
            let height = TOP + 12.0 + 22.0 * index as f64;
            let _ = writeln!(
                svg,
                "<path d=\"M{} {height}h28\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
                WIDTH - RIGHT + 14.0
            );
            text(&mut svg, [WIDTH - RIGHT + 48.0, height + 4.0], "", &curve.name);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Span {
    fn over(values: &[f64], scale: Scale, marks: Option<Vec<f64>>) -> Span {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match scale {
            Scale::Linear { from_zero } => {
                let from = if from_zero { 0.0 } else { least };
                let step = step((most - from).max(f64::MIN_POSITIVE));
                let to = from + ((most - from) / step - 1e-9).ceil().max(1.0) * step;
                let regular =
                    || (0..=20).map(|turn| from + f64::from(turn) * step).take_while(|mark| *mark <= to * 1.001);
                Span { from, to, scale, marks: marks.unwrap_or_else(|| regular().collect()) }
            }
            Scale::Logarithmic => {
                let (from, to) = match &marks {
                    Some(_) => (least, most),
                    None => (
                        round_numbers().rfind(|it| *it <= least * 1.001).unwrap_or(least),
                        round_numbers().find(|it| *it >= most * 0.999).unwrap_or(most),
                    ),
                };
                let to = if to > from { to } else { from * 10.0 };
                // Over many powers of ten these alone are marked.
                let is_marked = |mark: &f64| to / from <= 1000.0 || (mark.log10() - mark.log10().round()).abs() < 1e-9;
                let between = |mark: &f64| (from * 0.999..=to * 1.001).contains(mark);
                let powers = || round_numbers().filter(is_marked).filter(between);
                Span { from, to, scale, marks: marks.unwrap_or_else(|| powers().collect()) }
            }
        }
    }

    /// Where between the ends, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear { .. } => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => (value / self.from).ln() / (self.to / self.from).ln(),
        }
    }
}

/// One, two and five of each power of ten.
fn round_numbers() -> impl DoubleEndedIterator<Item = f64> {
    (-12..15).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)))
}

/// A round number that fits into `length` about five times.
fn step(length: f64) -> f64 {
    let power = 10_f64.powf((length / 5.0).log10().floor());
    let times = length / 5.0 / power;
    let round = [1.0, 2.0, 2.5, 5.0].into_iter().find(|round| times <= *round).unwrap_or(10.0);
    round * power
}

fn line(svg: &mut String, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], colour: &str) {
    let _ = writeln!(svg, "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\"/>");
}

fn text(svg: &mut String, [x, y]: [f64; 2], style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let check = |length, expected: f64| assert!((step(length) / expected - 1.0).abs() < 1e-9, "{length}");
        check(1.0, 0.2);
        check(5.2, 2.0);
        check(97.0, 20.0);
        check(110_000.0, 25_000.0);
    }

    #[test]
    fn everything_lies_inside_the_axes() {
        for scale in [Scale::Linear { from_zero: true }, Scale::Linear { from_zero: false }, Scale::Logarithmic] {
            for values in [&[3.0, 5.5, 97.0][..], &[0.2, 0.21], &[1e-5, 4e-3], &[7.0]] {
                let span = Span::over(values, scale, None);
                for &value in values.iter().chain(&span.marks) {
                    assert!((-1e-3..=1.001).contains(&span.part(value)), "{value} of {values:?} on {scale:?}");
                }
                assert!(!span.marks.is_empty() || scale == Scale::Logarithmic, "{values:?}");
            }
        }
    }

    #[test]
    fn names_are_written_as_text() {
        let mut svg = String::new();
        text(&mut svg, [0.0, 0.0], "", "a < b & c");
        assert!(svg.contains("a &lt; b &amp; c"));
    }
}

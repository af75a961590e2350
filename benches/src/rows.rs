//! What a row of the table is: what is asked of both sides, how often, which figure is made of the samples, and what is aimed at.
//! Which rows there are is for [`catalogue`](crate::catalogue) to say.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::fixtures::Fixtures;
use crate::stats::Statistic;

/// Something that can be measured. Its fields are its parameters, which a peer's script gets, too.
pub(crate) trait Question: Serialize {
    /// Samples in the unit of the row.
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>>;
}

/// How a side in this process takes its samples.
type Measure = Box<dyn Fn(&Fixtures) -> Result<Vec<f64>>>;

/// Whom a row compares with.
pub(crate) enum Other {
    Nobody,
    /// A function of a script in `peers/`.
    Script {
        script: &'static str,
        question: &'static str,
        parameters: Value,
    },
    /// Something that this process does itself.
    Here {
        name: &'static str,
        measure: Measure,
    },
}

/// One question, and the lines it gets in the table.
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// One line of the table for each; the target is that of the first.
    pub(crate) statistics: &'static [Statistic],
    pub(crate) ours: Measure,
    pub(crate) other: Other,
    pub(crate) target: Target,
    /// What each side does, where the title does not say it.
    pub(crate) note: &'static str,
    /// Most rounds, for what takes long.
    pub(crate) most_rounds: u32,
    /// Where it stands in a plot. A row that is nothing else has no line in the table.
    pub(crate) point: Option<Point>,
    pub(crate) in_table: bool,
    parameters: Value,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Target {
    /// So many times the other side's figure, in the direction that is better.
    pub(crate) ratio: Option<f64>,
    /// Ahead, by whatever it is.
    pub(crate) ahead: bool,
    /// No more than this, in the unit of the row.
    pub(crate) most: Option<f64>,
}

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Point {
    pub(crate) plot: Plot,
    pub(crate) x: f64,
    /// What a figure is multiplied by to give the plot's.
    pub(crate) factor: f64,
    /// The names of both curves; an empty one is not drawn.
    pub(crate) ours: &'static str,
    pub(crate) other: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Plot {
    Gateways,
    TaskLength,
    Latency,
    PayloadSize,
}

/// What a sample is, and so which of two is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    PerSecond,
    MegabytesPerSecond,
    Kilobytes,
    SwitchesPerSecond,
}

impl Unit {
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::MegabytesPerSecond)
    }
}

/// How many samples to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effort {
    Quick,
    Full,
}

impl Effort {
    pub(crate) fn rounds(self) -> u32 {
        self.of(3, 7)
    }

    pub(crate) fn of<T>(self, quick: T, full: T) -> T {
        match self {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

impl Row {
    /// A row of the table without anybody to compare with.
    pub(crate) fn new<Q: Question + 'static>(
        key: impl Into<String>,
        title: impl Into<String>,
        unit: Unit,
        question: Q,
    ) -> Row {
        Row {
            key: key.into(),
            title: title.into(),
            unit,
            statistics: &[Statistic::Median],
            parameters: serde_json::to_value(&question).expect("parameters are numbers with names"),
            ours: Box::new(move |on| question.measure(on)),
            other: Other::Nobody,
            target: Target::default(),
            note: "",
            most_rounds: u32::MAX,
            point: None,
            in_table: true,
        }
    }

    /// Compares with what a peer's function answers to the same parameters.
    pub(crate) fn against(mut self, script: &'static str, question: &'static str) -> Row {
        self.other = Other::Script { script, question, parameters: self.parameters.clone() };
        self
    }

    /// Compares with what a peer's function answers to parameters of its own: fewer, for what takes longer there.
    pub(crate) fn against_with(
        mut self,
        script: &'static str,
        question: &'static str,
        parameters: &impl Serialize,
    ) -> Row {
        let parameters = serde_json::to_value(parameters).expect("parameters are numbers with names");
        self.other = Other::Script { script, question, parameters };
        self
    }

    /// Compares with something that is measured in this process.
    pub(crate) fn beside<Q: Question + 'static>(mut self, name: &'static str, question: Q) -> Row {
        self.other = Other::Here { name, measure: Box::new(move |on| question.measure(on)) };
        self
    }

    pub(crate) fn statistics(self, statistics: &'static [Statistic]) -> Row {
        Row { statistics, ..self }
    }

    pub(crate) fn times(mut self, ratio: f64) -> Row {
        self.target.ratio = Some(ratio);
        self
    }

    pub(crate) fn ahead(mut self) -> Row {
        self.target.ahead = true;
        self
    }

    pub(crate) fn at_most(mut self, most: f64) -> Row {
        self.target.most = Some(most);
        self
    }

    pub(crate) fn note(self, note: &'static str) -> Row {
        Row { note, ..self }
    }

    pub(crate) fn most_rounds(self, most_rounds: u32) -> Row {
        Row { most_rounds, ..self }
    }

    pub(crate) fn point(
        self,
        plot: Plot,
        x: impl Into<f64>,
        factor: f64,
        ours: &'static str,
        other: &'static str,
    ) -> Row {
        Row { point: Some(Point { plot, x: x.into(), factor, ours, other }), ..self }
    }

    pub(crate) fn only_plotted(self) -> Row {
        Row { in_table: false, ..self }
    }
}

//! The figures: one file that the scenarios add to, each replacing what it measured before.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// Everything that was measured, and where.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// What the machine and the programs are, by name.
    pub machine: BTreeMap<String, String>,
    /// The command that measured each scenario, by the scenario's name.
    pub commands: BTreeMap<String, String>,
    /// The comparison.
    pub samples: Vec<Sample>,
    /// What grows with what.
    pub series: Vec<Series>,
}

/// One figure of one peer, as often as it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// The scenario that measured it.
    pub scenario: String,
    /// What was measured, with its unit.
    pub figure: String,
    /// Whose figure it is.
    pub peer: String,
    /// The values, in the order of the rounds.
    pub values: Vec<f64>,
}

/// A quantity as another one grows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Its heading.
    pub title: String,
    /// The name of its drawing.
    pub file: String,
    /// What grows, with its unit.
    pub x: String,
    /// What is measured, with its unit.
    pub y: String,
    /// The points.
    pub points: Vec<(f64, f64)>,
}

impl Results {
    /// Reads the file; there is nothing in it before the first run.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    /// Forgets what a scenario measured before.
    pub fn begin(&mut self, scenario: &str, command: String) {
        self.samples.retain(|sample| sample.scenario != scenario);
        self.commands.insert(scenario.to_owned(), command);
    }

    /// One more value.
    pub fn add(&mut self, scenario: &str, figure: &str, peer: &str, value: f64) {
        let is_same = |s: &&mut Sample| s.scenario == scenario && s.figure == figure && s.peer == peer;
        if let Some(sample) = self.samples.iter_mut().find(is_same) {
            sample.values.push(value);
            return;
        }
        let [scenario, figure, peer] = [scenario, figure, peer].map(str::to_owned);
        self.samples.push(Sample { scenario, figure, peer, values: vec![value] });
    }

    /// A series in place of the one of that name before.
    pub fn put(&mut self, series: Series) {
        self.series.retain(|before| before.file != series.file);
        self.series.push(series);
        self.series.sort_by(|a, b| a.file.cmp(&b.file));
    }

    /// The values of one figure of one peer.
    pub fn sample(&self, figure: &str, peer: &str) -> Option<&Sample> {
        self.samples.iter().find(|sample| sample.figure == figure && sample.peer == peer)
    }
}

impl Sample {
    /// The middle value, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
    }

    /// The least and the greatest value.
    pub fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted[0], sorted[sorted.len() - 1])
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }
}

impl Series {
    /// The line through the points, by least squares: the value at nothing, and the slope.
    pub fn line(&self) -> (f64, f64) {
        let count = self.points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| self.points.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let covariance: f64 = self.points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        let variance: f64 = self.points.iter().map(|point| (point.0 - x).powi(2)).sum();
        let slope = if variance > 0.0 { covariance / variance } else { 0.0 };
        (y - slope * x, slope)
    }
}

#[cfg(test)]
mod tests {
    use super::{Sample, Series};

    #[test]
    fn the_middle_and_the_line_are_those_of_the_points() {
        let sample = |values: &[f64]| Sample {
            scenario: String::new(),
            figure: String::new(),
            peer: String::new(),
            values: values.to_vec(),
        };
        assert!((sample(&[3.0, 1.0, 2.0]).median() - 2.0).abs() < 1e-9);
        assert!((sample(&[4.0, 1.0]).median() - 2.5).abs() < 1e-9);
        assert_eq!(sample(&[3.0, 1.0, 2.0]).range(), (1.0, 3.0));
        let points = vec![(0.0, 1.0), (10.0, 6.0), (20.0, 11.0)];
        let [title, file, x, y] = [(); 4].map(|()| String::new());
        let (start, slope) = Series { title, file, x, y, points }.line();
        assert!((start - 1.0).abs() < 1e-9 && (slope - 0.5).abs() < 1e-9);
    }
}

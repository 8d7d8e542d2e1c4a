//! The results as a page: ratios first, then medians with their ranges, then what grows with what.

use std::fmt::Write;

use crate::{
    peer::Peer,
    results::{Results, Sample, Series},
};

/// What stands above the figures.
const HEAD: &str = include_str!("../BENCHMARKS.head.md");

/// The whole page, in Markdown.
pub fn page(results: &Results) -> String {
    let mut page = HEAD.to_owned();
    let figures = figures(results);
    page += "\n## Ratios\n\nReborn's median divided by the other's. CPU, time, memory and loss: less than 1 is better for \
             reborn; requests/s: more than 1 is.\n\n";
    table(&mut page, &figures, |figure, peer| ratio(results, figure, peer));
    page += "\n## Medians and ranges\n\n";
    table(&mut page, &figures, |figure, peer| Some(spread(results.sample(figure, peer)?)));
    if let Some(bare) = results.sample("start to first answer, ms", TRIVIAL) {
        let _ = write!(page, "\nSpawn, exec and exit of `true` in the same run: {} ms.\n", spread(bare));
    }
    page += "\n## As the work grows\n\nA reload by command with `--probation 0s`; each point a median.\n";
    for series in &results.series {
        grown(&mut page, series);
    }
    page += "\n## Where and how\n\n";
    for (name, value) in &results.machine {
        let _ = writeln!(page, "- {name}: {value}");
    }
    page += "\nMeasured by:\n\n";
    for (scenario, command) in &results.commands {
        let _ = writeln!(page, "- {scenario}: `{command}`");
    }
    page
}

/// The name under which the trivial program's start is kept.
pub const TRIVIAL: &str = "true (spawn, exec, exit)";

/// The names of the figures, in the order in which they were measured.
fn figures(results: &Results) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for sample in &results.samples {
        if !names.contains(&sample.figure) {
            names.push(sample.figure.clone());
        }
    }
    names
}

fn table(page: &mut String, figures: &[String], cell: impl Fn(&str, &str) -> Option<String>) {
    let names = Peer::ALL.map(Peer::name);
    let _ = writeln!(page, "| | {} |", names.join(" | "));
    let _ = writeln!(page, "|---|{}", "---:|".repeat(names.len()));
    for figure in figures {
        let cells: Vec<String> = names.iter().map(|peer| cell(figure, peer).unwrap_or_else(|| "-".into())).collect();
        let _ = writeln!(page, "| {figure} | {} |", cells.join(" | "));
    }
}

fn ratio(results: &Results, figure: &str, peer: &str) -> Option<String> {
    let (own, other) = (results.sample(figure, Peer::Reborn.name())?.median(), results.sample(figure, peer)?.median());
    Some(if other > 0.0 { format!("{:.2}", own / other) } else { format!("{} : 0", short(own)) })
}

/// The median, with the range if there is one.
fn spread(sample: &Sample) -> String {
    let (least, greatest) = sample.range();
    let median = short(sample.median());
    if sample.values.len() == 1 { median } else { format!("{median} ({} to {})", short(least), short(greatest)) }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn grown(page: &mut String, series: &Series) {
    let (start, slope) = series.line();
    let Series { title, file, x, y, points } = series;
    let _ = write!(page, "\n### {title}\n\n![{title}](bench/figures/{file}.svg)\n\n");
    let _ = writeln!(page, "Fitted: {start:.3} + {slope:.3e} per unit of x.\n\n| {x} | {y} |\n|---:|---:|");
    let shown = points.iter().step_by(points.len().div_ceil(12).max(1));
    for (x, y) in shown {
        let _ = writeln!(page, "| {x:.0} | {y:.3} |");
    }
}

#[cfg(test)]
mod tests {
    use super::{page, short};
    use crate::results::Results;

    #[test]
    fn a_ratio_is_reborns_median_divided_by_the_others() {
        let mut results = Results::default();
        for (peer, values) in [("reborn", [4.0, 6.0, 5.0]), ("hyper", [2.0, 9.0, 10.0])] {
            for value in values {
                results.add("s", "CPU", peer, value);
            }
        }
        let page = page(&results);
        assert!(page.contains("| CPU | 1.00 | 0.56 | - |"), "{page}");
        assert!(page.contains("| CPU | 5.00 (4.00 to 6.00) | 9.00 (2.00 to 10.0) | - |"), "{page}");
    }

    #[test]
    fn figures_are_shown_with_three_digits() {
        assert_eq!([0.123, 12.34, 12_345.6].map(short), ["0.12", "12.3", "12346"]);
    }
}

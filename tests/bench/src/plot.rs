//! Drawings: a series with the line fitted to it, and one figure of all peers as bars, as SVG.

use std::{error::Error, path::Path};

use plotters::prelude::*;

use crate::{
    peer::Peer,
    results::{Results, Series},
};

const SIZE: (u32, u32) = (720, 400);
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const GREY: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// The figures that are drawn as bars, and the names of their drawings.
pub const BARS: [(&str, &str); 4] = [
    ("keep-alive: CPU, us/request", "cpu"),
    ("signal to first answer of the new process, ms", "first-answer"),
    ("connections closed per reload", "closed"),
    ("memory per idle connection, KB", "idle-memory"),
];

/// Draws everything into a folder.
pub fn draw(results: &Results, folder: &Path) -> Result<(), Box<dyn Error>> {
    for series in &results.series {
        points(series, &folder.join(format!("{}.svg", series.file)))?;
    }
    for (figure, file) in BARS {
        bars(results, figure, &folder.join(format!("{file}.svg")))?;
    }
    Ok(())
}

fn points(series: &Series, path: &Path) -> Result<(), Box<dyn Error>> {
    let most = |of: fn(&(f64, f64)) -> f64| series.points.iter().map(of).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let (right, top) = (most(|point| point.0), most(|point| point.1));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&series.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart.configure_mesh().x_desc(&series.x).y_desc(&series.y).light_line_style(TRANSPARENT).draw()?;
    let (start, slope) = series.line();
    chart.draw_series(LineSeries::new([(0.0, start), (right, start + slope * right)], &GREY))?;
    chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 4, BLUE.filled())))?;
    area.present()?;
    Ok(())
}

fn bars(results: &Results, figure: &str, path: &Path) -> Result<(), Box<dyn Error>> {
    let of = |peer: Peer| Some((peer, results.sample(figure, peer.name())?));
    let samples: Vec<_> = Peer::ALL.into_iter().filter_map(of).collect();
    let top = samples.iter().map(|(_, sample)| sample.range().1).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let names: Vec<&str> = samples.iter().map(|(peer, _)| peer.name()).collect();
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(figure, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d((0..names.len().max(1)).into_segmented(), 0.0..top)?;
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(index) => names.get(*index).unwrap_or(&"").to_string(),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    chart.configure_mesh().disable_x_mesh().x_label_formatter(&label).light_line_style(TRANSPARENT).draw()?;
    for (index, (peer, sample)) in samples.iter().enumerate() {
        let colour = if *peer == Peer::Reborn { BLUE } else { GREY };
        let corners = [(SegmentValue::Exact(index), 0.0), (SegmentValue::Exact(index + 1), sample.median())];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(0, 0, 16, 16);
        chart.draw_series([bar])?;
        let (least, greatest) = sample.range();
        let middle = SegmentValue::CenterOf(index);
        chart.draw_series(LineSeries::new([(middle, least), (SegmentValue::CenterOf(index), greatest)], &BLACK))?;
    }
    area.present()?;
    Ok(())
}

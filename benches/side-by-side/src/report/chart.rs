//! Charts as SVG: what was measured over the number of sequences.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{distinct, title, unit};
use crate::summary::Row;
use crate::workload::UNIFORM;

const SIZE: (u32, u32) = (720, 420);

/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// A chart for each model, workload and metric that several sides have at several widths: its name, and the SVG.
pub fn all(rows: &[Row]) -> Result<Vec<(String, String)>> {
    let mut charts = Vec::new();
    let keys = rows.iter().map(|row| (row.model.as_str(), row.workload.as_str(), row.metric.as_str()));
    for (model, workload, metric) in distinct(keys) {
        let of_chart =
            |row: &&Row| (row.model.as_str(), row.workload.as_str(), &*row.metric) == (model, workload, metric);
        let rows: Vec<&Row> = rows.iter().filter(of_chart).collect();
        let sides = distinct(rows.iter().map(|row| row.side.as_str())).len();
        if sides > 1 && distinct(rows.iter().map(|row| row.sequences)).len() > 1 {
            let short = metric.trim_end_matches("_tokens_per_second");
            let name = format!("{model}-{workload}-{short}").to_lowercase().replace([' ', '_'], "-");
            charts.push((name, chart(&format!("{model}, {workload}: {}", title(metric)), &rows)?));
        }
    }
    Ok(charts)
}

fn chart(caption: &str, rows: &[&Row]) -> Result<String> {
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("drawing {caption}: {error}");
    let widths = distinct(rows.iter().map(|row| row.sequences));
    // Widths double from one to the next: they stand at equal distances.
    let place = |sequences: u32| f64::from(sequences.max(1)).log2();
    let first = widths.iter().copied().map(place).fold(f64::INFINITY, f64::min);
    let last = widths.iter().copied().map(place).fold(first, f64::max);
    let highest = rows.iter().map(|row| row.max).fold(0.0, f64::max);
    let served = rows.iter().any(|row| row.workload != UNIFORM);
    let unit = rows.first().map_or("", |row| unit(&row.metric));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(first..last + 0.05, 0.0..highest * 1.08)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels((last - first) as usize + 1)
            .x_label_formatter(&|place| format!("{:.0}", place.exp2()))
            .x_desc(if served { "requests at a time" } else { "sequences in a batch" })
            .y_desc(unit)
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 16))
            .y_label_formatter(&|rate| format!("{rate:.0}"))
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(failed)?;
        for (side, colour) in distinct(rows.iter().map(|row| row.side.as_str())).into_iter().zip(COLOURS.iter().cycle())
        {
            let of_side = rows.iter().filter(|row| row.side == side);
            let mut points: Vec<_> =
                of_side.map(|row| (place(row.sequences), [row.min, row.median, row.max])).collect();
            points.dedup();
            let line = points.iter().map(|(place, [_, median, _])| (*place, *median));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))
                .map_err(failed)?
                .label(side)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            // The spread over the rounds.
            let spread = |(place, [min, _, max]): &(f64, [f64; 3])| {
                PathElement::new([(*place, *min), (*place, *max)], colour.stroke_width(1))
            };
            chart.draw_series(points.iter().map(spread)).map_err(failed)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 16))
            .background_style(WHITE.mix(0.8))
            .border_style(TRANSPARENT)
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_chart_names_its_sides_and_widths() {
        let charts = all(&report().rows).unwrap();
        assert_eq!(charts.len(), 1);
        let (name, svg) = &charts[0];
        assert_eq!(name, "135m-q8-0-uniform-generation");
        for part in [
            "<svg",
            "</svg>",
            "135M Q8_0, uniform: generation, tokens/s",
            "batch",
            "c-loop",
            "peer",
            "sequences in a batch",
        ] {
            assert!(svg.contains(part), "{part}");
        }
        assert!(svg.matches("<polyline").count() > 3);
    }

    #[test]
    fn one_width_or_one_side_is_no_chart() {
        let rows: Vec<Row> = report().rows.into_iter().filter(|row| row.sequences == 8).collect();
        assert!(all(&rows).unwrap().is_empty());
        let rows: Vec<Row> = report().rows.into_iter().filter(|row| row.side == "batch").collect();
        assert!(all(&rows).unwrap().is_empty());
    }
}

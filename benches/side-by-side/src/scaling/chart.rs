//! The chart as SVG: a panel for each series, with logarithmic axes, on which what grows in proportion is a straight line.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Point, Series, grouped, micros};

/// Of a panel.
const SIZE: (u32, u32) = (340, 320);
const COLOUR: RGBColor = RGBColor(0, 114, 178);
const GREY: RGBColor = RGBColor(150, 150, 150);

/// All series beside each other, by the same scale of time.
pub fn draw(series: &[Series]) -> Result<String> {
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("drawing the chart: {error}");
    let points = || series.iter().flat_map(|series| &series.points);
    let lowest = points().map(|point| point.low).fold(f64::INFINITY, f64::min).log10() - 0.2;
    let highest = points().map(|point| point.high).fold(0.0, f64::max).log10() + 0.2;
    if !(lowest.is_finite() && highest.is_finite()) {
        return Err(anyhow!("there are no times above zero to be drawn"));
    }
    let width = SIZE.0 * u32::try_from(series.len())?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, SIZE.1)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        for (panel, series) in area.split_evenly((1, series.len())).iter().zip(series) {
            draw_panel(panel, series, (lowest, highest)).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(
    area: &Area<'_>,
    Series { name, points }: &Series,
    (lowest, highest): (f64, f64),
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let places: Vec<f64> = points.iter().map(|point| place(point.amount)).collect();
    let (first, last) = (places.first().copied().unwrap_or(0.0), places.last().copied().unwrap_or(1.0));
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 17))
        .margin(10)
        .x_label_area_size(28)
        .y_label_area_size(52)
        .build_cartesian_2d(first - 0.2..last + 0.3, lowest..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(6)
        .x_label_formatter(&|at| grouped(10f64.powf(*at).round() as u64))
        .y_labels(8)
        .y_label_formatter(&|at| micros(10f64.powf(*at)))
        .y_desc("µs a token")
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let proportional = in_proportion(points, highest);
    if let Some(end) = proportional.last() {
        chart.draw_series(LineSeries::new(proportional.iter().copied(), GREY.stroke_width(1)))?;
        let style = ("sans-serif", 13).into_font().color(&GREY);
        chart.draw_series([Text::new("in proportion", (end.0 - (end.0 - first) * 0.45, highest - 0.04), style)])?;
    }
    let times = |point: &Point| [point.low, point.micros, point.high].map(f64::log10);
    let line = points.iter().zip(&places).map(|(point, place)| (*place, times(point)[1]));
    chart.draw_series(LineSeries::new(line, COLOUR.stroke_width(2)).point_size(3))?;
    let spread = points.iter().zip(&places).map(|(point, place)| {
        let [low, _, high] = times(point);
        PathElement::new([(*place, low), (*place, high)], COLOUR.stroke_width(1))
    });
    chart.draw_series(spread)?;
    Ok(())
}

/// Where an amount is on its axis. Nothing is where one would be.
fn place(amount: u64) -> f64 {
    (amount.max(1) as f64).log10()
}

/// A line from the first time as it would be if it grew as the amount does, as far as there is room for it.
fn in_proportion(points: &[Point], highest: f64) -> Vec<(f64, f64)> {
    let Some(first) = points.iter().find(|point| point.amount > 0) else { return Vec::new() };
    let last = points.last().map_or(0.0, |point| place(point.amount));
    let (from, time) = (place(first.amount), first.micros.log10());
    let length = (last - from).min(highest - time);
    vec![(from, time), (from + length, time + length)]
}

#[cfg(test)]
mod tests {
    use super::super::tests::series;
    use super::*;

    #[test]
    fn the_chart_has_a_panel_for_each_series_with_its_amounts() {
        let svg = draw(&series()).unwrap();
        for part in ["<svg width=\"680\"", "</svg>", "sequences", "waiting, 8 sequences", "µs a token", "100,000"] {
            assert!(svg.contains(part), "{part}");
        }
        assert_eq!(svg.matches("in proportion").count(), 2);
        assert!(svg.matches("<circle").count() == 6, "one for each figure");
    }

    #[test]
    fn nothing_is_no_chart() {
        assert!(draw(&[]).is_err());
        let none = Point { amount: 1, micros: 0.0, low: 0.0, high: 0.0 };
        assert!(draw(&[Series { name: "none".into(), points: vec![none] }]).is_err());
    }

    #[test]
    fn what_grows_in_proportion_stays_in_the_chart() {
        let point = |amount, micros: f64| Point { amount, micros, low: micros, high: micros };
        let points = [point(0, 1.0), point(10, 1.0), point(1_000, 1.0)];
        assert_eq!(in_proportion(&points, 5.0), [(1.0, 0.0), (3.0, 2.0)]);
        assert_eq!(in_proportion(&points, 1.0), [(1.0, 0.0), (2.0, 1.0)]);
        assert!(in_proportion(&points[..1], 1.0).is_empty());
    }
}

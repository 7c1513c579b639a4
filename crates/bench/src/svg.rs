//! Curves with logarithmic axes as an SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 15.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 45.0;
const COLOURS: [&str; 3] = ["#1663a8", "#b5432a", "#2d7d46"];

/// Points of one curve, each above zero, and what they are called.
pub(crate) type Curve = (&'static str, Vec<(f64, f64)>);

/// Panels side by side, each with its own scale and curves over the same x.
pub(crate) fn plot(title: &str, x_name: &str, panels: &[Vec<Curve>]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"16\" font-size=\"14\">{title}</text>\n"
    );
    for (at, curves) in panels.iter().enumerate() {
        panel(&mut text, WIDTH * at as f64, x_name, curves);
    }
    text.push_str("</svg>\n");
    text
}

fn panel(text: &mut String, offset: f64, x_name: &str, curves: &[Curve]) {
    let points = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let (x_low, x_high) = decades(points().map(|(x, _)| x));
    let (y_low, y_high) = decades(points().map(|(_, y)| y));
    let place = |value: f64, low: i32, high: i32| (value.log10() - f64::from(low)) / f64::from(high - low);
    let x = |value: f64| offset + LEFT + place(value, x_low, x_high) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - place(value, y_low, y_high) * (HEIGHT - TOP - BOTTOM);
    for decade in y_low..=y_high {
        let at = y(10f64.powi(decade));
        let (from, to) = (offset + LEFT, offset + WIDTH - RIGHT);
        let _ = writeln!(text, "<line x1=\"{from}\" x2=\"{to}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            from - 6.0,
            at + 4.0,
            power(decade)
        );
    }
    for decade in x_low..=x_high {
        let at = x(10f64.powi(decade));
        let _ = writeln!(
            text,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 28.0,
            power(decade)
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{x_name}</text>",
        offset + (WIDTH + LEFT) / 2.0,
        HEIGHT - 10.0
    );
    for (at, ((name, points), colour)) in curves.iter().zip(COLOURS).enumerate() {
        let list: Vec<String> = points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        let _ = writeln!(text, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", list.join(" "));
        for (px, py) in points {
            let _ = writeln!(text, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"{colour}\"/>", x(*px), y(*py));
        }
        let left = offset + LEFT + 180.0 * at as f64;
        let _ = writeln!(text, "<text x=\"{left}\" y=\"32\" fill=\"{colour}\">{name}</text>");
    }
}

/// The powers of ten around some values.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), v| (low.min(v), high.max(v)));
    let low = low.min(high).log10().floor() as i32;
    (low, (high.log10().ceil() as i32).max(low + 1))
}

fn power(decade: i32) -> String {
    match decade {
        0..3 => format!("{:.0}", 10f64.powi(decade)),
        3..6 => format!("{:.0} k", 10f64.powi(decade - 3)),
        6.. => format!("{:.0} M", 10f64.powi(decade - 6)),
        _ => format!("{}", 10f64.powi(decade)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_span_whole_decades_and_points_lie_on_them() {
        assert_eq!(decades([3.0, 400.0].into_iter()), (0, 3));
        assert_eq!(decades([10.0].into_iter()), (1, 2));
        let text = plot("t", "x", &[vec![("a", vec![(1.0, 10.0), (10.0, 100.0)])]]);
        assert!(
            text.contains(&format!("points=\"{LEFT}.0,{:.1} {:.1},{TOP}.0\"", HEIGHT - BOTTOM, WIDTH - RIGHT)),
            "{text}"
        );
    }
}

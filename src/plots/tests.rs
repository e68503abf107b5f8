//! What a plot says, and that it stays bounded and whole whatever it is given.

use super::*;

const NOW_MS: i64 = 1_790_000_000_000;

fn look(width: u32) -> Look {
    Look { is_dark: false, width }
}

fn line(name: &str, points: Vec<(i64, f64)>) -> Line {
    Line { name: name.to_owned(), colour: Some(0), points }
}

/// A document of one root whose tags are closed and whose text is text.
#[track_caller]
fn check_whole(svg: &str) {
    assert!(svg.starts_with("<svg width=\"") && svg.trim_end().ends_with("</svg>"), "{svg}");
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("every tag ends");
        assert!(!text.contains('>'), "{text}");
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("it has a name");
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "{svg}"),
            (false, true) => {}
            (false, false) => open.push(name),
        }
        let known = ["svg", "circle", "line", "polygon", "polyline", "rect", "text"];
        assert!(known.contains(&name), "{name}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
    let is_allowed = |letter: char| letter >= ' ' || letter == '\n';
    assert!(svg.chars().all(is_allowed), "control characters are no XML");
    assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
}

#[test]
fn names_are_text_whatever_they_hold() {
    for name in
        ["<img src=x onerror=alert(1)>", "\"/><script>", "a&b", "nul\0, bell\u{7}", "\u{202e}x"]
    {
        let drawn =
            lines(look(640), name, name, "", Unit::Share, &[line(name, vec![(NOW_MS, 0.5)])]);
        check_whole(&drawn);
        check_whole(&message(look(640), name, name));
        let parts = [(name.to_owned(), Some(1))];
        check_whole(&shares(look(640), name, name, "", &parts, &[(NOW_MS, vec![0.5])]));
        let ridge = Ridge {
            name: name.to_owned(),
            colour: None,
            expected: 0.5,
            interval: None,
            density: Vec::new(),
        };
        check_whole(&ridges(look(640), name, name, "", &[ridge]));
    }
    let drawn = lines(look(640), "t", "d", "", Unit::Share, &[line("<b>", vec![(NOW_MS, 0.5)])]);
    assert!(drawn.contains("&lt;b&gt; 50 %"), "the last value stands beside the name: {drawn}");
}

#[test]
fn without_figures_a_plot_says_so() {
    let why = "nothing yet";
    let none = vec![(NOW_MS, f64::NAN)];
    for drawn in [
        lines(look(640), "t", "d", why, Unit::Milliseconds, &[line("a", none)]),
        shares(look(640), "t", "d", why, &[], &[]),
        ridges(look(640), "t", "d", why, &[]),
        calibration(
            look(640),
            "t",
            "d",
            why,
            &[Calibrated { count: 0, expected: 0.0, reward: 0.0 }],
        ),
    ] {
        check_whole(&drawn);
        assert!(drawn.contains(why), "{drawn}");
    }
}

#[test]
fn odd_figures_do_no_harm() {
    let times = [NOW_MS, NOW_MS, NOW_MS + 1, NOW_MS + 90 * 86_400_000];
    let values = [0.0, -1.0, f64::INFINITY, f64::NAN, 1e300, 1e-300, 1.0];
    for width in [0, 280, 333, 1_200, u32::MAX] {
        for (unit, value) in
            values.into_iter().flat_map(|v| [(Unit::Share, v), (Unit::Milliseconds, v)])
        {
            let points = times.map(|time| (time, value)).to_vec();
            check_whole(&lines(look(width), "t", "d", "", unit, &[line("a", points)]));
        }
        let rows = times.map(|time| (time, vec![0.7, 0.7]));
        let parts = [("a".to_owned(), Some(0)), ("b".to_owned(), None), ("c".to_owned(), Some(99))];
        check_whole(&shares(look(width), "t", "d", "", &parts, &rows));
        let ridge = |expected, density| Ridge {
            name: "a".to_owned(),
            colour: Some(3),
            expected,
            interval: Some([expected, expected]),
            density,
        };
        let odd = [
            ridge(0.0, vec![(0.0, 0.0), (1.0, 0.0)]),
            ridge(1.0, vec![(0.5, f64::INFINITY)]),
            ridge(0.5, vec![(0.5, 1e300)]),
        ];
        check_whole(&ridges(look(width), "t", "d", "", &odd));
        let bins = [0.0, 1.0].map(|reward| Calibrated { count: u64::MAX, expected: 0.5, reward });
        check_whole(&calibration(look(width), "t", "d", "", &bins));
    }
}

#[test]
fn a_plot_is_bounded_however_much_there_is() {
    let points: Vec<(i64, f64)> =
        (0..100_000_i32).map(|i| (NOW_MS + 977 * i64::from(i), f64::from(i % 7) / 7.0)).collect();
    let name = "agent ".repeat(50);
    let many: Vec<Line> = (0..COLOURS).map(|_| line(&name, points.clone())).collect();
    let drawn = lines(look(1_200), &name, &name, "", Unit::Share, &many);
    assert!(drawn.len() < 60_000, "{}", drawn.len());
    assert!(drawn.contains('\u{2026}'), "names are cut");
    assert!(drawn.contains(" 57 %<") || drawn.contains(" 57 %\n"), "99,999 is 4 modulo 7");
    let many =
        vec![Ridge { name, colour: None, expected: 0.5, interval: None, density: Vec::new() }; 500];
    assert!(ridges(look(640), "t", "d", "", &many).len() < 20_000);
}

#[test]
fn a_plot_is_of_one_height_whatever_it_shows() {
    let name = |index: usize| format!("an agent with a rather long name {index}");
    let point = vec![(NOW_MS, 0.5)];
    for width in [280, 640] {
        let mut drawn = vec![message(look(width), "t", "why")];
        for count in 0..=COLOURS {
            let all: Vec<Line> = (0..count).map(|i| line(&name(i), point.clone())).collect();
            let parts: Vec<_> = (0..count).map(|i| (name(i), Some(i))).collect();
            let rows = [(NOW_MS, vec![1.0 / 7.0; count])];
            let ridge = |index| Ridge {
                name: name(index),
                colour: None,
                expected: 0.5,
                interval: Some([0.4, 0.6]),
                density: vec![(0.4, 0.0), (0.5, 1.0), (0.6, 0.0)],
            };
            let all_ridges: Vec<Ridge> = (0..2 * count).map(ridge).collect();
            let bin = Calibrated { count: 1, expected: 0.5, reward: 0.5 };
            drawn.push(lines(look(width), "t", "d", "", Unit::Share, &all));
            drawn.push(shares(look(width), "t", "d", "", &parts, &rows));
            drawn.push(ridges(look(width), "t", "d", "", &all_ridges));
            drawn.push(calibration(look(width), "t", "d", "", &vec![bin; count]));
        }
        let head = format!("<svg width=\"{width}\" height=\"{HEIGHT}\" ");
        for svg in drawn {
            check_whole(&svg);
            assert!(svg.starts_with(&head), "{svg}");
        }
    }
}

#[test]
fn a_theme_has_colours_of_its_own() {
    let drawn = |is_dark| message(Look { is_dark, width: 640 }, "t", "w");
    assert!(drawn(false).contains("#FFFFFF") && drawn(true).contains("#171D26"));
}

#[test]
fn texts_are_cut_where_they_would_not_fit() {
    assert_eq!(cut("short", 12.0, 200.0), "short");
    let long = cut(&"x".repeat(300), 12.0, 200.0);
    assert!(long.ends_with('\u{2026}') && long.chars().count() < 40, "{long}");
    assert!(text_width(&long, 12.0) <= 212.0);
    assert_eq!(wrapped("a sentence of some words", 60.0).len(), 4);
}

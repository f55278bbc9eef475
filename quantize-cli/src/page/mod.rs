//! The report of a model in several formats: one HTML file that needs nothing else.

mod chart;

use std::fmt::Write as _;

use serde::Serialize;

use crate::eval::size::Size;
use crate::eval::statistics::Summary;
use crate::report::{bytes, digits, percent, three_digits};
use crate::svg::escape;
use crate::version::VERSION;

use self::chart::{Scatter, Spot};

/// Colours follow the reader's preference for light or dark.
const STYLE: &str = include_str!("style.css");

/// The name of the noise floor.
const FLOOR: &str = "bf16";

/// Most tensors of a format that are shown.
const WORST: usize = 8;

/// The contents of the page.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// The model's name.
    pub model: String,
    /// The original, as it came.
    pub original: Entry,
    /// The original with its weights rounded to bfloat16, if it is not that already.
    pub noise_floor: Option<Floor>,
    /// The formats.
    pub formats: Vec<Entry>,
    /// What was measured on what: names and values.
    pub facts: Vec<(String, String)>,
    /// The command that made the page.
    pub command: String,
    /// When, on what and with what program: a sentence without its end.
    pub measured: String,
    /// Why the speeds are doubtful: what else the machine did meanwhile.
    pub busy: Vec<String>,
}

/// The size and the speed of a model.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Costs {
    /// Bytes.
    #[serde(flatten)]
    pub size: Size,
    /// Tokens per second, one by one.
    pub generation: f64,
    /// Half of the rounds lie within so large a part of it.
    pub generation_spread: f64,
    /// Tokens per second of a prompt.
    pub prompt: f64,
    /// As for generation.
    pub prompt_spread: f64,
}

/// The original rounded to bfloat16: differences from it that are smaller than its own are noise.
#[derive(Clone, Debug, Serialize)]
pub struct Floor {
    /// Its answers beside the original's.
    #[serde(flatten)]
    pub summary: Summary,
    /// What it takes, measured as for the formats.
    #[serde(flatten)]
    pub costs: Costs,
}

/// A model in one format.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The format's name.
    pub name: String,
    /// What it takes.
    #[serde(flatten)]
    pub costs: Costs,
    /// Seconds to open it, so that the first token can be fed.
    pub load_seconds: f64,
    /// Its answers beside the original's; none for the original.
    pub summary: Option<Summary>,
    /// The divergence of every prediction.
    #[serde(skip)]
    pub divergences: Vec<f32>,
    /// Packed tensors and the relative RMS errors of their weights, the worst first.
    pub worst: Vec<(String, f64)>,
}

/// The page as HTML.
#[must_use]
pub fn html(page: &Page) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"generator\" content=\"quantize {VERSION}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{model} in {count} formats</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{model} in {count} formats</h1>\n<p>{}</p>\n<p class=\"soft\">{}.</p>\n{}",
        lead(page),
        escape(&page.measured),
        busy(page),
        model = escape(&page.model),
        count = page.formats.len(),
    );
    html.push_str("<h2>Size, speed, accuracy</h2>\n<p class=\"soft\">KL divergence says how far a model's predictions are from the original's: lower is better, each line of the grid is a decade or a part of one. Formats on the line are beaten by no other in both. Bars show how far speeds spread and the standard error of the divergence; where there is none it is smaller than the point.");
    let scatters = scatters(page);
    if scatters.iter().flat_map(|scatter| &scatter.spots).any(|spot| spot.floor) {
        html.push_str(
            " The orange point is the original with its weights rounded to bfloat16, run as such: less than that is noise.",
        );
    }
    html.push_str("</p>\n<div class=\"charts\">\n");
    for scatter in scatters {
        html.push_str(&figure(&scatter.title, &scatter.caption, "", |narrow| scatter.draw(narrow)));
    }
    html.push_str("</div>\n<h2>How the divergence is distributed</h2>\n<p class=\"soft\">Most tokens are hardly touched; what a reader notices are the few that are. Each hill shows how many of the predictions have which divergence. A blue line marks the median, an orange point the 99.9th percentile.</p>\n<div class=\"charts\">\n");
    html.push_str(&figure("Divergence of the predictions", "nats, logarithmic scale", " whole", |narrow| {
        chart::hills(&page.formats, narrow)
    }));
    html.push_str("</div>\n<h2>All figures</h2>\n");
    html.push_str(&tables(page));
    html.push_str("<h2>Where the weights suffer</h2>\n<p class=\"soft\">Relative RMS error of the weights, the worst tensors of each format.</p>\n");
    for (i, entry) in page.formats.iter().enumerate() {
        html.push_str(&worst(entry, i == 0));
    }
    html.push_str("<h2>What was measured on what</h2>\n<dl>\n");
    for (name, value) in &page.facts {
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    let _ = writeln!(html, "<dt>Command</dt><dd><code>{}</code></dd>\n</dl>", escape(&page.command));
    html.push_str("<footer>Made by quantize. Speeds hold for this machine; the other figures are the same on every one.</footer>\n</main>\n</body>\n</html>\n");
    html
}

/// Returns a warning if the machine was busy.
fn busy(page: &Page) -> String {
    if page.busy.is_empty() {
        return String::new();
    }
    let reasons = escape(&page.busy.join("; "));
    format!(
        "<p class=\"warning\"><strong>This machine did other work while speeds were measured:</strong> they are too low \
         and their ratios uncertain ({reasons}). The other figures do not depend on it.</p>\n"
    )
}

/// Sums the figures up in a sentence or two.
fn lead(page: &Page) -> String {
    let kld = |entry: &Entry| entry.summary.as_ref().map_or(f64::NAN, |summary| summary.kld.mean);
    let mut text = format!("The original takes {}.", bytes(page.original.costs.size.file_bytes));
    let smallest = page.formats.iter().min_by_key(|entry| entry.costs.size.file_bytes);
    let nearest = page.formats.iter().min_by(|a, b| kld(a).total_cmp(&kld(b)));
    if let (Some(smallest), Some(nearest)) = (smallest, nearest) {
        let describe = |entry: &Entry| {
            let summary = entry.summary.as_ref();
            let same = summary
                .map_or_else(String::new, |s| format!(" and agrees with it on {} of the tokens", percent(s.same_top)));
            format!(
                "{} takes {}{same}",
                escape(&entry.name),
                percent(entry.costs.size.file_bytes as f64 / page.original.costs.size.file_bytes as f64)
            )
        };
        let _ = write!(text, " Of that, {}", describe(nearest));
        if nearest.name != smallest.name {
            let _ = write!(text, "; {}", describe(smallest));
        }
        text.push('.');
    }
    text
}

/// A picture for wide screens, and one for narrow ones.
fn figure(title: &str, caption: &str, class: &str, draw: impl Fn(bool) -> String) -> String {
    format!(
        "<figure class=\"card{class}\">\n<h3>{}</h3>\n<figcaption>{}</figcaption>\n<div class=\"wide\">{}</div>\n<div class=\"narrow\">{}</div>\n</figure>\n",
        escape(title),
        escape(caption),
        draw(false),
        draw(true)
    )
}

fn scatters(page: &Page) -> Vec<Scatter> {
    // A figure, and by how much of itself it is uncertain.
    let scatter = |title: &str, caption: &str, less: bool, unit: &'static str, x: &dyn Fn(&Costs) -> (f64, f64)| {
        let spot = |label: &str, costs: &Costs, summary: &Summary, floor: bool| {
            let (x, spread) = x(costs);
            let (y, y_error) = (summary.kld.mean, summary.kld.error);
            Spot { label: label.into(), x, x_error: x * spread, y, y_error, floor }
        };
        let formats = page.formats.iter().filter_map(|entry| Some((entry, entry.summary.as_ref()?)));
        let formats = formats.map(|(entry, summary)| spot(&entry.name, &entry.costs, summary, false));
        let floor = page.noise_floor.iter().map(|floor| spot(FLOOR, &floor.costs, &floor.summary, true));
        let spots = formats.chain(floor).collect();
        Scatter { title: title.into(), caption: caption.into(), less_is_better: less, unit, spots }
    };
    vec![
        scatter("Size against accuracy", "mean KL divergence over megabytes of the file", true, "MB", &|costs| {
            (costs.size.file_bytes as f64 / 1e6, 0.0)
        }),
        scatter(
            "Generation against accuracy",
            "mean KL divergence over tokens per second, one by one",
            false,
            "tokens/s",
            &|costs| (costs.generation, costs.generation_spread),
        ),
        scatter(
            "Prompt against accuracy",
            "mean KL divergence over tokens per second of a prompt",
            false,
            "tokens/s",
            &|costs| (costs.prompt, costs.prompt_spread),
        ),
        scatter(
            "Bits against accuracy",
            "mean KL divergence over bits per weight of the layers",
            true,
            "bits",
            &|costs| (costs.size.layer_bits_per_weight, 0.0),
        ),
    ]
}

/// Two tables, so that each fits a page.
fn tables(page: &Page) -> String {
    costs_table(page) + &answers_table(page)
}

const DASH: &str = "–";

/// By how much a figure is uncertain.
fn error(text: &str) -> String {
    format!(" <span class=\"error\">± {text}</span>")
}

fn costs_table(page: &Page) -> String {
    let headings = [
        "Format",
        "File",
        "Bits per weight<br>layers / file",
        "Opened<br>in",
        "Generation<br>tokens/s",
        "Prompt<br>tokens/s",
    ];
    let cells = |costs: &Costs, seconds: Option<f64>| {
        let speed = |speed: f64, spread: f64| format!("{}{}", three_digits(speed), error(&percent(spread)));
        [
            bytes(costs.size.file_bytes),
            format!("{:.2} / {:.2}", costs.size.layer_bits_per_weight, costs.size.bits_per_weight),
            seconds.map_or_else(|| DASH.into(), |seconds| format!("{} ms", three_digits(1000.0 * seconds))),
            speed(costs.generation, costs.generation_spread),
            speed(costs.prompt, costs.prompt_spread),
        ]
    };
    let entries = std::iter::once(&page.original).chain(&page.formats);
    let rows = entries.map(|entry| (entry.name.as_str(), cells(&entry.costs, Some(entry.load_seconds))));
    let floor = page.noise_floor.iter().map(|floor| (FLOOR, cells(&floor.costs, None)));
    table("Size and speed", &headings, rows.chain(floor))
}

fn answers_table(page: &Page) -> String {
    let headings = [
        "Format",
        "Perplexity",
        "Ratio to<br>the original",
        "KL divergence<br>mean",
        "<br>median",
        "<br>99 %",
        "<br>99.9 %",
        "Same top-1<br>token",
        "Change of<br>probability, RMS",
    ];
    let cells = |summary: &Summary| {
        [
            digits(summary.model.value, 5),
            format!("{:.4}{}", summary.ratio, error(&format!("{:.4}", summary.ratio_error))),
            format!("{}{}", digits(summary.kld.mean, 3), error(&digits(summary.kld.error, 1))),
            digits(summary.kld.median, 3),
            digits(summary.kld.p99, 3),
            digits(summary.kld.p999, 3),
            format!("{:.2} %", 100.0 * summary.same_top),
            format!("{:.3} %", 100.0 * summary.rms_change),
        ]
    };
    let summaries = || page.formats.iter().filter_map(|entry| Some((entry.name.as_str(), entry.summary.as_ref()?)));
    let mut original = [DASH; 8].map(ToOwned::to_owned);
    if let Some((_, summary)) = summaries().next() {
        original[0] = digits(summary.reference.value, 5);
    }
    let floor = page.noise_floor.iter().map(|floor| (FLOOR, cells(&floor.summary)));
    let rows = std::iter::once((page.original.name.as_str(), original));
    let rows = rows.chain(summaries().map(|(name, summary)| (name, cells(summary)))).chain(floor);
    table("Accuracy", &headings, rows)
}

/// A table that scrolls by itself where the page is too narrow, and then says so.
fn table<'a, const N: usize>(
    title: &str,
    headings: &[&str],
    rows: impl Iterator<Item = (&'a str, [String; N])>,
) -> String {
    let mut html = format!(
        "<h3 class=\"table\">{title}</h3>\n<p class=\"hint\">Scroll sideways for all columns.</p>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\"><table>\n<thead><tr>"
    );
    for heading in headings {
        let _ = write!(html, "<th scope=\"col\">{heading}</th>");
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (name, cells) in rows {
        row(&mut html, name, &cells);
    }
    html.push_str("</tbody></table></div>\n");
    html
}

fn row(html: &mut String, name: &str, cells: &[String]) {
    let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(name));
    for cell in cells {
        let _ = write!(html, "<td>{cell}</td>");
    }
    html.push_str("</tr>\n");
}

fn worst(entry: &Entry, open: bool) -> String {
    let most = entry.worst.first().map_or(1.0, |(_, error)| *error).max(f64::MIN_POSITIVE);
    let mut html = format!(
        "<details{}><summary>{} <span class=\"soft\">up to {}</span></summary>\n<ol class=\"bars\">\n",
        if open { " open" } else { "" },
        escape(&entry.name),
        percent(most)
    );
    for (name, error) in entry.worst.iter().take(WORST) {
        let _ = writeln!(
            html,
            "<li><span class=\"name\">{}</span><span class=\"bar\" style=\"width:{:.1}%\"></span><span class=\"value\">{}</span></li>",
            escape(name),
            100.0 * error / most,
            percent(*error)
        );
    }
    html.push_str("</ol></details>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::statistics::{Prediction, Statistics};

    /// A made-up page; names are hostile.
    fn page() -> Page {
        let entry = |i: usize, name: &str, bits: f64| {
            let scale = 1e-4 * 4f64.powi(i as i32);
            let mut statistics = Statistics::default();
            for j in 0..2000 {
                let kld = scale * libm::exp(3.0 * libm::sin(0.37 * j as f64) + (j % 7) as f64 * 0.3);
                let prediction =
                    Prediction { nll: 2.5 + kld, reference_nll: 2.5, kld, change: -kld / 10.0, same_top: j % 50 != 0 };
                statistics.add(&prediction);
            }
            let file_bytes = (1e9 * bits / 8.0) as u64;
            Entry {
                name: name.into(),
                costs: Costs {
                    size: Size { file_bytes, bits_per_weight: bits + 0.3, layer_bits_per_weight: bits },
                    generation: 150.0 / bits,
                    generation_spread: 0.04,
                    prompt: 200.0 + 10.0 * i as f64,
                    prompt_spread: 0.01,
                },
                load_seconds: 0.004,
                summary: Some(statistics.summary()),
                divergences: statistics.divergences().to_vec(),
                worst: vec![("model.layers.0.<b>&".into(), 0.08), ("model.layers.1.mlp.down_proj.weight".into(), 0.05)],
            }
        };
        let names = [("q8_0", 8.5), ("q6_k", 6.56), ("q5_k", 5.5), ("q4_k", 4.5), ("iq4_xs", 4.25), ("q4_0", 4.5)];
        let formats: Vec<Entry> = names.iter().enumerate().map(|(i, (name, bits))| entry(i, name, *bits)).collect();
        let floor = Costs { generation: 7.0, prompt: 180.0, ..entry(0, "", 16.0).costs };
        let original = Entry { summary: None, divergences: vec![], worst: vec![], ..entry(0, "original (F16)", 16.0) };
        Page {
            model: "a <model> & \"more\"".into(),
            original,
            noise_floor: formats[0].summary.clone().map(|summary| Floor { summary, costs: floor }),
            formats,
            facts: vec![("Processor".into(), "a processor with a long name @ 3.00 GHz".into())],
            command: "quantize report model --text text".into(),
            measured: "Measured 2026-11-30 on a processor".into(),
            busy: vec!["other processes took 40 % of <it>".into()],
        }
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let html = html(&page());
        for outside in ["http:", "https:", "src=", "@import", "url(", "<script"] {
            assert!(!html.contains(outside), "{outside}");
        }
        let mark = crate::place::PAGE.mark.unwrap();
        assert!(html[..4096].contains(mark), "a later report recognizes it");
        assert!(html.contains("a &lt;model> &amp; &quot;more&quot;") && html.contains("model.layers.0.&lt;b>&amp;"));
        for name in ["q8_0", "q6_k", "q5_k", "q4_k", "iq4_xs", "q4_0", "bf16"] {
            // In four plots and a row of hills, each drawn twice.
            assert!(html.matches(&format!(">{name}</text>")).count() >= 8, "{name}");
        }
        let mut open = vec![];
        for piece in html.split('<').skip(2) {
            let (tag, _) = piece.split_once('>').unwrap();
            let name = tag.split_whitespace().next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
                None if tag.ends_with('/') || matches!(name, "meta" | "br") => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn every_point_stands_where_it_was_measured() {
        let mut page = page();
        let spots = |page: &Page| -> Vec<(f64, f64)> {
            let spots = scatters(page).into_iter().flat_map(|scatter| scatter.spots).filter(|spot| spot.floor);
            spots.map(|spot| (spot.x, spot.x_error)).collect()
        };
        // The noise floor's own size and speeds, not the original's.
        assert_eq!(spots(&page), [(2000.0, 0.0), (7.0, 7.0 * 0.04), (180.0, 180.0 * 0.01), (16.0, 0.0)]);
        let html = html(&page);
        assert!(html.contains("Measured 2026-11-30 on a processor.") && html.contains("40 % of &lt;it>"), "{html}");
        assert!(html.contains("<td>7.00 <span class=\"error\">± 4.00 %</span></td>"), "{html}");
        page.busy.clear();
        assert!(!super::html(&page).contains("did other work"));
    }

    #[test]
    fn what_is_no_number_is_drawn_too() {
        let mut page = page();
        page.formats.truncate(1);
        page.noise_floor = None;
        page.formats[0].divergences.fill(f32::NAN);
        page.formats[0].summary = Some(Statistics::default().summary());
        page.formats[0].costs.generation = f64::INFINITY;
        let html = html(&page);
        assert!(!html.contains("=\"NaN") && !html.contains("=\"inf"), "coordinates are numbers");
    }

    /// Writes the made-up page where a browser can show it.
    #[test]
    #[ignore = "for a person to look at"]
    fn a_page_to_look_at() {
        std::fs::write(std::env::temp_dir().join("quantize-page.html"), html(&page())).unwrap();
    }
}

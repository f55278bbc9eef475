//! Compares a run with the JSON of an earlier one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result, ensure};
use crate::report::{SCHEMA, quoted};

/// What runs must have in common for their figures to be comparable: names, and where JSON has
/// them.
const CIRCUMSTANCES: [(&str, &str); 13] = [
    ("processor", "/machine/processor"),
    ("processor model", "/machine/processor_model"),
    ("cores", "/machine/cores"),
    ("memory", "/machine/memory_bytes"),
    ("system", "/machine/system"),
    ("kernel", "/machine/kernel"),
    ("transparent huge pages", "/machine/huge_pages"),
    ("instruction set", "/instruction_set"),
    ("matrix", "/size"),
    ("pages", "/pages"),
    ("activations", "/activations"),
    ("weights", "/weights"),
    ("seconds of a race", "/race_seconds"),
];

/// A run of `quantize bench`, as its JSON tells it.
#[derive(Clone, Debug)]
pub struct Baseline {
    json: Value,
    figures: Figures,
}

/// The figures among what JSON says. Other fields may be there, and versions may lack some.
#[derive(Clone, Debug, Deserialize)]
struct Figures {
    version: Option<String>,
    commit: Option<String>,
    date: Option<String>,
    load: Option<Busy>,
    limits: Vec<Limit>,
    formats: Vec<Format>,
}

#[derive(Clone, Debug, Deserialize)]
struct Busy {
    busy: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Limit {
    name: String,
    speeds: Vec<LimitSpeed>,
}

#[derive(Clone, Debug, Deserialize)]
struct LimitSpeed {
    threads: usize,
    speed: f64,
    spread: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct Format {
    format: String,
    speeds: Vec<Speed>,
}

#[derive(Clone, Debug, Deserialize)]
struct Speed {
    rows: usize,
    threads: usize,
    gigaops_per_second: f64,
    spread: f64,
}

/// A run beside an earlier one.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The version of the earlier run's program.
    pub version: Option<String>,
    /// Its commit.
    pub commit: Option<String>,
    /// When it ran.
    pub date: Option<String>,
    /// What the runs do not have in common, and other reasons to doubt the ratios, in words.
    pub warnings: Vec<String>,
    /// The limits; without rows.
    pub limits: Vec<Cell>,
    /// The products.
    pub formats: Vec<Cell>,
}

/// One speed and the earlier one.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The limit or the format.
    pub name: String,
    /// Rows of activations; none for a limit.
    pub rows: Option<usize>,
    /// Threads.
    pub threads: usize,
    /// The speed over the earlier one: above 1 is faster.
    pub ratio: f64,
    /// Whether the difference is within the spreads of the two together, and so may be none.
    pub within_spread: bool,
}

impl Cell {
    fn new(name: &str, rows: Option<usize>, threads: usize, new: (f64, f64), old: (f64, f64)) -> Self {
        let ratio = new.0 / old.0;
        let within_spread = libm::log(ratio).abs() <= new.1 + old.1;
        Self { name: name.into(), rows, threads, ratio, within_spread }
    }
}

impl Baseline {
    /// Reads what `quantize bench --json` printed.
    ///
    /// # Errors
    /// If the file cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(ErrorKind::Request, || format!("cannot read {}", quoted(path)))?;
        let parsed = serde_json::from_slice(&text).map_err(Error::from).and_then(Self::new);
        parsed.with_context(ErrorKind::Request, || format!("{} is not what quantize bench --json prints", quoted(path)))
    }

    /// A run as JSON.
    ///
    /// # Errors
    /// If its figures are not there.
    pub fn new(json: Value) -> Result<Self> {
        if let Some(schema) = json.get("schema") {
            ensure!(ErrorKind::Request, schema == SCHEMA, "schema {schema}, expected {SCHEMA}");
        }
        let figures = Figures::deserialize(&json)?;
        Ok(Self { json, figures })
    }

    /// Sets a later run beside this one. What only one of them measured is left out.
    #[must_use]
    pub fn beside(&self, later: &Self) -> Comparison {
        let (old, new) = (&self.figures, &later.figures);
        let mut comparison = Comparison {
            version: old.version.clone(),
            commit: old.commit.clone(),
            date: old.date.clone(),
            warnings: self.warnings(later),
            limits: vec![],
            formats: vec![],
        };
        for limit in &new.limits {
            let Some(before) = old.limits.iter().find(|before| before.name == limit.name) else { continue };
            for speed in &limit.speeds {
                let before = before.speeds.iter().find(|before| before.threads == speed.threads);
                comparison.limits.extend(before.map(|before| {
                    let (now, before) = ((speed.speed, speed.spread), (before.speed, before.spread));
                    Cell::new(&limit.name, None, speed.threads, now, before)
                }));
            }
        }
        for format in &new.formats {
            let Some(before) = old.formats.iter().find(|before| before.format == format.format) else { continue };
            for speed in &format.speeds {
                let same = |before: &&Speed| (before.rows, before.threads) == (speed.rows, speed.threads);
                comparison.formats.extend(before.speeds.iter().find(same).map(|before| {
                    let (now, before) =
                        ((speed.gigaops_per_second, speed.spread), (before.gigaops_per_second, before.spread));
                    Cell::new(&format.format, Some(speed.rows), speed.threads, now, before)
                }));
            }
        }
        comparison
    }

    fn warnings(&self, later: &Self) -> Vec<String> {
        let mut warnings = vec![];
        for (name, pointer) in CIRCUMSTANCES {
            let [then, now] = [self, later].map(|run| run.json.pointer(pointer).map_or_else(|| "unknown".into(), show));
            if then != now {
                warnings.push(format!("{name}: {then} then, {now} now"));
            }
        }
        let busy = |run: &Self| run.figures.load.as_ref().is_some_and(|load| load.busy);
        for (run, when) in [(self, "then"), (later, "now")] {
            if busy(run) {
                warnings.push(format!("the machine was busy {when}"));
            }
        }
        let cells = |run: &Self| -> BTreeSet<(String, usize, usize)> {
            let formats = run.figures.formats.iter();
            let cells = formats.flat_map(|format| {
                format.speeds.iter().map(|speed| (format.format.clone(), speed.rows, speed.threads))
            });
            cells.collect()
        };
        if cells(self) != cells(later) {
            warnings.push("not the same formats, rows and threads were measured: what both have is compared".into());
        }
        warnings
    }
}

/// A circumstance as a person reads it. A matrix was once told by one number.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "unknown".into(),
        Value::String(text) => text.clone(),
        Value::Array(numbers) => match &numbers[..] {
            [rows, cols] if rows == cols => rows.to_string(),
            _ => numbers.iter().map(Value::to_string).collect::<Vec<_>>().join("x"),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(speed: f64) -> Value {
        let cell = |rows: usize| json!({"rows": rows, "threads": 1, "gigaops_per_second": speed, "spread": 0.02});
        json!({
            "schema": 1,
            "version": "0.1.0", "commit": "0123456789ab", "date": "2026-11-30T00:00:00Z",
            "machine": {"processor": "P", "cores": 2},
            "size": [4096, 4096],
            "load": {"busy": false},
            "limits": [{"name": "read", "speeds": [{"threads": 1, "speed": 2.0 * speed, "spread": 0.01}]}],
            "formats": [{"format": "q4_k", "speeds": [cell(1), cell(8)]}],
        })
    }

    #[test]
    fn speeds_are_set_beside_earlier_ones() {
        let old = Baseline::new(run(10.0)).unwrap();
        let found = old.beside(&Baseline::new(run(15.0)).unwrap());
        assert!(found.warnings.is_empty(), "{found:?}");
        assert_eq!(found.commit.as_deref(), Some("0123456789ab"));
        let cells: Vec<_> = found.formats.iter().map(|cell| (cell.rows, cell.ratio, cell.within_spread)).collect();
        assert_eq!(cells, [(Some(1), 1.5, false), (Some(8), 1.5, false)]);
        assert_eq!((found.limits[0].ratio, found.limits[0].rows), (1.5, None));
        let found = old.beside(&Baseline::new(run(9.7)).unwrap());
        assert!(found.formats[0].within_spread && !found.limits[0].within_spread, "{found:?}");
    }

    #[test]
    fn what_is_not_the_same_is_said() {
        let mut other = run(10.0);
        other["machine"]["processor"] = "Q".into();
        other["size"] = json!([14336, 4096]);
        other["load"]["busy"] = true.into();
        other["formats"][0]["speeds"].as_array_mut().unwrap().pop();
        let found = Baseline::new(run(10.0)).unwrap().beside(&Baseline::new(other).unwrap());
        assert_eq!(
            found.warnings,
            [
                "processor: P then, Q now",
                "matrix: 4096 then, 14336x4096 now",
                "the machine was busy now",
                "not the same formats, rows and threads were measured: what both have is compared",
            ]
        );
        assert_eq!(found.formats.len(), 1);
    }

    #[test]
    fn an_older_version_said_less() {
        let mut old = run(10.0);
        for field in ["version", "commit", "date", "load"] {
            old.as_object_mut().unwrap().remove(field);
        }
        old["size"] = 4096.into();
        let found = Baseline::new(old).unwrap().beside(&Baseline::new(run(10.0)).unwrap());
        assert!(found.warnings.is_empty() && found.version.is_none(), "{found:?}");
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.json");
        for text in ["", "{}", "[1]", "{\"schema\": 2, \"limits\": [], \"formats\": []}", "{\"limits\": 3}"] {
            fs::write(&path, text).unwrap();
            let message = format!("{:#}", Baseline::read(&path).unwrap_err());
            assert!(message.contains("is not what quantize bench --json prints"), "{text}: {message}");
        }
        assert!(Baseline::read(&folder.path().join("none")).is_err());
    }
}

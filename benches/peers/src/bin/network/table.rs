//! Markdown.

use std::io::{Result, Write};

use crate::race::Raced;
use crate::{Measured, start};

/// A table of speeds, and one of what starting takes.
pub(crate) fn write(out: &mut dyn Write, measured: &Measured) -> Result<()> {
    let (prompt, generate) = (measured.prompt, measured.generate);
    writeln!(out, "{}\n", measured.peers)?;
    writeln!(
        out,
        "| format | threads | contestant | prompt of {prompt}, tokens/s | ours is | {generate} tokens one by one, tokens/s | ours is | error of logits |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for raced in &measured.raced {
        let beside = || measured.raced.iter().filter(|r| (&r.format, r.threads) == (&raced.format, raced.threads));
        let ratio = |speed: fn(&Raced) -> f64| ratio(raced, beside(), speed);
        let Raced { format, threads, contestant, prompt, generate, error, .. } = raced;
        let (by_prompt, by_generation) = (ratio(|r| r.prompt), ratio(|r| r.generate));
        let error = 100.0 * error;
        writeln!(
            out,
            "| `{format}` | {threads} | {contestant} | {prompt:.1} | {by_prompt} | {generate:.2} | {by_generation} | {error:.2} % |"
        )?;
    }
    writeln!(
        out,
        "\n| format | threads | contestant | open, s | first token, s | peak memory, MB | of its own at the end, MB |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for start::Started { format, threads, contestant, open, first_token, peak, own } in &measured.started {
        let [peak, own] = [peak, own].map(|bytes| bytes / 1_000_000);
        writeln!(out, "| `{format}` | {threads} | {contestant} | {open:.3} | {first_token:.3} | {peak} | {own} |")?;
    }
    Ok(())
}

/// How many times as fast ours is as the contestant, and ours as the fastest of the others.
fn ratio<'a>(raced: &Raced, beside: impl Iterator<Item = &'a Raced> + Clone, speed: fn(&Raced) -> f64) -> String {
    let Some(ours) = beside.clone().find(|r| r.contestant == "ours") else { return String::new() };
    if raced.contestant != "ours" {
        return format!("{:.2} x", speed(ours) / speed(raced));
    }
    let others = beside.filter(|r| r.contestant != "ours").map(speed);
    others.reduce(f64::max).map_or(String::new(), |best| format!("**{:.2} x the fastest**", speed(ours) / best))
}

//! Finds out whether other work disturbed a measurement.

use std::fs;

use serde::Serialize;

use crate::report::percent;

/// Above this share of processor time, other processes disturb.
const OTHERS: f64 = 0.05;

/// Above this share of their time, this program's threads waited for too long.
const WAITING: f64 = 0.05;

/// The system's counters at the beginning of a measurement.
#[derive(Clone, Debug)]
pub struct Watch {
    processors: Option<Processors>,
    threads: Option<Threads>,
    load_average: Option<f64>,
}

/// Other work of the machine during a measurement. Linux reports it; elsewhere nothing is known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Load {
    /// Share of the time of the processors that this program may use which other processes, or
    /// other guests of the same host, took.
    pub others: Option<f64>,
    /// Share of their time for which this program's threads were ready to run and waited for a
    /// processor.
    pub waiting: Option<f64>,
    /// Processes that were running or waiting in the minute before.
    pub load_average: Option<f64>,
}

impl Watch {
    /// Begins. Threads that work in the measurement should be there already.
    #[must_use]
    pub fn start() -> Self {
        let average = fs::read_to_string("/proc/loadavg").ok();
        Self {
            processors: Processors::now(),
            threads: Threads::now(),
            load_average: average.and_then(|text| text.split_whitespace().next()?.parse().ok()),
        }
    }

    /// Ends, and says what happened in between.
    #[must_use]
    pub fn stop(&self) -> Load {
        let both = |(before, now): (Option<Processors>, Option<Processors>)| before.zip(now);
        let others = both((self.processors, Processors::now())).and_then(|(before, now)| now.others(before));
        let waiting = self.threads.zip(Threads::now()).and_then(|(before, now)| now.waiting(before));
        Load { others, waiting, load_average: self.load_average }
    }
}

impl Load {
    /// Why the machine was busy; nothing if it was not, or if the system does not tell.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let others = self.others.filter(|&share| share > OTHERS);
        let waiting = self.waiting.filter(|&share| share > WAITING);
        let others = others.map(|share| format!("other processes took {} of the processors' time", percent(share)));
        let waiting = waiting.map(|share| format!("threads waited {} of their time for a processor", percent(share)));
        others.into_iter().chain(waiting).collect()
    }
}

/// Ticks of the processors that this program may use.
#[derive(Clone, Copy, Debug)]
struct Processors {
    total: u64,
    idle: u64,
    /// Those of this process among them.
    own: u64,
}

impl Processors {
    fn now() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Self::of(allowed, &fs::read_to_string("/proc/stat").ok()?, &fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// From `0-3,8`, `/proc/stat` and `/proc/self/stat`.
    fn of(allowed: &str, stat: &str, own: &str) -> Option<Self> {
        let (mut total, mut idle) = (0, 0);
        for line in stat.lines() {
            let mut fields = line.split_whitespace();
            let processor = fields.next().and_then(|name| name.strip_prefix("cpu")?.parse::<u32>().ok());
            if processor.is_some_and(|processor| contains(allowed, processor)) {
                // user, nice, system, idle, waiting for input and output, interrupts of two kinds,
                // stolen by the host
                let ticks: Vec<u64> = fields.take(8).map_while(|ticks| ticks.parse().ok()).collect();
                total += ticks.iter().sum::<u64>();
                idle += ticks.get(3)? + ticks.get(4)?;
            }
        }
        // The program's name, in parentheses, may have blanks; 11 fields further is user time, then
        // system time.
        let (_, fields) = own.rsplit_once(')')?;
        let times: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).map_while(|ticks| ticks.parse().ok()).collect();
        let [user, system] = times[..] else { return None };
        (total > 0).then_some(Self { total, idle, own: user + system })
    }

    /// The share of others since then.
    fn others(self, before: Self) -> Option<f64> {
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let total = since(self.total, before.total);
        let others = total - since(self.idle, before.idle) - since(self.own, before.own);
        (total > 0.0).then(|| (others / total).clamp(0.0, 1.0))
    }
}

/// Whether a list such as `0-3,8` has a number.
fn contains(list: &str, number: u32) -> bool {
    list.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().is_ok_and(|first: u32| first <= number) && last.parse().is_ok_and(|last: u32| number <= last)
    })
}

/// Nanoseconds of all threads of this process.
#[derive(Clone, Copy, Debug, Default)]
struct Threads {
    running: u64,
    waiting: u64,
}

impl Threads {
    fn now() -> Option<Self> {
        let mut sum = Self::default();
        for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
            // One that ended meanwhile is not there.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let mut numbers = text.split_whitespace().map_while(|number| number.parse::<u64>().ok());
            sum.running += numbers.next()?;
            sum.waiting += numbers.next()?;
        }
        (sum.running > 0).then_some(sum)
    }

    /// The share of waiting since then.
    fn waiting(self, before: Self) -> Option<f64> {
        let running = self.running.saturating_sub(before.running) as f64;
        let waiting = self.waiting.saturating_sub(before.waiting) as f64;
        (running + waiting > 0.0).then(|| waiting / (running + waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  999 0 999 999 0 0 0 0 0 0\ncpu0 100 0 50 840 10 0 0 0 0 0\ncpu1 200 0 0 700 0 0 0 100 0 0\n\
                        cpu2 5000 0 0 0 0 0 0 0 0 0\nintr 5\n";
    const OWN: &str = "42 (a ) name) S 1 1 1 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 3 0";

    #[test]
    fn what_others_took_is_what_is_neither_idle_nor_ours() {
        let before = Processors::of(" 0-1\n", STAT, OWN).unwrap();
        assert_eq!((before.total, before.idle, before.own), (2000, 1550, 42));
        let later = STAT.replace("100 0 50 840", "180 0 50 860").replace("700 0 0 0 100", "720 0 0 0 180");
        let now = Processors::of("0,1", &later, &OWN.replace("30 12", "100 12")).unwrap();
        // 200 ticks, 40 of them idle, 70 ours.
        assert!((now.others(before).unwrap() - 0.45).abs() < 1e-9);
        assert!(now.others(now).is_none(), "no time has passed");
        assert!(Processors::of("7", STAT, OWN).is_none());
        assert!(Processors::of("0", STAT, "nothing").is_none());
    }

    #[test]
    fn shares_above_the_thresholds_are_reasons() {
        let load = Load { others: Some(0.3), waiting: Some(0.01), load_average: None };
        assert_eq!(load.reasons(), ["other processes took 30.0 % of the processors' time"]);
        assert!(Load::default().reasons().is_empty());
        let before = Threads { running: 50, waiting: 10 };
        assert_eq!(Threads { running: 80, waiting: 20 }.waiting(before), Some(0.25));
        assert_eq!(before.waiting(before), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells() {
        let watch = Watch::start();
        assert!(watch.processors.is_some() && watch.load_average.is_some());
        for share in [watch.stop().others, watch.stop().waiting].into_iter().flatten() {
            assert!((0.0..=1.0).contains(&share));
        }
    }
}

//! Facts about the machine from the operating system. Linux tells a lot; elsewhere guesses take its
//! place.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use serde::Serialize;

/// Assumed where the system does not say.
const USUAL_CACHE: u64 = 32 << 20;

/// A machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's full name.
    pub processor: String,
    /// The numbers by which its maker tells its models apart, if known.
    pub processor_model: Option<String>,
    /// The architecture, as Rust calls it.
    pub architecture: &'static str,
    /// The operating system.
    pub system: String,
    /// Its kernel, if known.
    pub kernel: Option<String>,
    /// Threads that run at the same time.
    pub cores: usize,
    /// Memory, used or not, if known.
    pub memory_bytes: Option<u64>,
    /// The last-level caches of all cores together.
    pub cache_bytes: u64,
    /// Whether memory gets huge pages: `always`, `madvise` (if asked for) or `never`, if known.
    pub huge_pages: Option<String>,
}

impl Machine {
    /// The one that this program runs on.
    #[must_use]
    pub fn this() -> Self {
        let huge_pages = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        Self {
            processor: processor().unwrap_or_else(|| std::env::consts::ARCH.into()),
            processor_model: processor_model(),
            architecture: std::env::consts::ARCH,
            system: system().unwrap_or_else(|| std::env::consts::OS.into()),
            kernel: said_by("uname", &["-sr"]),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(|size| bytes(&size)),
            cache_bytes: cache_bytes().unwrap_or(USUAL_CACHE),
            huge_pages: huge_pages.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0.into())),
        }
    }
}

/// The processor's name, from wherever a system has it.
fn processor() -> Option<String> {
    let cpuinfo = |name| field("/proc/cpuinfo", name);
    let names = ["model name", "cpu model", "Model", "cpu"].into_iter().find_map(cpuinfo);
    // Arm's say numbers only.
    let part = || Some(format!("Arm part {} of maker {}", cpuinfo("CPU part")?, cpuinfo("CPU implementer")?));
    let windows = || std::env::var("PROCESSOR_IDENTIFIER").ok();
    names.or_else(part).or_else(|| said_by("sysctl", &["-n", "machdep.cpu.brand_string"])).or_else(windows)
}

/// `GenuineIntel, family 6, model 167, stepping 1`.
fn processor_model() -> Option<String> {
    let part = |label: &str, name| Some(format!("{label}{}", field("/proc/cpuinfo", name)?));
    let parts = [
        part("", "vendor_id"),
        part("family ", "cpu family"),
        part("model ", "model"),
        part("stepping ", "stepping"),
        part("maker ", "CPU implementer"),
        part("part ", "CPU part"),
        part("revision ", "CPU revision"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// `Debian GNU/Linux 12 (bookworm)`.
fn system() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let pretty = pretty.map(|name| name.trim_matches('"').to_owned());
    pretty.or_else(|| Some(format!("macOS {}", said_by("sw_vers", &["-productVersion"])?)))
}

/// Returns what a program prints, if it is there and succeeds.
fn said_by(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Returns the text behind the first `name:` in a file of such lines.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// `32768K`, `24576000 kB`.
fn bytes(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match size[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The caches of the highest level, each counted once.
fn cache_bytes() -> Option<u64> {
    // Of each level and group of cores that share a cache its size.
    let mut caches = BTreeMap::new();
    for cpu in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        for cache in fs::read_dir(cpu.path().join("cache")).into_iter().flatten().flatten() {
            let read = |name| fs::read_to_string(cache.path().join(name)).map(|text| text.trim().to_owned()).ok();
            if let (Some(level), Some(size), Some(cores)) = (read("level"), read("size"), read("shared_cpu_list"))
                && let (Ok(level), Some(size)) = (level.parse::<u8>(), bytes(&size))
            {
                caches.insert((level, cores), size);
            }
        }
    }
    let last = caches.last_key_value()?.0.0;
    Some(caches.iter().filter(|((level, _), _)| *level == last).map(|(_, size)| size).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("32768K"), Some(32 << 20));
        assert_eq!(bytes("1024 kB"), Some(1 << 20));
        assert_eq!(bytes("17"), Some(17));
        assert_eq!(bytes("many"), None);
        assert_eq!(bytes(""), None);
    }

    #[test]
    fn there_is_a_machine() {
        let machine = Machine::this();
        assert!(!machine.system.is_empty() && !machine.architecture.is_empty());
        assert!(!machine.processor.is_empty() && machine.cores > 0 && machine.cache_bytes > 0);
    }
}

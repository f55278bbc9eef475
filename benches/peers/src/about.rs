//! Who the peers are.

#![expect(unsafe_code, reason = "ggml is a C library")]

use std::ffi::CStr;
use std::ptr::null_mut;

use anyhow::{Context as _, Result, bail};
use llama_cpp_sys_2 as sys;

/// The version of a crate that this was built with.
///
/// # Errors
/// If there is none of that name.
pub fn version(name: &str) -> Result<&'static str> {
    let lock = include_str!("../Cargo.lock");
    let after = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).context("a crate in Cargo.lock")?.1;
    Ok(after.split_once('"').context("Cargo.lock")?.0)
}

/// Keeps ggml and llama.cpp from telling about each tensor.
unsafe extern "C" fn quiet(_level: sys::ggml_log_level, _text: *const std::ffi::c_char, _data: *mut std::ffi::c_void) {}

/// ggml's version and the instructions it was compiled for.
///
/// # Errors
/// If those lack what this processor has: then its figures would mean nothing.
pub fn ggml() -> Result<String> {
    // SAFETY: the function does nothing with what it is given, from any thread, at any time.
    unsafe { sys::llama_log_set(Some(quiet), null_mut()) };
    // SAFETY: as above.
    unsafe { sys::ggml_log_set(Some(quiet), null_mut()) };
    // SAFETY: it takes nothing.
    let version = unsafe { sys::ggml_version() };
    // SAFETY: the version is a static string.
    let version = unsafe { CStr::from_ptr(version) }.to_str()?;
    let instructions: [(&str, unsafe extern "C" fn() -> i32); 5] = [
        ("AVX2", sys::ggml_cpu_has_avx2),
        ("FMA", sys::ggml_cpu_has_fma),
        ("F16C", sys::ggml_cpu_has_f16c),
        ("AVX-512 VNNI", sys::ggml_cpu_has_avx512_vnni),
        ("llamafile", sys::ggml_cpu_has_llamafile),
    ];
    // SAFETY: they take nothing and return a number.
    let compiled = instructions.into_iter().filter(|(_, has)| unsafe { has() } != 0).map(|(name, _)| name);
    let compiled: Vec<_> = compiled.collect();
    #[cfg(target_arch = "x86_64")]
    for (name, present) in
        [("AVX2", std::is_x86_feature_detected!("avx2")), ("AVX-512 VNNI", std::is_x86_feature_detected!("avx512vnni"))]
    {
        if present && !compiled.contains(&name) {
            bail!(
                "ggml was compiled without {name}, which this processor has: run cargo in benches/peers, for its .cargo/config.toml"
            );
        }
    }
    Ok(format!("ggml {version} ({})", compiled.join(", ")))
}

//! Figures that were measured elsewhere, by hand: ik_llama.cpp, which is not on crates.io.

/// What and when.
pub(crate) const SOURCE: &str = "ik_llama.cpp 8337e4cd3, measured 2026-11-22 by hand, NOT in this run, on two cores of a Zen 4 server without \
    AVX-512 (integer arithmetic 283 to 291 GOP/s): 4096 x 4096, one thread, processor time, the best of its layouts";

/// Its best layout of a format.
pub(crate) struct Figure {
    /// The format.
    pub(crate) format: &'static str,
    /// The layout at one row, and its GB/s of weights.
    pub(crate) one_row: (&'static str, f64),
    /// The layout at 512 rows, and its GOP/s.
    pub(crate) rows_512: (&'static str, f64),
}

/// Per format, the fastest.
pub(crate) const FIGURES: &[Figure] = &[
    Figure { format: "q8_0", one_row: ("q8_0", 17.4), rows_512: ("q8_0_r8", 94.0) },
    Figure { format: "q4_0", one_row: ("q4_0_r8", 19.0), rows_512: ("q4_0_r8", 115.0) },
    Figure { format: "q4_k", one_row: ("q4_k_r4", 16.5), rows_512: ("q4_k_r4", 130.0) },
    Figure { format: "q6_k", one_row: ("q6_K", 15.4), rows_512: ("q6_k_r4", 106.0) },
    Figure { format: "iq4_nl", one_row: ("iq4_nl_r4", 14.5), rows_512: ("iq4_nl", 92.0) },
    Figure { format: "iq4_xs", one_row: ("iq4_xs_r8", 15.8), rows_512: ("iq4_xs", 100.0) },
];

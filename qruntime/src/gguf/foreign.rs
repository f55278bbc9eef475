//! Formats of blocks that are read, but not multiplied.

macro_rules! foreign {
    ($($name:ident = $text:literal, ggml $ggml:literal, $len:literal elements in $bytes:literal bytes;)+) => {
        /// A format of blocks that is read, but not multiplied.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Foreign {
            $(#[doc = $text] $name,)+
        }

        impl Foreign {
            /// Every such format.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// Returns GGUF's number of the format.
            #[must_use]
            pub fn ggml(self) -> u32 {
                match self { $(Self::$name => $ggml),+ }
            }

            /// Returns the number of elements in a block.
            #[must_use]
            pub fn block_len(self) -> usize {
                match self { $(Self::$name => $len),+ }
            }

            /// Returns the bytes of a block.
            #[must_use]
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes),+ }
            }

            /// Returns the format with this number in GGUF.
            #[must_use]
            pub fn from_ggml(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|foreign| foreign.ggml() == number)
            }
        }
    };
}

foreign! {
    Iq2Xxs = "iq2_xxs", ggml 16, 256 elements in 66 bytes;
    Iq2Xs = "iq2_xs", ggml 17, 256 elements in 74 bytes;
    Iq3Xxs = "iq3_xxs", ggml 18, 256 elements in 98 bytes;
    Iq1S = "iq1_s", ggml 19, 256 elements in 50 bytes;
    Iq3S = "iq3_s", ggml 21, 256 elements in 110 bytes;
    Iq2S = "iq2_s", ggml 22, 256 elements in 82 bytes;
    Iq1M = "iq1_m", ggml 29, 256 elements in 56 bytes;
    Tq1_0 = "tq1_0", ggml 34, 256 elements in 54 bytes;
    Tq2_0 = "tq2_0", ggml 35, 256 elements in 66 bytes;
    Nvfp4 = "nvfp4", ggml 40, 64 elements in 36 bytes;
    Q1_0 = "q1_0", ggml 41, 128 elements in 18 bytes;
    Q2_0 = "q2_0", ggml 42, 64 elements in 18 bytes;
}

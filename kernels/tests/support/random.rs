//! Seeded numbers for the tests of this crate and of `qruntime`.

/// A small seeded generator (SplitMix64), so that every run sees the same numbers.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Nearly normally distributed, variance 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() * 0.5
    }

    /// Nearly t-distributed with 6 degrees of freedom.
    pub fn t6(&mut self) -> f32 {
        let chi: f32 = (0..6).map(|_| self.normal().powi(2)).sum();
        self.normal() / (chi / 6.0).sqrt()
    }

    /// Numbers around 0 with now and then a large one, as weights are.
    pub fn weights(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| {
                let x = self.unit() * self.unit() * 0.1;
                if self.bits().is_multiple_of(97) { x * 10.0 } else { x }
            })
            .collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.bits() as u8).collect()
    }
}

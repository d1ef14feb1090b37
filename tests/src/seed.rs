//! Where does a test's randomness come from? From one printed number, so that a failure replays.

/// A small generator (SplitMix64): the same seed gives the same bytes on every machine.
#[derive(Debug, Clone)]
pub struct Seed(u64);

impl Seed {
    /// Starts from `LABSAN_TEST_SEED` if it is set, otherwise from `default`; prints which.
    pub fn from_env(default: u64) -> Self {
        let seed = std::env::var("LABSAN_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
        eprintln!("seed {seed} (LABSAN_TEST_SEED={seed} replays)");
        Self(seed)
    }

    /// Starts from a fixed number.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The number to start from to get the same from here on.
    pub const fn number(&self) -> u64 {
        self.0
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit` (which is not 0).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

//! P and Q: the arithmetic of RAID 5 and 6, and the kernels that do it fast.
//!
//! P is the XOR of the data. Q is the sum of g^i * D_i over GF(2^8) with the polynomial 0x11d and the
//! generator g = 2, as in md and H. P. Anvin, "The mathematics of RAID-6". A [`Kernel`] is one way to
//! compute them; [`best`] chooses one at the first use, and every kernel is tested against the portable one.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
pub mod field;
mod portable;
mod recover;

use std::sync::OnceLock;

pub use recover::{RecoverError, recover};

/// One way to do the arithmetic. All slices of a call have the same length, any length.
#[derive(Debug)]
pub struct Kernel {
    /// Its name, for logs and benchmarks.
    pub name: &'static str,
    xor_into: fn(&mut [u8], &[u8]),
    multiply_into: fn(&mut [u8], &[u8], u8),
    generate_pq: fn(&[&[u8]], &mut [u8], &mut [u8]),
}

impl Kernel {
    /// `target ^= source`.
    pub fn xor_into(&self, target: &mut [u8], source: &[u8]) {
        assert_eq!(target.len(), source.len(), "xor of unequal lengths");
        (self.xor_into)(target, source);
    }

    /// `target ^= factor * source` in GF(2^8).
    pub fn multiply_into(&self, target: &mut [u8], source: &[u8], factor: u8) {
        assert_eq!(target.len(), source.len(), "product of unequal lengths");
        match factor {
            0 => {}
            1 => (self.xor_into)(target, source),
            _ => (self.multiply_into)(target, source, factor),
        }
    }

    /// `p = sum of data`; what was in `p` is overwritten.
    pub fn generate_p(&self, data: &[&[u8]], p: &mut [u8]) {
        let Some((first, rest)) = data.split_first() else { return p.fill(0) };
        p.copy_from_slice(first);
        for chunk in rest {
            self.xor_into(p, chunk);
        }
    }

    /// `p = sum of data`, `q = sum of g^i * data[i]`; what was in them is overwritten.
    pub fn generate_pq(&self, data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
        assert!(data.len() <= 255, "GF(2^8) tells 255 members apart, not {}", data.len());
        assert_eq!(p.len(), q.len(), "P and Q of unequal lengths");
        for chunk in data {
            assert_eq!(chunk.len(), p.len(), "data and parity of unequal lengths");
        }
        (self.generate_pq)(data, p, q);
    }
}

/// Every kernel this processor can run, the portable one first.
pub fn kernels() -> Vec<&'static Kernel> {
    let mut kernels = vec![&portable::KERNEL];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        kernels.push(&avx2::KERNEL);
    }
    kernels
}

/// The fastest kernel here, chosen once.
pub fn best() -> &'static Kernel {
    static BEST: OnceLock<&'static Kernel> = OnceLock::new();
    // The list goes from the plainest to the widest.
    BEST.get_or_init(|| kernels().last().copied().unwrap_or(&portable::KERNEL))
}

#[cfg(test)]
mod tests;

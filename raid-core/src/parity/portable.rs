//! The kernel that runs anywhere: eight bytes at a time in plain integers.

use super::{Kernel, field};

pub(super) static KERNEL: Kernel = Kernel { name: "portable", xor_into, multiply_into, generate_pq };

const LANE: usize = 8;
const TOP_BITS: u64 = 0x8080_8080_8080_8080;
const REDUCTION: u64 = 0x1d1d_1d1d_1d1d_1d1d;

fn lane(bytes: &[u8]) -> u64 {
    let mut word = [0; LANE];
    word.copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

/// Each of the eight bytes times two: shift, and reduce those whose top bit fell out.
fn double(word: u64) -> u64 {
    let carries = word & TOP_BITS;
    // 0xff in every byte that carried: the top bit, spread downwards.
    let mask = (carries << 1).wrapping_sub(carries >> 7);
    ((word & !TOP_BITS) << 1) ^ (mask & REDUCTION)
}

pub(super) fn xor_into(target: &mut [u8], source: &[u8]) {
    let mut targets = target.chunks_exact_mut(LANE);
    let mut sources = source.chunks_exact(LANE);
    for (target, source) in targets.by_ref().zip(sources.by_ref()) {
        target.copy_from_slice(&(lane(target) ^ lane(source)).to_ne_bytes());
    }
    for (target, source) in targets.into_remainder().iter_mut().zip(sources.remainder()) {
        *target ^= source;
    }
}

pub(super) fn multiply_into(target: &mut [u8], source: &[u8], factor: u8) {
    let (low, high) = field::nibble_products(factor);
    for (target, source) in target.iter_mut().zip(source) {
        *target ^= low[usize::from(source & 15)] ^ high[usize::from(source >> 4)];
    }
}

pub(super) fn generate_pq(data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    let whole = p.len() / LANE * LANE;
    for at in (0..whole).step_by(LANE) {
        let (mut sum, mut syndrome) = (0, 0);
        // Horner's rule from the last member down: q = ((d_n * g + d_n-1) * g + ...) + d_0.
        for chunk in data.iter().rev() {
            let word = lane(&chunk[at..at + LANE]);
            sum ^= word;
            syndrome = double(syndrome) ^ word;
        }
        p[at..at + LANE].copy_from_slice(&sum.to_ne_bytes());
        q[at..at + LANE].copy_from_slice(&syndrome.to_ne_bytes());
    }
    generate_pq_tail(data, p, q, whole);
}

/// The bytes from `from` on, one by one.
pub(super) fn generate_pq_tail(data: &[&[u8]], p: &mut [u8], q: &mut [u8], from: usize) {
    for at in from..p.len() {
        let (mut sum, mut syndrome) = (0, 0);
        for chunk in data.iter().rev() {
            sum ^= chunk[at];
            syndrome = field::multiply(syndrome, 2) ^ chunk[at];
        }
        p[at] = sum;
        q[at] = syndrome;
    }
}

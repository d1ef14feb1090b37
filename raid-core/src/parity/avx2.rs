//! The kernel for processors with AVX2: 32 bytes at a time, products by byte shuffles of nibble tables.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi8, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256,
};

use super::{Kernel, field, portable};

pub(super) static KERNEL: Kernel = Kernel { name: "avx2", xor_into, multiply_into, generate_pq };

const LANE: usize = 32;

// The three entry points below are only reachable through KERNEL, and `kernels()` offers that only
// where AVX2 was detected.

fn xor_into(target: &mut [u8], source: &[u8]) {
    // SAFETY: AVX2 is present, see above.
    unsafe { xor_into_avx2(target, source) }
}

fn multiply_into(target: &mut [u8], source: &[u8], factor: u8) {
    // SAFETY: AVX2 is present, see above.
    unsafe { multiply_into_avx2(target, source, factor) }
}

fn generate_pq(data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    // SAFETY: AVX2 is present, see above.
    unsafe { generate_pq_avx2(data, p, q) }
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8]) -> __m256i {
    assert!(bytes.len() >= LANE);
    // SAFETY: the slice has 32 bytes at least, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>()) }
}

#[target_feature(enable = "avx2")]
fn store(bytes: &mut [u8], value: __m256i) {
    assert!(bytes.len() >= LANE);
    // SAFETY: the slice has 32 bytes at least, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast::<__m256i>(), value) }
}

#[target_feature(enable = "avx2")]
fn table(products: &[u8; 16]) -> __m256i {
    // SAFETY: the array has the 16 bytes that are loaded, and the load needs no alignment.
    let half = unsafe { _mm_loadu_si128(products.as_ptr().cast::<__m128i>()) };
    _mm256_broadcastsi128_si256(half)
}

#[target_feature(enable = "avx2")]
fn xor_into_avx2(target: &mut [u8], source: &[u8]) {
    let mut targets = target.chunks_exact_mut(LANE);
    let mut sources = source.chunks_exact(LANE);
    for (target, source) in targets.by_ref().zip(sources.by_ref()) {
        store(target, _mm256_xor_si256(load(target), load(source)));
    }
    portable::xor_into(targets.into_remainder(), sources.remainder());
}

#[target_feature(enable = "avx2")]
fn multiply_into_avx2(target: &mut [u8], source: &[u8], factor: u8) {
    let (low, high) = field::nibble_products(factor);
    let (low, high, nibble) = (table(&low), table(&high), _mm256_set1_epi8(15));
    let mut targets = target.chunks_exact_mut(LANE);
    let mut sources = source.chunks_exact(LANE);
    for (target, source) in targets.by_ref().zip(sources.by_ref()) {
        let bytes = load(source);
        let from_low = _mm256_shuffle_epi8(low, _mm256_and_si256(bytes, nibble));
        let from_high = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi64::<4>(bytes), nibble));
        store(target, _mm256_xor_si256(load(target), _mm256_xor_si256(from_low, from_high)));
    }
    portable::multiply_into(targets.into_remainder(), sources.remainder(), factor);
}

#[target_feature(enable = "avx2")]
fn generate_pq_avx2(data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    let zero = _mm256_setzero_si256();
    let reduction = _mm256_set1_epi8(0x1d);
    let whole = p.len() / LANE * LANE;
    for at in (0..whole).step_by(LANE) {
        let (mut sum, mut syndrome) = (zero, zero);
        for chunk in data.iter().rev() {
            let bytes = load(&chunk[at..]);
            sum = _mm256_xor_si256(sum, bytes);
            // Times two: bytes with the top bit set are negative, and are reduced.
            let carries = _mm256_and_si256(_mm256_cmpgt_epi8(zero, syndrome), reduction);
            syndrome =
                _mm256_xor_si256(_mm256_xor_si256(_mm256_add_epi8(syndrome, syndrome), carries), bytes);
        }
        store(&mut p[at..], sum);
        store(&mut q[at..], syndrome);
    }
    portable::generate_pq_tail(data, p, q, whole);
}

//! Every kernel against the portable one, the portable one against `reed-solomon-erasure`'s field, and
//! every pair of lost members.

use proptest::prelude::*;
use reed_solomon_erasure::galois_8;

use super::*;

fn filled(rows: usize, len: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..rows).map(|_| (0..len).map(|_| next()).collect()).collect()
}

fn slices(rows: &[Vec<u8>]) -> Vec<&[u8]> {
    rows.iter().map(Vec::as_slice).collect()
}

#[test]
fn the_field_is_that_of_reed_solomon_erasure() {
    for a in 0..=255 {
        for b in 0..=255 {
            assert_eq!(field::multiply(a, b), galois_8::mul(a, b), "{a} * {b}");
        }
        if a != 0 {
            assert_eq!(field::inverse(a), galois_8::div(1, a), "1 / {a}");
        }
        assert_eq!(field::power(usize::from(a)), galois_8::exp(2, usize::from(a)), "2 ^ {a}");
    }
}

#[test]
fn q_is_the_sum_over_that_field() {
    let data = filled(9, 77, 3);
    for kernel in kernels() {
        let (mut p, mut q) = (vec![1; 77], vec![2; 77]);
        kernel.generate_pq(&slices(&data), &mut p, &mut q);
        for at in 0..77 {
            let sum = data.iter().fold(0, |sum, row| sum ^ row[at]);
            let syndrome = data
                .iter()
                .enumerate()
                .fold(0, |sum, (i, row)| sum ^ galois_8::mul(galois_8::exp(2, i), row[at]));
            assert_eq!((p[at], q[at]), (sum, syndrome), "{} at {at}", kernel.name);
        }
    }
}

#[test]
fn every_pair_of_lost_rows_comes_back_by_every_kernel() {
    for kernel in kernels() {
        for data_rows in (2..=18).chain([64, 255]) {
            let len = if data_rows > 18 { 33 } else { 97 };
            let mut rows = filled(data_rows, len, data_rows as u64);
            let (mut p, mut q) = (vec![0; len], vec![0; len]);
            kernel.generate_pq(&slices(&rows), &mut p, &mut q);
            rows.extend([p, q]);
            let step = if data_rows > 18 { 13 } else { 1 };
            for x in (0..rows.len()).step_by(step) {
                for y in (x..rows.len()).step_by(step) {
                    lose_and_recover(kernel, &rows, data_rows, &[x, y]);
                }
            }
        }
    }
}

#[test]
fn every_single_lost_row_of_raid5_comes_back() {
    for kernel in kernels() {
        let mut rows = filled(4, 100, 9);
        let mut p = vec![0; 100];
        kernel.generate_p(&slices(&rows), &mut p);
        rows.push(p);
        for x in 0..5 {
            lose_and_recover(kernel, &rows, 4, &[x]);
        }
    }
}

fn lose_and_recover(kernel: &Kernel, rows: &[Vec<u8>], data_rows: usize, lost: &[usize]) {
    let mut damaged = rows.to_vec();
    for &row in lost {
        damaged[row].fill(0xa5);
    }
    let mut views: Vec<&mut [u8]> = damaged.iter_mut().map(Vec::as_mut_slice).collect();
    recover(kernel, &mut views, data_rows, lost).unwrap();
    assert_eq!(damaged, rows, "{} of {data_rows} data rows, lost {lost:?}", kernel.name);
}

#[test]
fn what_parity_cannot_restore_is_refused() {
    let mut raid5 = filled(4, 16, 1);
    let mut views: Vec<&mut [u8]> = raid5.iter_mut().map(Vec::as_mut_slice).collect();
    assert_eq!(recover(best(), &mut views, 3, &[0, 3]), Err(RecoverError::TooManyLost { lost: 2 }));
    let mut raid6 = filled(6, 16, 1);
    let mut views: Vec<&mut [u8]> = raid6.iter_mut().map(Vec::as_mut_slice).collect();
    assert_eq!(recover(best(), &mut views, 4, &[0, 1, 4]), Err(RecoverError::TooManyLost { lost: 3 }));
}

proptest! {
    #[test]
    fn every_kernel_equals_the_portable_one(
        rows in 1usize..12, len in 0usize..300, skew in 0usize..40, factor: u8, seed: u64,
    ) {
        let backing = filled(rows, len + skew, seed);
        let data: Vec<&[u8]> = backing.iter().map(|row| &row[skew..]).collect();
        let reference = &portable::KERNEL;
        let (mut p, mut q) = (vec![0; len], vec![0; len]);
        reference.generate_pq(&data, &mut p, &mut q);
        let mut product = p.clone();
        reference.multiply_into(&mut product, data[0], factor);
        let mut sum = p.clone();
        reference.xor_into(&mut sum, data[rows - 1]);
        for kernel in kernels() {
            let (mut p2, mut q2) = (vec![7; len], vec![7; len]);
            kernel.generate_pq(&data, &mut p2, &mut q2);
            prop_assert_eq!((&p2, &q2), (&p, &q), "{}", kernel.name);
            let mut product2 = p.clone();
            kernel.multiply_into(&mut product2, data[0], factor);
            prop_assert_eq!(&product2, &product, "{}", kernel.name);
            let mut sum2 = p.clone();
            kernel.xor_into(&mut sum2, data[rows - 1]);
            prop_assert_eq!(&sum2, &sum, "{}", kernel.name);
        }
    }
}

//! Computing lost rows of a stripe from the others.

use super::{Kernel, field};

/// Why lost rows cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// More rows are lost than parities are left.
    #[error("{lost} rows of the stripe are lost, more than its parity can restore")]
    TooManyLost {
        /// How many.
        lost: usize,
    },
}

/// Fill in every lost row of a stripe. `rows` are the data chunks in order, then P, then (RAID 6) Q, all
/// of the same length; `lost` says which of them mean nothing and are to be computed.
pub fn recover(
    kernel: &Kernel,
    rows: &mut [&mut [u8]],
    data_rows: usize,
    lost: &[usize],
) -> Result<(), RecoverError> {
    let has_q = rows.len() == data_rows + 2;
    let (p, q) = (data_rows, data_rows + 1);
    let mut lost = lost.to_vec();
    lost.sort_unstable();
    lost.dedup();
    let lost_data: Vec<usize> = lost.iter().copied().filter(|&row| row < data_rows).collect();
    let p_lost = lost.contains(&p);
    let q_lost = !has_q || lost.contains(&q);
    match (&lost_data[..], p_lost, q_lost) {
        ([], ..) => {}
        (&[x], false, _) => one_from_p(kernel, rows, data_rows, x),
        (&[x], true, false) => one_from_q(kernel, rows, data_rows, x),
        (&[x, y], false, false) => two_from_pq(kernel, rows, data_rows, x, y),
        _ => return Err(RecoverError::TooManyLost { lost: lost.len() }),
    }
    if p_lost || (has_q && q_lost) {
        regenerate(kernel, rows, data_rows, p_lost, has_q && q_lost);
    }
    Ok(())
}

/// The row out of the slice, so that the others can be read while it is written.
fn with_row<R>(rows: &mut [&mut [u8]], at: usize, work: impl FnOnce(&mut [&mut [u8]], &mut [u8]) -> R) -> R {
    let row = std::mem::take(&mut rows[at]);
    let result = work(rows, row);
    rows[at] = row;
    result
}

/// D_x = P + the other data.
fn one_from_p(kernel: &Kernel, rows: &mut [&mut [u8]], data_rows: usize, x: usize) {
    with_row(rows, x, |rows, target| {
        target.copy_from_slice(rows[data_rows]);
        for other in (0..data_rows).filter(|&other| other != x) {
            kernel.xor_into(target, rows[other]);
        }
    });
}

/// D_x = (Q + the other data's share of Q) / g^x.
fn one_from_q(kernel: &Kernel, rows: &mut [&mut [u8]], data_rows: usize, x: usize) {
    let mut rest = rows[data_rows + 1].to_vec();
    for other in (0..data_rows).filter(|&other| other != x) {
        kernel.multiply_into(&mut rest, rows[other], field::power(other));
    }
    rows[x].fill(0);
    kernel.multiply_into(rows[x], &rest, field::inverse(field::power(x)));
}

/// Two equations, two unknowns: with p = D_x + D_y and q = g^x D_x + g^y D_y,
/// D_x = (q + g^y p) / (g^x + g^y) and D_y = p + D_x.
fn two_from_pq(kernel: &Kernel, rows: &mut [&mut [u8]], data_rows: usize, x: usize, y: usize) {
    let mut p_rest = rows[data_rows].to_vec();
    let mut q_rest = rows[data_rows + 1].to_vec();
    for other in (0..data_rows).filter(|&other| other != x && other != y) {
        kernel.xor_into(&mut p_rest, rows[other]);
        kernel.multiply_into(&mut q_rest, rows[other], field::power(other));
    }
    kernel.multiply_into(&mut q_rest, &p_rest, field::power(y));
    rows[x].fill(0);
    kernel.multiply_into(rows[x], &q_rest, field::inverse(field::power(x) ^ field::power(y)));
    with_row(rows, y, |rows, target| {
        target.copy_from_slice(&p_rest);
        kernel.xor_into(target, rows[x]);
    });
}

fn regenerate(kernel: &Kernel, rows: &mut [&mut [u8]], data_rows: usize, p_lost: bool, q_lost: bool) {
    let (data, parity) = rows.split_at_mut(data_rows);
    let data: Vec<&[u8]> = data.iter().map(|row| &**row).collect();
    match parity {
        [p] if p_lost => kernel.generate_p(&data, p),
        [p, q] => match (p_lost, q_lost) {
            (true, true) => kernel.generate_pq(&data, p, q),
            (true, false) => kernel.generate_p(&data, p),
            (false, true) => {
                let mut unused = vec![0; q.len()];
                kernel.generate_pq(&data, &mut unused, q);
            }
            (false, false) => {}
        },
        _ => {}
    }
}

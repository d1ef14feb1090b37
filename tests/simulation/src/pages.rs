//! The bytes of a disk, sparse: pages of zeros take no memory, copies of pages are shared until written.

use std::sync::Arc;

pub(crate) const PAGE: usize = 4096;

pub(crate) type Page = [u8; PAGE];

static ZEROS: Page = [0; PAGE];

/// A disk's contents by pages.
#[derive(Clone)]
pub(crate) struct Pages(Vec<Option<Arc<Page>>>);

impl Pages {
    pub(crate) fn new(size_bytes: u64) -> Self {
        Self(vec![None; (size_bytes as usize).div_ceil(PAGE)])
    }

    pub(crate) fn get(&self, index: usize) -> Option<Arc<Page>> {
        self.0[index].clone()
    }

    pub(crate) fn set(&mut self, index: usize, page: Option<Arc<Page>>) {
        self.0[index] = page;
    }

    /// The page's bytes; `None` if all are zero.
    pub(crate) fn page(&self, index: usize) -> Option<&Page> {
        self.0.get(index)?.as_deref()
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        for (index, start, range) in pieces(offset, into.len()) {
            let length = range.len();
            match &self.0[index] {
                Some(page) => into[range].copy_from_slice(&page[start..start + length]),
                None => into[range].fill(0),
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, start, range) in pieces(offset, data.len()) {
            let piece = &data[range];
            let zero = *piece == ZEROS[..piece.len()];
            match &mut self.0[index] {
                None if zero => {}
                place if zero && piece.len() == PAGE => *place = None,
                place => {
                    let page = Arc::make_mut(place.get_or_insert_with(|| Arc::new(ZEROS)));
                    page[start..start + piece.len()].copy_from_slice(piece);
                }
            }
        }
    }

    pub(crate) fn zero(&mut self, offset: u64, length: u64) {
        for (index, start, range) in pieces(offset, length as usize) {
            let place = &mut self.0[index];
            if range.len() == PAGE {
                *place = None;
            } else if let Some(page) = place {
                Arc::make_mut(page)[start..start + range.len()].fill(0);
            }
        }
    }
}

/// Cut a range at pages: page, start in the page, range of the request.
pub(crate) fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let at = offset as usize + done;
        let (index, start) = (at / PAGE, at % PAGE);
        let take = (PAGE - start).min(length - done);
        done += take;
        Some((index, start, done - take..done))
    })
}

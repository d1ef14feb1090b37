//! Writing the write-intent bitmap to the members.
//!
//! One writer at a time (`bitmap_turn`); what became wanted while one commit was under way is taken by the
//! next, so many writers share one write. Order that crashes depend on:
//! 1. `enter`: the bits are durable on every active member before any write in their regions begins.
//! 2. `sweep`: members are flushed before a bit is cleared, and the memory forgets the bit before the disk
//!    does, so that a writer in between waits for a commit of its own.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use bytes::Bytes;
use futures_util::future::join_all;

use super::core::{Core, keeps_bitmap};
use super::dirty::BitSet;
use super::member::Member;
use crate::format::PAGE_BYTES;
use crate::format::bitmap::Bits;
use crate::sabotage::{Sabotage, planted};

/// Holds the regions of one write open; dropping it ends the write as far as the bitmap is concerned.
#[derive(Debug)]
pub(crate) struct DirtyGuard<'a> {
    core: &'a Core,
    bits: Range<u64>,
}

impl Drop for DirtyGuard<'_> {
    fn drop(&mut self) {
        self.core.dirty.leave(self.bits.clone());
    }
}

impl Core {
    /// Mark the regions of these units, durably, before they are written.
    pub(crate) async fn mark_dirty(&self, units: Range<u64>) -> Result<DirtyGuard<'_>, IoError> {
        let bits = self.bits_of(units);
        let ready = self.dirty.enter(bits.clone());
        let guard = DirtyGuard { core: self, bits: bits.clone() };
        if !ready {
            self.commit_bitmap(bits).await?;
        }
        Ok(guard)
    }

    async fn commit_bitmap(&self, bits: Range<u64>) -> Result<(), IoError> {
        loop {
            let failures = {
                let _turn = self.bitmap_turn.lock().await;
                if self.dirty.is_durable(bits.clone()) {
                    return Ok(());
                }
                let wanted = self.dirty.wanted();
                let failures = self.write_bitmap(&self.dirty.image(&wanted), &self.active_members()).await;
                if failures.is_empty() {
                    self.dirty.committed(&wanted);
                    return Ok(());
                }
                failures
            };
            // Not under `bitmap_turn`: failing a member rewrites the bitmap's header.
            for (member, error) in failures {
                if error.kind == IoErrorKind::NoSpace {
                    return Err(error);
                }
                self.fail_member(member.number, &error.to_string(), IoOperation::Write).await?;
            }
        }
    }

    pub(crate) fn active_members(&self) -> Vec<Arc<Member>> {
        self.table().active().map(|(_, member)| Arc::clone(member)).collect()
    }

    /// Write a whole image to these members. Only pages that exist in the image are written.
    pub(crate) async fn write_bitmap(
        &self,
        image: &BitSet,
        to: &[Arc<Member>],
    ) -> Vec<(Arc<Member>, IoError)> {
        let Some(bytes) = self.encode_bitmap(image) else { return Vec::new() };
        let writes = to.iter().filter(|member| member.layout.bitmap.len > 0).map(|member| {
            let bytes = bytes.clone();
            async move {
                let at = member.layout.bitmap.offset;
                let result = member.device.write(at, bytes, Durability::Durable).await;
                result.err().map(|error| (Arc::clone(member), error))
            }
        });
        join_all(writes).await.into_iter().flatten().collect()
    }

    /// The image's bytes; `None` where the policy keeps no bitmap.
    fn encode_bitmap(&self, image: &BitSet) -> Option<Bytes> {
        if !keeps_bitmap(self.policy) {
            return None;
        }
        let length = (self.bitmap.image_bytes() as usize).next_multiple_of(PAGE_BYTES);
        let mut buffer = Buffer::zeroed(length);
        let mut header = self.bitmap.clone();
        header.events = self.bitmap_events.load(Ordering::Acquire);
        header.events_cleared = self.events_cleared.load(Ordering::Acquire);
        let encoded = header.encode();
        buffer[..encoded.len()].copy_from_slice(&encoded);
        let mut bits = Bits::of_image(&mut buffer[..]);
        for bit in image.iter() {
            bits.put(bit..bit + 1, true);
        }
        Some(buffer.freeze())
    }

    /// Clear what has been idle, degraded or not: a bit says what a crash may leave half-written. What a missing
    /// member lacks is not kept there, it is rebuilt whole; md learns that from `events_cleared`, which moves past
    /// every member that is not here, so that none is ever re-added by these bits.
    pub(crate) async fn sweep_bitmap(&self) {
        let idle = self.dirty.idle();
        if idle.is_empty() || !keeps_bitmap(self.policy) {
            return;
        }
        if !planted(Sabotage::BitmapBitClearedEarly) && self.flush_members().await.is_err() {
            return;
        }
        let failures = {
            let _turn = self.bitmap_turn.lock().await;
            self.dirty.forget_idle(&idle);
            self.events_cleared.store(self.bitmap_events.load(Ordering::Acquire), Ordering::Release);
            self.write_bitmap(&self.dirty.image(&[]), &self.active_members()).await
        };
        for (member, error) in failures {
            if error.kind == IoErrorKind::NoSpace {
                // It is the host that is full. For the memory the bits are not durable: who writes there waits for a commit.
                tracing::warn!(array = %self.name, member = %member.label(), %error, "bits of the bitmap stay set");
                continue;
            }
            // A bit that stays set on disk costs a resync, nothing more; but the member is not well.
            let _ = self.fail_member(member.number, &error.to_string(), IoOperation::Write).await;
        }
    }
}

//! What fuzz targets see of parsers that nobody else needs. No part of the interface.

use crate::scsi::fuzzing as scsi;

/// An EXTENDED COPY parameter list as it was understood, written down again. `None`: it is refused.
pub fn copy_list(bytes: &[u8]) -> Option<Vec<u8>> {
    scsi::copy_list(bytes)
}

/// The iSCSI TransportID that bytes begin with, written down again, and how many bytes it took.
pub fn transport_id(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    scsi::transport_id(bytes)
}

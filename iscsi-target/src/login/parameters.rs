//! What a login settles (RFC 7143 section 13), with the RFC's defaults.

use crate::pdu::frame::Framing;

/// Operational parameters of a session and its connection. Lengths in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// HeaderDigest=CRC32C.
    pub header_digest: bool,
    /// DataDigest=CRC32C.
    pub data_digest: bool,
    /// The longest data segment the initiator takes (its MaxRecvDataSegmentLength).
    pub initiator_max_recv: u32,
    /// The longest data segment we take: what we declared, or the RFC's default while we have not.
    pub our_max_recv: u32,
    /// MaxBurstLength.
    pub max_burst: u32,
    /// FirstBurstLength.
    pub first_burst: u32,
    /// InitialR2T: no unsolicited Data-Out.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u32,
    /// MaxConnections.
    pub max_connections: u32,
    /// DataPDUInOrder: offsets grow inside a sequence.
    pub data_pdu_in_order: bool,
    /// DataSequenceInOrder: so do those of sequences. Ours always do.
    pub data_sequence_in_order: bool,
    /// DefaultTime2Wait, seconds.
    pub time_to_wait_s: u32,
    /// DefaultTime2Retain, seconds.
    pub time_to_retain_s: u32,
}

/// The RFC's default of MaxRecvDataSegmentLength, which also holds during login.
pub const DEFAULT_MAX_RECV: u32 = 8192;

impl Parameters {
    /// How PDUs are cut.
    pub fn framing(&self) -> Framing {
        Framing { header_digest: self.header_digest, data_digest: self.data_digest }
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initiator_max_recv: DEFAULT_MAX_RECV,
            our_max_recv: DEFAULT_MAX_RECV,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
            max_connections: 1,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
            time_to_wait_s: 2,
            time_to_retain_s: 20,
        }
    }
}

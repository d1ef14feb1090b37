//! An iSCSI target (RFC 7143) that serves any BlockDevice as a SCSI logical unit.

//! Disks to arrays to volumes: RAID 0, 1, 5, 6 and 10 with Linux md's on-disk format.

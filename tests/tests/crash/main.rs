//! What does SIGKILL in the middle of writes leave, alone and with disks gone before the next start?
//!
//! | module | clients | what is checked |
//! |---|---|---|
//! | `crash_cycles` | several at once, every write recorded, with and without a write cache | every sector of the LUNs against the record, again and again on one array |
//! | `crash_and_disks_gone` | one that writes marks, then one that overwrites a region | marks are there, the region is old or new; as many disks lost with each kill as the level bears |

mod crash_and_disks_gone;
mod crash_cycles;

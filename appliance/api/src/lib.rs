//! The types of labsand's control API, shared by the daemon and raidctl.

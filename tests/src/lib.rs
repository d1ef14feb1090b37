//! Whole-system tests: real clients against the real daemon.

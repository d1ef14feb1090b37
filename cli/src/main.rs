//! raidctl, the command line of labsan.

fn main() {}

//! What a session must remember: numbers, transfers under way, the order of tasks. State machines without I/O,
//! clocks or tasks; `server` drives them.

pub mod order;
pub mod pieces;
pub mod transfer;
pub mod window;

//! Every limit of the target: its name, its number, its reason.

/// Connections of one server, logins in progress included: each costs a staging buffer and a file descriptor.
pub const MAX_CONNECTIONS: usize = 2048;

/// Connections of one session: each is a path, and hosts have few of them.
pub const MAX_SESSION_CONNECTIONS: u32 = 8;

/// Connections of one initiator: nobody has all of them by ever new ISIDs.
pub const MAX_CONNECTIONS_OF_INITIATOR: usize = MAX_CONNECTIONS / 2;

/// Discovery sessions at once. They ask for no proof: strangers who keep them open keep nobody from his target.
pub const MAX_DISCOVERIES: usize = 256;

/// Logins in progress at once: what strangers can cost before they have shown who they are.
pub const MAX_LOGINS: usize = 256;

/// A login must be through by then; initiators give up after 15 s.
pub const LOGIN_TIMEOUT_MS: u64 = 15_000;

/// Text of one login or text exchange, all PDUs together. RFC 7143 section 6.1 asks for 8 KiB at least.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// PDUs one text may be spread over.
pub const MAX_TEXT_PDUS: usize = 16;

/// Login requests of one login: security and operational negotiation take a handful.
pub const MAX_LOGIN_EXCHANGES: usize = 32;

/// Commands of one session that may be under way: Linux queues 128 by default.
pub const QUEUE_DEPTH: u32 = 128;

/// Immediate commands accepted beyond the window (RFC 7143 section 4.2.2.1), and task management functions that may wait
/// for what they abort.
pub const MAX_IMMEDIATE: usize = 64;

/// Our MaxRecvDataSegmentLength: a data segment that is received in place in one piece.
pub const MAX_RECV_DATA_SEGMENT: u32 = 256 << 10;

/// FirstBurstLength we agree to: unsolicited data saves a round trip for writes up to this.
pub const FIRST_BURST: u32 = 256 << 10;

/// MaxBurstLength we agree to: the data of one R2T.
pub const MAX_BURST: u32 = 1 << 20;

/// R2Ts of one command under way at once.
pub const MAX_OUTSTANDING_R2T: u32 = 1;

/// Largest transfer of one command, a little above what VPD page B0 allows: anything longer is refused by the
/// device server, and its data is not kept.
pub const MAX_COMMAND_BYTES: u64 = 16 << 20;

/// Once half of the memory for data is taken, a session whose commands wait for their data has no more than this part of it.
pub const SHARES_OF_MEMORY: usize = 8;

/// A socket is not read for so long at most because there is no memory for a command's data: initiators that hear nothing for 5 s
/// take the target for gone.
pub const MEMORY_PATIENCE_MS: u64 = 2_000;

/// Data that was asked for comes within this time, or that of another command does, or the connection is closed: memory waits
/// for it.
pub const DATA_OUT_TIMEOUT_MS: u64 = 20_000;

/// All of a command's data may take so many times as long.
pub const MOST_PATIENCE_WITH_DATA: u32 = 10;

/// Bytes received ahead of where they belong: headers, small writes, and the start of large ones.
pub const STAGING_BYTES: usize = 64 << 10;

/// Data segments from this length on are received straight into their command's buffer.
pub const IN_PLACE_BYTES: usize = 8 << 10;

/// Idle time after which the initiator is asked whether it is still there.
pub const NOP_IN_INTERVAL_MS: u64 = 15_000;

/// It must answer by then.
pub const NOP_IN_TIMEOUT_MS: u64 = 15_000;

/// Bytes of responses that wait for a slow initiator before no more commands are read from it.
pub const MAX_QUEUED_RESPONSE_BYTES: usize = 16 << 20;

/// The same for memory that is not of the pool: what is echoed, rejected or told, and the headers of data. Small answers
/// to a thousand sessions that take none must still fit beside the pool.
pub const MAX_QUEUED_OWN_BYTES: usize = 1 << 20;

/// The same of all connections together; beyond it each has room for small answers only.
pub const MAX_QUEUED_OWN_BYTES_OF_ALL: usize = 64 << 20;

/// That room.
pub const MIN_QUEUED_OWN_BYTES: usize = 16 << 10;

/// Buffers handed to one vectored write.
pub const MAX_IO_SLICES: usize = 128;

/// Seconds an initiator is given to log out when the target stops.
pub const LOGOUT_GRACE_S: u16 = 3;

/// Messages to a session from the rest of the target: resets and drops come one at a time.
pub const SESSION_MAILBOX: usize = 16;

/// Nexuses registered with one logical unit: every port of a large cluster's nodes, and still a small part of the slot
/// in which the arrays keep them.
pub const MAX_REGISTRATIONS: usize = 256;

/// Initiators that a logical unit remembers to have been there, at 8 bytes each: more than any cluster has.
pub const MAX_RETURNING: usize = 4096;

/// Nexuses that were lost and are told by a logical unit, or a target, what they have missed if they come back.
pub const MAX_AWAY: usize = 256;

/// Memory for parameter lists, apart from that for data: a node that fences another does not wait behind its writes.
pub const PARAMETER_POOL_BYTES: usize = 4 << 20;

/// Longest parameter list of any command that is received: all that mean something are shorter, and what is refused for its
/// length must not be turned away for want of memory first.
pub const MAX_PARAMETER_LIST_BYTES: u64 = 512 << 10;

/// Parameter list of PERSISTENT RESERVE OUT: as many TransportIDs as may be registered.
pub const MAX_RESERVE_LIST_BYTES: usize = 64 << 10;

/// Initiators that were sent to another address and are remembered until they are known to be there: as many as may be
/// logging in at once, a few times over.
pub const MAX_UNDERWAY: usize = 1024;

/// Who was sent to another portal of this server and has not arrived by then does not come: a login is through by then, or
/// is tried again.
pub const ARRIVAL_MS: u64 = LOGIN_TIMEOUT_MS;

/// A count of sessions that was asked for this long after an initiator was sent has it in it.
pub const SETTLING_MS: u64 = 2_000;

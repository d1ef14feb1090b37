//! Where does the next piece of write data belong? (RFC 7143 sections 4.2.5, 11.7, 11.8.)
//!
//! | phase | the initiator sends | then |
//! |---|---|---|
//! | unsolicited | immediate data, then Data-Out with TTT ffffffff up to FirstBurstLength, until F | soliciting, or complete |
//! | soliciting | nothing; an R2T goes out | bursting |
//! | bursting | Data-Out with the R2T's TTT, in order, until F | soliciting, or complete |
//!
//! Data comes in order (DataPDUInOrder and DataSequenceInOrder are Yes). A piece out of place spoils the command: its
//! data is passed over, and at the end of the sequence it ends with CHECK CONDITION instead of being carried out.

use crate::login::parameters::Parameters;
use crate::pdu::NO_TAG;

/// Additional sense codes for spoilt transfers (RFC 7143 section 11.4.7.2), all ABORTED COMMAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// 0Ch/0Ch: data nobody asked for.
    UnexpectedUnsolicitedData,
    /// 0Ch/0Dh: more or less data than was asked for, or in the wrong order.
    IncorrectAmountOfData,
    /// 47h/05h: the data digest did not match.
    DigestError,
}

impl Spoilt {
    /// ASC and ASCQ.
    pub fn codes(self) -> (u8, u8) {
        match self {
            Self::UnexpectedUnsolicitedData => (0x0c, 0x0c),
            Self::IncorrectAmountOfData => (0x0c, 0x0d),
            Self::DigestError => (0x47, 0x05),
        }
    }
}

/// What is to be done after a piece of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More data will come by itself.
    Wait,
    /// Send an R2T for this range.
    Solicit {
        /// Its R2TSN.
        r2t_sn: u32,
        /// Byte offset in the command's data.
        offset: u32,
        /// Bytes.
        length: u32,
    },
    /// Everything is here (or the transfer is spoilt and its sequence over).
    Complete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Unsolicited,
    Bursting { end: u32 },
    Complete,
}

/// The data of one command on its way in.
#[derive(Debug)]
pub struct Transfer {
    /// Bytes the command will use.
    total: u32,
    /// Bytes of unsolicited data the initiator may send, immediate data included.
    first_burst_end: u32,
    max_burst: u32,
    received: u32,
    phase: Phase,
    data_sn: u32,
    r2t_sn: u32,
    target_transfer_tag: u32,
    spoilt: Option<Spoilt>,
}

impl Transfer {
    /// A command of which `total` bytes are wanted. `expected` is its Expected Data Transfer Length, `immediate` what
    /// came with it, `is_final` its F bit. `tag` is the target transfer tag of its R2Ts.
    pub fn new(
        parameters: &Parameters,
        total: u32,
        expected: u32,
        immediate: u32,
        is_final: bool,
        tag: u32,
    ) -> Self {
        let may_burst = !parameters.initial_r2t;
        let first_burst_end = parameters.first_burst.min(expected);
        let mut transfer = Self {
            total,
            first_burst_end,
            max_burst: parameters.max_burst,
            received: immediate,
            phase: Phase::Unsolicited,
            data_sn: 0,
            r2t_sn: 0,
            target_transfer_tag: tag,
            spoilt: None,
        };
        let allowed = if parameters.immediate_data { first_burst_end } else { 0 };
        if immediate > allowed || (!is_final && !may_burst) {
            transfer.spoilt = Some(Spoilt::UnexpectedUnsolicitedData);
        }
        transfer
    }

    /// After the command itself.
    pub fn begin(&mut self, is_final: bool) -> Next {
        if is_final { self.end_of_sequence() } else { Next::Wait }
    }

    /// Why the command cannot be carried out, if it cannot.
    pub fn spoilt(&self) -> Option<Spoilt> {
        self.spoilt
    }

    /// Spoil it.
    pub fn spoil(&mut self, why: Spoilt) {
        self.spoilt.get_or_insert(why);
    }

    /// The tag our R2Ts carry.
    pub fn target_transfer_tag(&self) -> u32 {
        self.target_transfer_tag
    }

    /// Check the header of a Data-Out. True: its data belongs at its offset; false: pass it over.
    pub fn accept(&mut self, tag: u32, data_sn: u32, offset: u32, length: u32) -> bool {
        let (expected_tag, limit, excess) = match self.phase {
            Phase::Unsolicited => (NO_TAG, self.first_burst_end, Spoilt::UnexpectedUnsolicitedData),
            Phase::Bursting { end } => (self.target_transfer_tag, end, Spoilt::IncorrectAmountOfData),
            Phase::Complete => (NO_TAG, 0, Spoilt::UnexpectedUnsolicitedData),
        };
        let in_place = tag == expected_tag && data_sn == self.data_sn && offset == self.received;
        if !in_place {
            self.spoil(Spoilt::IncorrectAmountOfData);
        } else if offset.checked_add(length).is_none_or(|end| end > limit) {
            self.spoil(excess);
        }
        self.data_sn = self.data_sn.wrapping_add(1);
        if self.spoilt.is_some() {
            return false;
        }
        self.received += length;
        true
    }

    /// After the data of a Data-Out.
    pub fn after_data(&mut self, is_final: bool) -> Next {
        if is_final { self.end_of_sequence() } else { Next::Wait }
    }

    fn end_of_sequence(&mut self) -> Next {
        if let Phase::Bursting { end } = self.phase
            && self.received != end
        {
            self.spoil(Spoilt::IncorrectAmountOfData);
        }
        if self.spoilt.is_some() || self.received >= self.total {
            self.phase = Phase::Complete;
            return Next::Complete;
        }
        let (r2t_sn, offset) = (self.r2t_sn, self.received);
        let length = (self.total - offset).min(self.max_burst);
        self.r2t_sn = self.r2t_sn.wrapping_add(1);
        self.data_sn = 0;
        self.phase = Phase::Bursting { end: offset + length };
        Next::Solicit { r2t_sn, offset, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters { first_burst: 1000, max_burst: 400, initial_r2t: false, ..Parameters::default() }
    }

    #[test]
    fn immediate_unsolicited_and_solicited_data_make_up_the_whole() {
        let mut transfer = Transfer::new(&parameters(), 1500, 1500, 300, false, 7);
        assert_eq!(transfer.begin(false), Next::Wait);
        assert!(transfer.accept(NO_TAG, 0, 300, 500));
        assert_eq!(transfer.after_data(false), Next::Wait);
        assert!(transfer.accept(NO_TAG, 1, 800, 200));
        assert_eq!(transfer.after_data(true), Next::Solicit { r2t_sn: 0, offset: 1000, length: 400 });
        assert!(transfer.accept(7, 0, 1000, 100));
        assert_eq!(transfer.after_data(false), Next::Wait);
        assert!(transfer.accept(7, 1, 1100, 300));
        assert_eq!(transfer.after_data(true), Next::Solicit { r2t_sn: 1, offset: 1400, length: 100 });
        assert!(transfer.accept(7, 0, 1400, 100));
        assert_eq!(transfer.after_data(true), Next::Complete);
        assert_eq!(transfer.spoilt(), None);
    }

    #[test]
    fn pieces_out_of_place_spoil_the_command() {
        for (tag, data_sn, offset, length) in [
            (NO_TAG, 1, 0, 10),
            (NO_TAG, 0, 10, 10),
            (5, 0, 0, 10),
            (NO_TAG, 0, 0, 1001),
            (NO_TAG, 0, u32::MAX, 9),
        ] {
            let mut transfer = Transfer::new(&parameters(), 2000, 2000, 0, false, 7);
            assert!(!transfer.accept(tag, data_sn, offset, length));
            assert_eq!(transfer.after_data(false), Next::Wait);
            assert!(!transfer.accept(NO_TAG, 1, 0, 1), "spoilt for good");
            assert_eq!(transfer.after_data(true), Next::Complete);
            assert!(transfer.spoilt().is_some());
        }
    }

    #[test]
    fn too_little_data_for_an_r2t_spoils_it() {
        let mut transfer = Transfer::new(&parameters(), 2000, 2000, 0, true, 7);
        assert_eq!(transfer.begin(true), Next::Solicit { r2t_sn: 0, offset: 0, length: 400 });
        assert!(transfer.accept(7, 0, 0, 100));
        assert_eq!(transfer.after_data(true), Next::Complete);
        assert_eq!(transfer.spoilt(), Some(Spoilt::IncorrectAmountOfData));
    }

    #[test]
    fn data_where_none_was_agreed_spoils_it() {
        let strict = Parameters { initial_r2t: true, immediate_data: false, ..parameters() };
        assert!(Transfer::new(&strict, 100, 100, 0, true, 7).spoilt().is_none());
        assert!(Transfer::new(&strict, 100, 100, 50, true, 7).spoilt().is_some());
        assert!(Transfer::new(&strict, 100, 100, 0, false, 7).spoilt().is_some());
    }

    #[test]
    fn a_command_may_want_less_than_is_offered() {
        let mut transfer = Transfer::new(&parameters(), 100, 900, 300, true, 7);
        assert_eq!(transfer.begin(true), Next::Complete);
        assert_eq!(transfer.spoilt(), None);
    }
}

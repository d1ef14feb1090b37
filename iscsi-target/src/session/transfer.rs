//! Where does the next piece of write data belong? (RFC 7143 sections 4.2.5, 11.7, 11.8.)
//!
//! | phase | the initiator sends | then |
//! |---|---|---|
//! | unsolicited | immediate data, then Data-Out with TTT ffffffff up to FirstBurstLength, until F | soliciting, or complete |
//! | soliciting | nothing; an R2T goes out | bursting |
//! | bursting | Data-Out with the R2T's TTT, until F | soliciting, or complete |
//!
//! DataSN counts the PDUs of a sequence as they come. Their offsets grow, unless DataPDUInOrder=No was agreed: then they may
//! lie anywhere in the sequence, but at its end there must be no gap. Sequences always follow each other in order; that is
//! our choice also with DataSequenceInOrder=No. A piece out of place spoils the command: its data is passed over, and at
//! the end of the sequence it ends with CHECK CONDITION instead of being carried out (RFC 7143 section 7.8).

use super::pieces::Pieces;
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
    /// Bytes of the sequences that have ended; while data comes in order, of the one under way too.
    received: u32,
    in_order: bool,
    /// Of the sequence under way, where data comes in any order.
    pieces: Pieces,
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
            in_order: parameters.data_pdu_in_order,
            pieces: Pieces::default(),
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
        let expected = tag == expected_tag && data_sn == self.data_sn && self.may_begin_at(offset);
        let end = offset.checked_add(length).filter(|end| *end <= limit);
        match (expected, end) {
            (false, _) => self.spoil(Spoilt::IncorrectAmountOfData),
            (true, None) => self.spoil(excess),
            (true, Some(end)) => self.take(offset, end),
        }
        self.data_sn = self.data_sn.wrapping_add(1);
        self.spoilt.is_none()
    }

    fn may_begin_at(&self, offset: u32) -> bool {
        if self.in_order { offset == self.received } else { offset >= self.received }
    }

    fn take(&mut self, start: u32, end: u32) {
        if self.in_order {
            self.received = end;
        } else if self.pieces.insert(start, end).is_err() {
            self.spoil(Spoilt::IncorrectAmountOfData);
        }
    }

    /// After the data of a Data-Out.
    pub fn after_data(&mut self, is_final: bool) -> Next {
        if is_final { self.end_of_sequence() } else { Next::Wait }
    }

    fn end_of_sequence(&mut self) -> Next {
        match self.pieces.whole_from(self.received) {
            Some(end) => self.received = end,
            None => self.spoil(Spoilt::IncorrectAmountOfData),
        }
        self.pieces.clear();
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
    fn in_any_order_only_the_end_of_the_sequence_tells() {
        let any = Parameters { data_pdu_in_order: false, ..parameters() };
        let mut transfer = Transfer::new(&any, 1400, 1400, 100, false, 7);
        assert_eq!(transfer.begin(false), Next::Wait);
        for (data_sn, (offset, length)) in
            [(600, 400), (100, 100), (400, 200), (200, 200)].into_iter().enumerate()
        {
            assert!(transfer.accept(NO_TAG, data_sn as u32, offset, length));
        }
        assert_eq!(transfer.after_data(true), Next::Solicit { r2t_sn: 0, offset: 1000, length: 400 });
        for (data_sn, offset) in [(0, 1300), (1, 1000), (2, 1200), (3, 1100)] {
            assert!(transfer.accept(7, data_sn, offset, 100));
        }
        assert_eq!(transfer.after_data(true), Next::Complete);
        assert_eq!(transfer.spoilt(), None);
    }

    #[test]
    fn in_any_order_gaps_and_overlaps_are_refused() {
        let any = Parameters { data_pdu_in_order: false, ..parameters() };
        let spoilt = |pieces: &[(u32, u32, u32)]| {
            let mut transfer = Transfer::new(&any, 400, 400, 0, true, 7);
            assert_eq!(transfer.begin(true), Next::Solicit { r2t_sn: 0, offset: 0, length: 400 });
            for (data_sn, offset, length) in pieces {
                transfer.accept(7, *data_sn, *offset, *length);
            }
            assert_eq!(transfer.after_data(true), Next::Complete);
            transfer.spoilt()
        };
        let wrong = Some(Spoilt::IncorrectAmountOfData);
        assert_eq!(spoilt(&[(0, 200, 200), (1, 0, 200)]), None);
        assert_eq!(spoilt(&[(0, 200, 200), (1, 0, 100)]), wrong, "a gap");
        assert_eq!(spoilt(&[(0, 100, 300)]), wrong, "a gap at the beginning");
        assert_eq!(spoilt(&[(0, 200, 200), (1, 0, 201)]), wrong, "an overlap");
        assert_eq!(spoilt(&[(0, 0, 200), (1, 0, 200), (2, 200, 200)]), wrong, "the same twice");
        assert_eq!(spoilt(&[(0, 200, 201), (1, 0, 200)]), wrong, "beyond the R2T");
        assert_eq!(spoilt(&[(1, 200, 200), (0, 0, 200)]), wrong, "DataSN counts PDUs as they come");
        // Unsolicited data ends where the initiator likes, but has no gap either.
        let mut transfer = Transfer::new(&any, 2000, 2000, 0, false, 7);
        assert!(transfer.accept(NO_TAG, 0, 500, 100));
        assert_eq!(transfer.after_data(true), Next::Complete);
        assert_eq!(transfer.spoilt(), wrong);
    }

    #[test]
    fn what_was_immediate_does_not_come_again() {
        for in_order in [true, false] {
            let parameters = Parameters { data_pdu_in_order: in_order, ..parameters() };
            let mut transfer = Transfer::new(&parameters, 2000, 2000, 300, false, 7);
            assert!(!transfer.accept(NO_TAG, 0, 200, 200));
            assert_eq!(transfer.spoilt(), Some(Spoilt::IncorrectAmountOfData));
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

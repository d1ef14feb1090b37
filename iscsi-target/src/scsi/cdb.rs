//! Fields of command descriptor blocks. A CDB is at least 16 bytes here, so fixed offsets are always there.

/// A command descriptor block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cdb<'a>(pub(crate) &'a [u8]);

impl Cdb<'_> {
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.byte(0)
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    /// Where the control byte asks for an ACA (SAM-5 clause 5.2), if it does.
    pub(crate) fn control_naca(&self) -> Option<u16> {
        let control: u16 = match self.opcode() >> 5 {
            0 => 5,
            1 | 2 => 9,
            4 => 15,
            5 => 11,
            // Vendors' own, and of no one length.
            _ => return None,
        };
        (self.byte(control.into()) & 0x04 != 0).then_some(control)
    }

    /// Address and number of blocks, by the length of the CDB (SBC-3).
    pub(crate) fn extent(&self) -> Extent {
        match self.opcode() >> 5 {
            0 => {
                let block = u32::from(self.byte(1) & 0x1f) << 16 | u32::from(self.u16(2));
                // READ(6) and WRITE(6): none means 256.
                let blocks = match self.byte(4) {
                    0 => 256,
                    blocks => blocks.into(),
                };
                Extent { block: block.into(), blocks }
            }
            4 => Extent { block: self.u64(2), blocks: self.u32(10) },
            5 => Extent { block: self.u32(2).into(), blocks: self.u32(6) },
            _ => Extent { block: self.u32(2).into(), blocks: self.u16(7).into() },
        }
    }
}

/// A run of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) block: u64,
    pub(crate) blocks: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_of_every_length() {
        let extent = |bytes: &[u8]| Cdb(bytes).extent();
        assert_eq!(extent(&[0x08, 0xe1, 2, 3, 0, 0]), Extent { block: 0x1_0203, blocks: 256 });
        assert_eq!(extent(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]), Extent { block: 0x0102_0304, blocks: 0x0506 });
        assert_eq!(
            extent(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]),
            Extent { block: 0x0102_0304, blocks: 0x0506_0708 }
        );
        let sixteen = [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 0, 0, 0];
        assert_eq!(extent(&sixteen), Extent { block: 0x0102_0304_0506_0708, blocks: 256 });
    }
}

//! MODE SENSE and MODE SELECT (SPC-4; SBC-3).
//!
//! Two things can be changed: D_SENSE (descriptor sense data) and SWP (software write protect), both in the control
//! mode page.

use super::cdb::Cdb;
use super::{ScsiResponse, Sense};

/// What a mode page depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModeState {
    pub(crate) descriptor_sense: bool,
    pub(crate) write_protect: bool,
}

/// What does not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModeFacts {
    pub(crate) read_only: bool,
    pub(crate) write_cache: bool,
    pub(crate) blocks: u64,
    pub(crate) block_bytes: u32,
}

const PAGES: [u8; 4] = [0x01, 0x08, 0x0a, 0x1c];
const DESCRIPTOR_SENSE: u8 = 0x04;
const WRITE_PROTECT: u8 = 0x08;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Control {
    Current,
    Changeable,
    Default,
}

/// A page with its header.
fn page(number: u8, control: Control, facts: ModeFacts, state: ModeState) -> Vec<u8> {
    let state = if control == Control::Default { ModeState::default() } else { state };
    let changeable = control == Control::Changeable;
    let mut bytes = match number {
        0x01 => vec![0; 12],
        0x08 => vec![0; 20],
        _ => vec![0; 12],
    };
    bytes[0] = number;
    bytes[1] = bytes.len() as u8 - 2;
    match number {
        0x08 if !changeable => bytes[2] = u8::from(facts.write_cache) << 2,
        0x0a if changeable => {
            bytes[2] = DESCRIPTOR_SENSE;
            bytes[4] = WRITE_PROTECT;
        }
        0x0a => {
            bytes[2] = if state.descriptor_sense { DESCRIPTOR_SENSE } else { 0 };
            bytes[4] = if state.write_protect { WRITE_PROTECT } else { 0 };
            bytes[8..10].copy_from_slice(&[0xff, 0xff]); // busy timeout: unlimited
        }
        _ => {}
    }
    bytes
}

/// Both lengths of MODE SENSE.
pub(crate) fn sense(cdb: Cdb<'_>, facts: ModeFacts, state: ModeState) -> Result<ScsiResponse, Sense> {
    let short = cdb.opcode() == 0x1a;
    let control = match cdb.byte(2) >> 6 {
        0 => Control::Current,
        1 => Control::Changeable,
        2 => Control::Default,
        _ => return Err(Sense::NO_SAVING),
    };
    let (number, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    let numbers: &[u8] = match (number, subpage) {
        (0x3f, 0 | 0xff) => &PAGES,
        (number, 0 | 0xff) => PAGES
            .iter()
            .position(|page| *page == number)
            .map(|at| &PAGES[at..=at])
            .ok_or(Sense::INVALID_FIELD)?,
        _ => return Err(Sense::INVALID_FIELD),
    };
    let long_descriptor = !short && cdb.byte(1) & 0x10 != 0;
    let descriptor = if cdb.byte(1) & 0x08 != 0 { Vec::new() } else { descriptor(facts, long_descriptor) };
    let pages: Vec<u8> = numbers.iter().flat_map(|number| page(*number, control, facts, state)).collect();
    // WP, and DPOFUA: both bits are honoured.
    let specific = if facts.read_only || state.write_protect { 0x90 } else { 0x10 };
    let mut data = if short {
        vec![0, 0, specific, descriptor.len() as u8]
    } else {
        let mut header = vec![0, 0, 0, specific, u8::from(long_descriptor), 0];
        header.extend_from_slice(&(descriptor.len() as u16).to_be_bytes());
        header
    };
    data.extend_from_slice(&descriptor);
    data.extend_from_slice(&pages);
    if short {
        data[0] = (data.len() - 1) as u8;
    } else {
        let length = (data.len() - 2) as u16;
        data[..2].copy_from_slice(&length.to_be_bytes());
    }
    let allocation = if short { usize::from(cdb.byte(4)) } else { usize::from(cdb.u16(7)) };
    Ok(ScsiResponse::parameters(data, allocation))
}

/// Block descriptor, 8 or 16 bytes (SBC-3).
fn descriptor(facts: ModeFacts, long: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if long {
        bytes.extend_from_slice(&facts.blocks.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
    } else {
        let blocks = u32::try_from(facts.blocks).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&blocks.to_be_bytes());
    }
    bytes.extend_from_slice(&facts.block_bytes.to_be_bytes());
    bytes
}

/// Both lengths of MODE SELECT: gives the new state. Anything that cannot be changed must be as it is.
pub(crate) fn select(
    cdb: Cdb<'_>,
    list: &[u8],
    facts: ModeFacts,
    state: ModeState,
) -> Result<ModeState, Sense> {
    let short = cdb.opcode() == 0x15;
    // PF must be set, saving is not possible.
    if cdb.byte(1) & 0x01 != 0 || cdb.byte(1) & 0x10 == 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let asked = if short { usize::from(cdb.byte(4)) } else { usize::from(cdb.u16(7)) };
    if asked == 0 {
        return Ok(state);
    }
    let list = list.get(..asked).ok_or(Sense::PARAMETER_LENGTH)?;
    let (header, descriptors) = if short {
        (4, usize::from(*list.get(3).ok_or(Sense::PARAMETER_LENGTH)?))
    } else {
        let length = list.get(6..8).ok_or(Sense::PARAMETER_LENGTH)?;
        (8, usize::from(u16::from_be_bytes([length[0], length[1]])))
    };
    let mut pages = list.get(header + descriptors..).ok_or(Sense::PARAMETER_LENGTH)?;
    let mut new = state;
    while let [number, length, ..] = *pages {
        let (number, whole) = (number & 0x3f, usize::from(length) + 2);
        let given = pages.get(..whole).ok_or(Sense::PARAMETER_LENGTH)?;
        new = select_page(number, given, facts, new)?;
        pages = &pages[whole..];
    }
    if pages.is_empty() { Ok(new) } else { Err(Sense::PARAMETER_LENGTH) }
}

fn select_page(number: u8, given: &[u8], facts: ModeFacts, state: ModeState) -> Result<ModeState, Sense> {
    if !PAGES.contains(&number) || given[0] & 0x40 != 0 {
        return Err(Sense::INVALID_PARAMETER);
    }
    let current = page(number, Control::Current, facts, state);
    let changeable = page(number, Control::Changeable, facts, state);
    if given.len() != current.len() {
        return Err(Sense::INVALID_PARAMETER);
    }
    let fixed = (2..given.len()).all(|at| (given[at] ^ current[at]) & !changeable[at] == 0);
    if !fixed {
        return Err(Sense::INVALID_PARAMETER);
    }
    if number != 0x0a {
        return Ok(state);
    }
    Ok(ModeState {
        descriptor_sense: given[2] & DESCRIPTOR_SENSE != 0,
        write_protect: given[4] & WRITE_PROTECT != 0,
    })
}

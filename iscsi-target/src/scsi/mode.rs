//! MODE SENSE and MODE SELECT (SPC-4; SBC-3).
//!
//! What can be changed: D_SENSE (descriptor sense data) and SWP (software write protect) in the control mode page, and the thresholds
//! of thin units (`thin`). Nothing is saved.

use super::cdb::Cdb;
use super::thin::Thresholds;
use super::{ScsiResponse, Sense};

/// What a mode page depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModeState {
    pub(crate) descriptor_sense: bool,
    pub(crate) write_protect: bool,
    /// Where somebody has set them.
    pub(crate) thresholds: Option<Thresholds>,
}

impl ModeState {
    /// Nothing that commands have to mind.
    pub(crate) fn is_ordinary(&self) -> bool {
        !self.descriptor_sense && !self.write_protect
    }
}

/// What does not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModeFacts {
    pub(crate) read_only: bool,
    pub(crate) write_cache: bool,
    pub(crate) blocks: u64,
    pub(crate) block_bytes: u32,
    /// The thresholds of a thin unit while nobody has set others.
    pub(crate) thresholds: Option<Thresholds>,
}

/// Pages and subpages, in the order in which they are told.
const PAGES: [(u8, u8); 5] = [(0x01, 0), (0x08, 0), (0x0a, 0), (0x1c, 0), PROVISIONING];
const PROVISIONING: (u8, u8) = (0x1c, 0x02);
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;
/// SPF: a page has a subpage number and a longer header.
const SUBPAGE_FORMAT: u8 = 0x40;
/// TST: each nexus has a task set of its own, so ORDERED and HEAD OF QUEUE order its own tasks, and CLEAR TASK SET clears those.
const SEPARATE_TASK_SETS: u8 = 0x20;
/// QUEUE ALGORITHM MODIFIER: SIMPLE tasks run as their data comes.
const UNRESTRICTED_REORDERING: u8 = 0x10;
const DESCRIPTOR_SENSE: u8 = 0x04;
const WRITE_PROTECT: u8 = 0x08;

/// PC: which values are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Current,
    Changeable,
    Default,
}

/// A page with its header; none if the unit has no such page.
fn page(number: (u8, u8), control: Control, facts: ModeFacts, state: ModeState) -> Option<Vec<u8>> {
    let state = if control == Control::Default { ModeState::default() } else { state };
    match number {
        PROVISIONING => Some(state.thresholds.unwrap_or(facts.thresholds?).page(control)),
        (number, 0) => Some(short_page(number, control, facts, state)),
        _ => None,
    }
}

fn short_page(number: u8, control: Control, facts: ModeFacts, state: ModeState) -> Vec<u8> {
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
            bytes[2] = SEPARATE_TASK_SETS | if state.descriptor_sense { DESCRIPTOR_SENSE } else { 0 };
            bytes[3] = UNRESTRICTED_REORDERING;
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
    let wanted = |(page, sub): &(u8, u8)| {
        let all = number == ALL_PAGES && matches!(subpage, 0 | ALL_SUBPAGES);
        (all || *page == number) && (subpage == ALL_SUBPAGES || *sub == subpage)
    };
    let pages = PAGES.into_iter().filter(wanted).filter_map(|number| page(number, control, facts, state));
    let pages: Vec<u8> = pages.flatten().collect();
    if pages.is_empty() {
        return Err(Sense::INVALID_FIELD);
    }
    let long_descriptor = !short && cdb.byte(1) & 0x10 != 0;
    let descriptor = if cdb.byte(1) & 0x08 != 0 { Vec::new() } else { descriptor(facts, long_descriptor) };
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
    while let [first, second, ..] = *pages {
        let (number, whole) = if first & SUBPAGE_FORMAT == 0 {
            ((first & 0x3f, 0), usize::from(second) + 2)
        } else {
            let length = pages.get(2..4).ok_or(Sense::PARAMETER_LENGTH)?;
            ((first & 0x3f, second), usize::from(u16::from_be_bytes([length[0], length[1]])) + 4)
        };
        let given = pages.get(..whole).ok_or(Sense::PARAMETER_LENGTH)?;
        new = select_page(number, given, facts, new)?;
        pages = &pages[whole..];
    }
    if pages.is_empty() { Ok(new) } else { Err(Sense::PARAMETER_LENGTH) }
}

fn select_page(
    number: (u8, u8),
    given: &[u8],
    facts: ModeFacts,
    state: ModeState,
) -> Result<ModeState, Sense> {
    let page = |control| {
        let there = PAGES.contains(&number).then(|| page(number, control, facts, state));
        there.flatten().ok_or(Sense::INVALID_PARAMETER)
    };
    let (current, changeable) = (page(Control::Current)?, page(Control::Changeable)?);
    // A page 00h in subpage format is none either.
    if (given[0] ^ current[0]) & SUBPAGE_FORMAT != 0 {
        return Err(Sense::INVALID_PARAMETER);
    }
    if given.len() != current.len() {
        return Err(Sense::INVALID_PARAMETER);
    }
    let fixed = (2..given.len()).all(|at| (given[at] ^ current[at]) & !changeable[at] == 0);
    if !fixed {
        return Err(Sense::INVALID_PARAMETER);
    }
    Ok(match number {
        PROVISIONING if given[2..] != current[2..] => {
            ModeState { thresholds: Thresholds::of_page(given), ..state }
        }
        (0x0a, 0) => ModeState {
            descriptor_sense: given[2] & DESCRIPTOR_SENSE != 0,
            write_protect: given[4] & WRITE_PROTECT != 0,
            ..state
        },
        _ => state,
    })
}

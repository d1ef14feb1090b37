//! CDBs: any commands with any data, sent to a few logical units in memory as the server sends them.
//!
//! Unit 0 has blocks of 512 bytes, unit 1 is read-only, unit 2 has blocks of 4096 bytes and a write cache.

use std::sync::Arc;

use block_io::MemoryDevice;
use bytes::Bytes;
use iscsi_target::scsi::command_table::{self, Operation};
use iscsi_target::scsi::{LuOptions, LunMap, MappingResources, Nexus, ScsiCommand, ScsiResponse, Status};
use smallvec::SmallVec;

use crate::input::Input;
use crate::units::{self, POOL, UNIT_BYTES};

const TARGET: &str = "iqn.2026-11.org.labsan:fuzz";
/// Enough to get anywhere, few enough to be fast.
const MOST_COMMANDS: usize = 24;
/// The longest data sent with a command.
const MOST_DATA: u32 = 32 << 10;

struct World {
    luns: LunMap,
    devices: Vec<MemoryDevice>,
    nexuses: [Nexus; 2],
    /// A unit may be erased, or copied to, in the background.
    sanitized: bool,
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let luns = LunMap::new(TARGET);
    let kinds = [(512, false, false), (512, true, false), (4096, false, true)];
    let mut devices = Vec::new();
    for (number, (block_bytes, read_only, write_cache)) in kinds.into_iter().enumerate() {
        let options = LuOptions { read_only, write_cache, ..LuOptions::default() };
        let (device, unit) = units::unit(number as u8, block_bytes, options);
        // One has thresholds of its space.
        unit.resources_measured(write_cache.then_some(MappingResources {
            available_bytes: 1 << 20,
            used_bytes: 0,
            overcommitted: true,
        }));
        luns.insert(number as u16, Arc::clone(&unit)).unwrap();
        devices.push(device);
    }
    let nexuses = [1, 2].map(|number| units::nexus(number, TARGET, 1));
    let mut world = World { luns, devices, nexuses, sanitized: false };
    units::run(async {
        for nexus in &world.nexuses {
            world.luns.nexus_met(nexus);
        }
        for _ in 0..MOST_COMMANDS {
            if input.is_empty() {
                break;
            }
            world.command(&mut input).await;
            assert_eq!(POOL.with(block_io::BufferPool::used_bytes), 0, "memory is left behind");
        }
    });
}

impl World {
    async fn command(&mut self, input: &mut Input<'_>) {
        let how = input.u8();
        let lun = match how & 7 {
            number @ 0..=3 => u64::from(number) << 48,
            4 => 0x4002_0000_0000_0000,
            5 => input.u64(),
            _ => 0,
        };
        let nexus = self.nexuses[usize::from(how >> 3 & 1)].clone();
        let cdb: [u8; 16] = input.array();
        let wanted = self.luns.data_out_length(&nexus, lun, &cdb);
        let wanted = wanted.filter(|bytes| *bytes <= u64::from(MOST_DATA)).unwrap_or(0) as u32;
        let offered = match how >> 4 & 3 {
            0 => 0,
            1 => u32::from(input.u16()),
            _ => wanted,
        };
        let expected_data_in = match how >> 6 {
            0 => 0,
            1 => 1 << 20,
            2 => u32::from(input.u16()),
            _ => 255,
        };
        let mut data = input.part().to_vec();
        data.resize(wanted.min(offered) as usize, how);
        let before: Vec<Vec<u8>> = self.devices.iter().map(MemoryDevice::contents).collect();
        let command = ScsiCommand {
            lun,
            cdb: SmallVec::from_slice(&cdb),
            data_out: Bytes::from(data.clone()),
            expected_data_out: offered,
            expected_data_in,
            abort: None,
        };
        let pool = POOL.with(Clone::clone);
        let response = self.luns.execute(&nexus, command, &pool).await;
        units::well_formed(&response);
        assert!(response.data_in.len() <= 1 << 20, "{} bytes of data", response.data_in.len());
        self.check(lun, &cdb, &data, &before, &response);
    }

    /// Units change only as the command says.
    fn check(&mut self, lun: u64, cdb: &[u8], data: &[u8], before: &[Vec<u8>], response: &ScsiResponse) {
        let good = response.status == Status::Good;
        let known = command_table::find(cdb);
        let operation = known.map(|command| command.operation);
        self.sanitized |= operation == Some(Operation::Sanitize);
        assert!(self.devices[1].contents() == before[1], "a read-only unit has changed");
        let number = self.luns.units().into_iter().position(|(number, _)| {
            lun == u64::from(number) << 48 || lun == 0x4000_0000_0000_0000 | u64::from(number) << 48
        });
        if self.sanitized {
            return;
        }
        for (index, device) in self.devices.iter().enumerate() {
            let may = known.is_some_and(|known| known.writes) && Some(index) == number;
            let copies = operation == Some(Operation::ExtendedCopy);
            assert!(may || copies || device.contents() == before[index], "unit {index} by {cdb:02x?}");
        }
        let (Some(number), Some(operation), true) = (number, operation, good) else { return };
        let block_bytes = if number == 2 { 4096 } else { 512 };
        let Some((at, length)) = extent(cdb, block_bytes) else { return };
        let now = self.devices[number].contents();
        match operation {
            Operation::Read => {
                let found = &response.data_in;
                assert_eq!(response.data_in_wanted, length as u64);
                assert!(**found == before[number][at..at + found.len()], "read {cdb:02x?}");
            }
            Operation::Write | Operation::WriteAndVerify => {
                let whole = data.len().min(length) / block_bytes * block_bytes;
                let mut expected = before[number].clone();
                expected[at..at + whole].copy_from_slice(&data[..whole]);
                assert!(now == expected, "written {cdb:02x?}");
            }
            _ => {}
        }
    }
}

/// First byte and length of what READ and WRITE name; read from the CDB here once more, and within the unit.
fn extent(cdb: &[u8], block_bytes: usize) -> Option<(usize, usize)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
    let (block, blocks) = match cdb[0] {
        0x08 | 0x0a => {
            (number(&[cdb[1] & 0x1f, cdb[2], cdb[3]]), if cdb[4] == 0 { 256 } else { cdb[4].into() })
        }
        0x28 | 0x2a | 0x2e => (number(&cdb[2..6]), number(&cdb[7..9])),
        0xa8 | 0xaa | 0xae => (number(&cdb[2..6]), number(&cdb[6..10])),
        0x88 | 0x8a | 0x8e => (number(&cdb[2..10]), number(&cdb[10..14])),
        _ => return None,
    };
    let (at, length) = (block * block_bytes, blocks * block_bytes);
    assert!(at + length <= UNIT_BYTES, "GOOD for {cdb:02x?}");
    Some((at, length))
}

//! Inputs to begin with: what real initiators and real members say, so that the fuzzer need not guess it.

use fixtures::md::IMAGES;
use iscsi_target::chap::Algorithm;
use iscsi_target::pdu::opcode;
use iscsi_target::scsi::command_table;
use raid_core::format::labsan::config::{self, ConfigDocument, Extent, VolumeRecord};
use raid_core::format::labsan::journal_head::{Epoch, JournalHead};
use raid_core::format::labsan::journal_record::{Item, Stamp, encode, record_bytes};
use raid_core::format::labsan::lost::LostBlocks;
use raid_core::format::labsan::written::WrittenMap;
use raid_core::geometry::Row;
use uuid::Uuid;

use crate::area::{ARRAY, member};
use crate::login::{GUARDED, JOINS, MOVED, OPEN, right_response};

/// Bytes with their length before them.
fn part(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

pub(crate) fn pdu() -> Vec<Vec<u8>> {
    let opcodes = [
        opcode::NOP_OUT,
        opcode::SCSI_COMMAND,
        opcode::TASK_MANAGEMENT,
        opcode::LOGIN,
        opcode::TEXT,
        opcode::DATA_OUT,
        opcode::LOGOUT,
        opcode::SNACK,
        opcode::R2T,
        opcode::REJECT,
    ];
    let mut seeds = Vec::new();
    for (index, opcode) in opcodes.into_iter().enumerate() {
        let (data, ahs) = (index * 5 % 17, index % 3);
        let mut stream = vec![0x20 | index as u8 & 3];
        for _ in 0..2 {
            let mut header = [0; 48];
            (header[0], header[1], header[4], header[7]) = (opcode, 0x80, ahs as u8, data as u8);
            stream.extend_from_slice(&header);
            stream.extend(vec![
                7;
                ahs * 4 + 4 * (index & 1) + data + (4 - data % 4) % 4 + 4 * (index >> 1 & 1)
            ]);
        }
        seeds.push(stream);
        let mut sent = vec![0x10 | index as u8 & 3];
        sent.extend(vec![opcode; 48 + 2 + data]);
        seeds.push(sent);
    }
    seeds
}

pub(crate) fn login() -> Vec<Vec<u8>> {
    let names = |target: &str| format!("InitiatorName=iqn.2026-11.com.example:node\0TargetName={target}\0");
    let step = |flags: u8, text: &str| [&[flags, 0][..], &part(text.as_bytes())].concat();
    let every_key = "HeaderDigest=CRC32C,None\0DataDigest=None\0MaxConnections=8\0InitialR2T=No\0\
        ImmediateData=Yes\0MaxRecvDataSegmentLength=0x40000\0MaxBurstLength=16776192\0FirstBurstLength=65536\0\
        DefaultTime2Wait=0\0DefaultTime2Retain=20\0MaxOutstandingR2T=4\0DataPDUInOrder=Yes\0\
        DataSequenceInOrder=No\0ErrorRecoveryLevel=2\0TaskReporting=RFC3720,FastAbort\0iSCSIProtocolLevel=2\0\
        IFMarker=Yes\0OFMarker=No\0X-org.example=1\0InitiatorAlias=a\0SendTargets=All\0";
    let mut seeds = vec![
        step(0x87, &(names(OPEN) + every_key)),
        step(0x87, "InitiatorName=iqn.2026-11.com.example:node\0SessionType=Discovery\0MaxBurstLength=512\0"),
        [step(0x81, &(names(OPEN) + "AuthMethod=None\0")), step(0x87, every_key)].concat(),
        [step(0x44, &names(OPEN)[..30]), step(0x87, &names(OPEN)[30..])].concat(),
        step(0x87, &names(MOVED)),
        [step(0x44, &names(MOVED)[..30]), step(0x87, &names(MOVED)[30..])].concat(),
    ];
    for text in [names(MOVED) + "DataDigest=CRC32C,None\0", names(OPEN) + "MaxConnections=4\0"] {
        seeds.push([&[0x87, JOINS][..], &part(text.as_bytes())].concat());
    }
    for algorithm in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha3_256] {
        let answer = format!("CHAP_N=node\0CHAP_R={}\0", right_response(algorithm));
        seeds.push(
            [
                step(0x81, &(names(GUARDED) + "AuthMethod=CHAP,None\0")),
                step(0x00, &format!("CHAP_A={}\0", algorithm as u8)),
                step(0x81, &(answer + "CHAP_I=9\0CHAP_C=0b3q2+7w==\0")),
                step(0x87, ""),
            ]
            .concat(),
        );
    }
    seeds
}

pub(crate) fn cdb() -> Vec<Vec<u8>> {
    // Told once of what changed before; then the command with one block, and as it comes.
    let ready = [&[0x00; 17][..], &[0, 0]].concat();
    let mut seeds = Vec::new();
    for command in command_table::all() {
        let mut cdb = [0; 16];
        cdb[0] = command.opcode;
        cdb[1] = command.service_action.unwrap_or(0);
        match cdb[0] >> 5 {
            0 => cdb[4] = 1,
            1 | 2 => cdb[8] = 1,
            4 => cdb[13] = 1,
            _ => cdb[9] = 1,
        }
        let one = |how: u8| [&[how][..], &cdb, &part(&[5; 16])].concat();
        seeds.push([ready.clone(), one(0x60), one(0x61), one(0x62), one(0x6f)].concat());
        let mut long = cdb;
        long[cdb.len().min(10) - 1..].fill(24);
        seeds.push([ready.clone(), [&[0xe0][..], &long, &part(&[0x11; 40])].concat(), one(0x60)].concat());
    }
    seeds
}

pub(crate) fn reserve_out() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for kind in [1, 3, 5, 6, 7, 8] {
        let mut steps = Vec::new();
        // Register two, reserve, look, read and write, and then each of the other orders.
        for who in [0x00, 0x10, 0x30] {
            steps.extend_from_slice(&[who, 0, 0, 0x04, 1]);
        }
        steps.extend_from_slice(&[0x00, 1, kind, 0x01, 0, 0x09, 3, 1, 0x09, 1, 1, 0x0e, 1, 0x1e, 1, 0x2e, 0]);
        for action in [2, 3, 4, 5, 6] {
            let mut more = steps.clone();
            more.extend_from_slice(&[0x10, action, kind, 0x05, 0, 0x09, 3, 1, 0x2e, 1]);
            seeds.push(more);
        }
        // REGISTER AND MOVE, and SPEC_I_PT.
        let mut moved = steps.clone();
        moved.extend_from_slice(&[0x00, 7, kind, 0x49, 0x04, 0x15, 0x09, 3, 1]);
        moved.extend_from_slice(&[0x20, 0, 0, 0x84, 0x0c, 0x0c, 0x01, 0x0b, 0x0c, 0x0d, 1, 0x30, 3, 0, 1, 0]);
        seeds.push(moved);
    }
    seeds
}

pub(crate) fn extended_copy() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for how in [0x00, 0x04, 0x10, 0x12, 0x20, 0x84] {
        // Two or three targets, and a few segments.
        let mut list = vec![0, 3, 3, how, 0, 0, 1, 2];
        for at in [0u8, 8, 40] {
            list.extend_from_slice(&[how, 8, at, at / 2 + 1]);
        }
        seeds.push(list);
    }
    let mut raw = vec![1, 5, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    raw.extend_from_slice(&[0xe4, 0, 0, 0, 1, 3, 0, 8]);
    raw.extend_from_slice(&[0; 24]);
    raw.extend_from_slice(&[2, 0, 0, 24]);
    raw.extend_from_slice(&[0; 24]);
    seeds.push(raw);
    seeds
}

pub(crate) fn superblock() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for image in IMAGES {
        let page = &image.head[4096..4096 + 768];
        seeds.push([&[0][..], page].concat());
        seeds.push([&[9][..], page].concat());
        let bitmap = &image.head[8192..8192 + 320];
        seeds.push([&[5][..], bitmap].concat());
    }
    let log: Vec<u8> =
        [2048u64 << 10 | 8, 4096 << 10 | 512, u64::MAX].into_iter().flat_map(u64::to_le_bytes).collect();
    seeds.push([&[6, 0][..], &log].concat());
    seeds.push([&[6, 3][..], &log].concat());
    seeds
}

fn some_document() -> ConfigDocument {
    let volume = |number: u128| VolumeRecord {
        uuid: Uuid::from_u128(number),
        name: format!("v{number}"),
        size_bytes: 4096,
        write_cache: number == 1,
        extents: vec![Extent { start: 8192 * number as u64, len: 8192 }],
        created: 1,
        physical_block_bytes: (number == 2).then_some(512),
        other: Default::default(),
    };
    ConfigDocument { volumes: vec![volume(1), volume(2)], san_generation: 7, ..ConfigDocument::default() }
}

pub(crate) fn area() -> Vec<Vec<u8>> {
    let (_, header) = member();
    let document = some_document().to_json().unwrap();
    let mut lost = LostBlocks::default();
    lost.insert(4096..8192);
    lost.insert(20_480..24_576);
    let stamp = |epoch: u64| Stamp { epoch, nonce: epoch * 77 };
    let epochs = vec![Epoch { stamp: stamp(1), first: 5 }, Epoch { stamp: stamp(2), first: 9 }];
    let head = JournalHead { generation: 4, tail: 6, ring_bytes: 1 << 20, epochs };
    let map = WrittenMap::new(ARRAY, 3, 1 << 20, 40_000 << 20, false);
    let mut seeds = vec![
        [&[0x08][..], &header.encode()[..700]].concat(),
        [&[0x48][..], &header.encode()[..700]].concat(),
        [&[0x09][..], &config::encode(ARRAY, 3, &document).unwrap()[..64 + document.len()]].concat(),
        [&[0x02][..], &document].concat(),
        [&[0x0b][..], &lost.encode(ARRAY).unwrap()[..96]].concat(),
        [&[0x0d][..], &head.encode(ARRAY)[..144]].concat(),
    ];
    seeds.push([&[0x04][..], &map.encode_page(0).unwrap(), &map.encode_page(1).unwrap()].concat());
    seeds
}

pub(crate) fn journal_record() -> Vec<Vec<u8>> {
    let items = [
        Item::Parity { stripe: 9, row: Row::P, column: 1024, length: 512, from: 3, to: 5 },
        Item::Parity { stripe: 9, row: Row::Q, column: 1024, length: 512, from: 3, to: 5 },
        Item::Parity { stripe: 5, row: Row::P, column: 0, length: 0, from: 8, to: 7 },
        Item::Data { stripe: 7, start: 512, length: 1536 },
        Item::Intent { stripe: 8, blocks: 3 },
        Item::Zeros { stripe: 1, count: 1 << 10 },
    ];
    let one = |items: &[Item]| {
        let payloads: Vec<Vec<u8>> = items.iter().map(|item| vec![3; item.payload_bytes()]).collect();
        let room = payloads.iter().map(|payload| payload.len().next_multiple_of(512)).sum();
        let mut record = vec![0; record_bytes(items.len(), room)];
        let all = items.iter().zip(&payloads).map(|(item, payload)| (*item, &payload[..]));
        encode(&mut record, ARRAY, 12, Stamp { epoch: 3, nonce: 0x5eed }, all);
        record
    };
    let mut seeds: Vec<Vec<u8>> = items.iter().map(|item| [&[1][..], &one(&[*item])].concat()).collect();
    seeds.push([&[1][..], &one(&items)].concat());
    seeds.push([&[0][..], &one(&items[..4])].concat());
    seeds
}

pub(crate) fn journal_ring() -> Vec<Vec<u8>> {
    // The head; then records of one to three items, with every kind of them.
    let mut seeds = Vec::new();
    for how in [0x02, 0x06, 0x12, 0x46] {
        let mut input = vec![how, 1];
        if how & 4 != 0 {
            input.push(2);
        }
        for (record, kind) in [0u8, 4, 6, 0, 7, 0x24, 0].into_iter().enumerate() {
            input.push(0x08 | 2 | (record as u8) << 4 & 0x30);
            input.extend_from_slice(&[kind, 1, 0, 2, 9]);
        }
        seeds.push(input.clone());
        input.extend_from_slice(&[0x0f, 0, 100]);
        input.extend_from_slice(&[0xee; 100]);
        input.extend_from_slice(&[0x80, 0, 110, 2, 0, 1, 0, 7]);
        seeds.push(input);
    }
    seeds
}

//! Thin units: their pages to the byte, who is told that space runs short, and when; and that others know nothing of it.

use super::*;

const MIB: u64 = 1 << 20;
const ALL_PAGES: [u8; 10] = [0x5a, 8, 0x3f, 0xff, 0, 0, 0, 4, 0, 0];
const PAGE: [u8; 10] = [0x5a, 8, 0x1c, 0x02, 0, 0, 0, 4, 0, 0];
const TEST_UNIT_READY: [u8; 6] = [0; 6];

impl Bench {
    /// A unit of 1000 MiB that warns at 20 %.
    fn thin() -> Self {
        let bench = Self::large(LuOptions { thin_warning_percent: 20, ..LuOptions::default() });
        bench.first().resources_measured(Some(MappingResources {
            available_bytes: 900 * MIB,
            used_bytes: 3 * MIB / 2,
            overcommitted: true,
        }));
        bench
    }

    /// Its blocks are never touched.
    fn large(options: LuOptions) -> Self {
        Self::over(MemoryDevice::new("memory", 1000 * MIB as usize), options)
    }

    fn first(&self) -> Arc<LogicalUnit> {
        self.luns.units().into_iter().next().unwrap().1
    }

    fn measured(&self, available_bytes: u64, used_bytes: u64, overcommitted: bool) {
        self.first().resources_measured(Some(MappingResources {
            available_bytes,
            used_bytes,
            overcommitted,
        }));
    }

    fn attention(&self, from: &str) -> Option<(u8, u8, u8)> {
        let response = self.send(from, 0, &TEST_UNIT_READY, &[]);
        (response.status != Status::Good).then(|| codes(&response))
    }

    fn page(&self, control: u8) -> Vec<u8> {
        let mut cdb = PAGE;
        cdb[2] |= control << 6;
        self.data(&cdb)[8..].to_vec()
    }

    /// MODE SELECT(10) of the page.
    fn select(&self, from: &str, page: &[u8]) -> ScsiResponse {
        let list = [&[0; 8], page].concat();
        self.send(from, 0, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], &list)
    }
}

/// 6/38/07.
const TOLD: Option<(u8, u8, u8)> = Some((6, 0x38, 0x07));

/// The mode page: SITUA, and of both thresholds whether it is enabled, and its count.
fn page_of(single: bool, available: (bool, u32), used: (bool, u32)) -> Vec<u8> {
    let mut page = vec![0x5c, 0x02, 0, 28, u8::from(single), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    page.extend_from_slice(&[u8::from(available.0) << 7, 1, 0, 0]);
    page.extend_from_slice(&available.1.to_be_bytes());
    page.extend_from_slice(&[u8::from(used.0) << 7 | 1, 2, 0, 0]);
    page.extend_from_slice(&used.1.to_be_bytes());
    page
}

#[test]
fn a_thin_unit_says_what_can_still_be_mapped() {
    let bench = Bench::thin();
    while bench.attention("a").is_some() {}
    assert_eq!(bench.data(&[0x12, 1, 0xb2, 0, 255, 0])[..], [0, 0xb2, 0, 4, 11, 0xe4, 2, 0]);
    let log = |page: u8, first: u8, length: u8| [0x4d, 0, page, 0, 0, 0, first, 0, length, 0];
    assert_eq!(bench.data(&log(0x40, 0, 255))[..], [0, 0, 0, 2, 0, 0x0c]);
    let header = |length| [0x8c, 0, 0, length];
    let available = [0, 1, 0x23, 8, 0, 0, 0x03, 0x84, 2, 0, 0, 0];
    let used = [0, 2, 0x23, 8, 0, 0, 0, 2, 1, 0, 0, 0];
    let whole = [&header(24)[..], &available, &used].concat();
    for control in 0..4 {
        assert_eq!(bench.data(&log(control << 6 | 0x0c, 0, 255))[..], whole[..], "PC says nothing of lists");
    }
    assert_eq!(bench.data(&log(0x4c, 1, 255))[..], whole[..]);
    assert_eq!(bench.data(&log(0x4c, 2, 255))[..], [&header(12)[..], &used].concat()[..]);
    assert_eq!(bench.data(&log(0x4c, 0, 9))[..], whole[..9], "cut at the allocation length");
    let refused: [&[u8]; 5] = [
        &log(0x4c, 3, 255),
        &log(0x40, 1, 255),
        &log(0x4d, 0, 255),
        &[0x4d, 0, 0x4c, 1, 0, 0, 0, 0, 255, 0],
        &[0x4d, 1, 0x4c, 0, 0, 0, 0, 0, 255, 0],
    ];
    for cdb in refused {
        assert_eq!(bench.codes(cdb, &[]), (5, 0x24, 0), "{cdb:02x?}");
    }
    bench.measured(u64::MAX, 0, false);
    assert_eq!(bench.data(&log(0x4c, 1, 255))[8..12], [0xff; 4], "more than can be counted");
}

#[test]
fn the_page_of_thresholds_is_told_in_its_place() {
    let bench = Bench::thin();
    while bench.attention("a").is_some() {}
    let default = page_of(false, (true, 200), (false, 0));
    assert_eq!((bench.page(0), bench.page(2)), (default.clone(), default.clone()));
    let mut changeable = page_of(true, (true, u32::MAX), (true, u32::MAX));
    (changeable[17], changeable[24], changeable[25]) = (0, 0x80, 0);
    assert_eq!(bench.page(1), changeable);
    assert_eq!(bench.codes(&[0x5a, 8, 0xdc, 0x02, 0, 0, 0, 4, 0, 0], &[]), (5, 0x39, 0), "nothing is saved");
    let short = |subpage: u8| bench.data(&[0x1a, 8, 0x3f, subpage, 255, 0])[4..].to_vec();
    let numbers = |pages: &[u8]| -> Vec<(u8, u8)> {
        let (mut at, mut found) = (0, Vec::new());
        while at < pages.len() {
            let sub = pages[at] & 0x40 != 0;
            found.push((pages[at] & 0x3f, if sub { pages[at + 1] } else { 0 }));
            at += if sub { 4 + usize::from(pages[at + 3]) } else { 2 + usize::from(pages[at + 1]) };
        }
        found
    };
    let plain = vec![(0x01, 0), (0x08, 0), (0x0a, 0), (0x1c, 0)];
    assert_eq!(numbers(&short(0)), plain);
    let all = [plain, vec![(0x1c, 2)]].concat();
    assert_eq!((numbers(&short(0xff)), numbers(&bench.data(&ALL_PAGES)[8..])), (all.clone(), all));
    assert_eq!(numbers(&bench.data(&[0x1a, 8, 0x1c, 0xff, 255, 0])[4..]), [(0x1c, 0), (0x1c, 2)]);
    assert_eq!(numbers(&bench.data(&[0x1a, 8, 0x1c, 0, 255, 0])[4..]), [(0x1c, 0)]);
    for (page, subpage) in [(0x1c, 1), (0x1c, 3), (0x3f, 1), (0x3f, 2), (0x0a, 2), (0x02, 0)] {
        assert_eq!(bench.codes(&[0x1a, 8, page, subpage, 255, 0], &[]), (5, 0x24, 0), "{page:x}/{subpage:x}");
    }
}

#[test]
fn only_what_can_be_changed_of_thresholds_is_and_the_default_comes_back() {
    let bench = Bench::thin();
    while bench.attention("a").is_some() {}
    while bench.attention("b").is_some() {}
    let default = page_of(false, (true, 200), (false, 0));
    let wrong: [fn(&mut Vec<u8>); 9] = [
        |page| page[4] = 2,
        |page| page[5] = 1,
        |page| page[16] |= 0x08,
        |page| page[16] |= 0x01,
        |page| page[17] = 2,
        |page| page[24] &= !1,
        |page| page[18] = 1,
        |page| page[1] = 3,
        |page| page[0] = 0x1c,
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        let mut page = default.clone();
        wrong(&mut page);
        assert_eq!(codes(&bench.select("a", &page)), (5, 0x26, 0), "{number}");
    }
    // A list that ends within its page, and one of a page that is shorter than it is.
    assert_eq!(codes(&bench.select("a", &default[..31])), (5, 0x1a, 0));
    assert_eq!(codes(&bench.select("a", &default[..3])), (5, 0x1a, 0));
    let mut shorter = default[..24].to_vec();
    shorter[3] = 20;
    assert_eq!(codes(&bench.select("a", &shorter)), (5, 0x26, 0));
    assert_eq!(bench.page(0), default, "nothing has changed");
    assert_eq!(bench.select("a", &default).status, Status::Good);
    assert_eq!(bench.attention("b"), None, "nor has it by setting what is set");
    let other = page_of(true, (false, 7), (true, 900));
    assert_eq!(bench.select("a", &other).status, Status::Good);
    assert_eq!(bench.attention("b"), Some((6, 0x2a, 1)));
    assert_eq!((bench.page(0), bench.page(2)), (other.clone(), default.clone()));
    assert_eq!(bench.send("a", 0, &[0x15, 0x11, 0, 0, 0, 0], &[]).sense[12], 0x24, "SP");
    // The other pages know nothing of it, nor it of them.
    let mut control = bench.data(&[0x1a, 8, 0x0a, 0, 255, 0]).to_vec();
    (control[0], control[4 + 4]) = (0, 8);
    let select = [0x15, 0x10, 0, 0, control.len() as u8, 0];
    assert_eq!(bench.send("a", 0, &select, &control).status, Status::Good);
    assert_eq!(bench.page(0), other);
    bench.first().reset();
    while bench.attention("a").is_some() {}
    assert_eq!(bench.page(0), default);
}

#[test]
fn everybody_is_told_once_that_space_runs_short() {
    let bench = Bench::thin();
    for node in ["a", "b"] {
        while bench.attention(node).is_some() {}
    }
    bench.measured(200 * MIB + 1, 0, true);
    assert_eq!(bench.attention("a"), None, "not yet");
    bench.measured(200 * MIB, 0, true);
    let told = bench.send("a", 0, &TEST_UNIT_READY, &[]);
    assert_eq!(codes(&told), (6, 0x38, 0x07));
    assert_eq!(
        (told.sense[0], &told.sense[3..7]),
        (0xf0, &[0, 0, 0, 16][..]),
        "which descriptor it is about"
    );
    assert_eq!((bench.attention("a"), bench.attention("b"), bench.attention("b")), (None, TOLD, None));
    bench.measured(100 * MIB, 0, true);
    bench.measured(200 * MIB, 0, true);
    assert_eq!((bench.attention("a"), bench.attention("b")), (None, None), "it is known");
    bench.measured(300 * MIB, 0, true);
    bench.measured(100 * MIB, 0, true);
    assert_eq!((bench.attention("a"), bench.attention("b")), (TOLD, TOLD));
    // A reset that changes nothing arms nothing.
    bench.first().reset();
    while bench.attention("a").is_some() {}
    bench.measured(90 * MIB, 0, true);
    assert_eq!(bench.attention("a"), None);
    // There is enough for all that may be asked for.
    bench.measured(90 * MIB, 0, false);
    assert_eq!(bench.attention("a"), None);
}

#[test]
fn one_is_told_where_one_is_to_be() {
    let bench = Bench::thin();
    bench.luns.nexus_met(&nexus("c"));
    for node in ["a", "b", "c"] {
        while bench.attention(node).is_some() {}
    }
    assert_eq!(bench.select("b", &page_of(true, (true, 500), (true, 10))).status, Status::Good);
    while bench.attention("a").is_some() {}
    while bench.attention("c").is_some() {}
    bench.measured(400 * MIB, 0, false);
    assert_eq!((bench.attention("a"), bench.attention("c")), (None, None));
    assert_eq!((bench.attention("b"), bench.attention("b")), (TOLD, None), "who has set it");
    bench.measured(400 * MIB, 10 * MIB, false);
    let told = bench.send("b", 0, &TEST_UNIT_READY, &[]);
    assert_eq!((codes(&told), told.sense[6]), ((6, 0x38, 0x07), 24));
    bench.luns.nexus_lost(&nexus("b"));
    bench.measured(900 * MIB, 0, false);
    bench.measured(1, 0, false);
    assert_eq!((bench.attention("a"), bench.attention("c")), (TOLD, None), "else the first");
}

#[test]
fn a_threshold_that_is_set_below_its_mark_is_told_at_once() {
    let bench = Bench::thin();
    for node in ["a", "b"] {
        while bench.attention(node).is_some() {}
    }
    assert_eq!(bench.select("a", &page_of(false, (true, 950), (false, 0))).status, Status::Good);
    assert_eq!(bench.attention("a"), TOLD);
    assert_eq!((bench.attention("b"), bench.attention("b")), (Some((6, 0x2a, 1)), TOLD));
    // A reset brings the default back, which is another threshold.
    bench.measured(150 * MIB, 0, true);
    bench.first().reset();
    assert_eq!((bench.attention("a"), bench.attention("a")), (Some((6, 0x29, 0x03)), None));
    bench.measured(150 * MIB, 0, true);
    assert_eq!((bench.attention("a"), bench.attention("a")), (TOLD, None));
    assert_eq!(bench.select("a", &page_of(false, (false, 950), (false, 0))).status, Status::Good);
    bench.measured(1, 0, true);
    assert_eq!(bench.attention("a"), None, "it is not enabled any more");
}

#[test]
fn a_unit_with_all_its_space_knows_nothing_of_it() {
    let bench = Bench::large(LuOptions { thin_warning_percent: 20, ..LuOptions::default() });
    let knows_nothing = || {
        assert_eq!(bench.data(&[0x12, 1, 0xb2, 0, 255, 0])[4], 0, "THRESHOLD EXPONENT");
        assert_eq!(bench.data(&[0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255, 0])[..], [0, 0, 0, 1, 0]);
        assert_eq!(bench.codes(&[0x4d, 0, 0x4c, 0, 0, 0, 0, 0, 255, 0], &[]), (5, 0x24, 0));
        assert_eq!(bench.codes(&PAGE, &[]), (5, 0x24, 0));
        assert_eq!(bench.data(&ALL_PAGES), bench.data(&[0x5a, 8, 0x3f, 0, 0, 0, 0, 4, 0, 0]));
        assert_eq!(codes(&bench.select("a", &page_of(false, (true, 1), (false, 0)))), (5, 0x26, 0));
    };
    knows_nothing();
    bench.first().resources_measured(None);
    assert_eq!(bench.attention("a"), None);
    // Pages come and go with the space, and it is told: INQUIRY DATA HAS CHANGED.
    bench.measured(900 * MIB, 0, true);
    assert_eq!((bench.attention("a"), bench.attention("a")), (Some((6, 0x3f, 0x03)), None));
    bench.first().resources_measured(None);
    assert_eq!(bench.attention("a"), Some((6, 0x3f, 0x03)));
    knows_nothing();
}

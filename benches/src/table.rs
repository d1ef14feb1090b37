//! How are the figures shown? One line per workload, both targets beside each other, and what they come to.

use crate::clients::{Direction, Workload};
use serde_json::{Value, json};
use std::fmt::Write;

/// One target's figures for one workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
}

/// One workload, measured on every target.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) cells: Vec<(&'static str, Cell)>,
}

/// What labsan aims at, beside an unprotected tgt.
const GOALS: [(&str, f64, Option<f64>); 2] =
    [("4 KiB random read, depth 32", 1.5, Some(0.7)), ("768 KiB full-stripe write, depth 8", 1.0, None)];
/// Whose figure is put over whose.
const PAIRS: [(&str, &str); 2] = [("labsan", "tgt"), ("journal", "bitmap")];

/// The cell with the middle rate.
pub(crate) fn middle(mut cells: Vec<Cell>) -> Cell {
    cells.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    cells[cells.len() / 2]
}

impl Row {
    fn cell(&self, name: &str) -> Option<Cell> {
        self.cells.iter().find(|(n, _)| *n == name).map(|(_, cell)| *cell)
    }

    /// One's rate and CPU time per I/O as multiples of the other's.
    fn ratios(&self) -> Option<(f64, f64)> {
        let (ours, theirs) =
            PAIRS.iter().find_map(|(ours, theirs)| Some((self.cell(ours)?, self.cell(theirs)?)))?;
        Some((ours.per_second / theirs.per_second, ours.cpu_us / theirs.cpu_us))
    }
}

pub(crate) fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    let names: Vec<&str> =
        rows.first().map(|r| r.cells.iter().map(|(n, _)| *n).collect()).unwrap_or_default();
    let mut head = format!("{:<36}", "");
    for name in &names {
        let _ = write!(head, "{name:>12} I/O/s {:>9} {:>9}", "MiB/s", "CPU us");
    }
    let _ = writeln!(text, "{head}{:>9} {:>9}", "rate x", "CPU x");
    for row in rows {
        let _ = write!(text, "{:<36}", row.workload.name);
        for (_, cell) in &row.cells {
            let mib = cell.per_second * row.workload.bytes as f64 / f64::from(1 << 20);
            let _ = write!(text, "{:>18.0} {mib:>9.0} {:>9.1}", cell.per_second, cell.cpu_us);
        }
        if let Some((rate, cpu)) = row.ratios() {
            let _ = write!(text, "{rate:>9.2} {cpu:>9.2}");
        }
        text.push('\n');
    }
    text.push_str(if compares_policies(rows) {
        "\nRAID 5 over five files (4+1) with each policy. x: the journal's figure over the bitmap's.\n"
    } else {
        "\nlabsan: RAID 5 over four files, as `labsand demo` makes it. tgt: one plain file, --bstype aio. \
         x: labsan's figure over tgt's.\n"
    });
    text.push_str("CPU us: the target's user and system time per I/O, all threads.\n");
    let goals = if compares_policies(rows) { Vec::new() } else { goals(rows) };
    for line in goals {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn compares_policies(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.cell("journal").is_some())
}

fn goals(rows: &[Row]) -> Vec<String> {
    let line = |&(name, rate_goal, cpu_goal): &(&str, f64, Option<f64>)| {
        let (rate, cpu) = rows.iter().find(|r| r.workload.name == name)?.ratios()?;
        let met = rate >= rate_goal && cpu_goal.is_none_or(|goal| cpu <= goal);
        let cpu_words = cpu_goal.map(|goal| format!(", CPU {cpu:.2} of at most {goal}")).unwrap_or_default();
        let verdict = if met { "met" } else { "not met" };
        Some(format!("goal {verdict}: {name}: rate {rate:.2} of at least {rate_goal}{cpu_words}"))
    };
    GOALS.iter().filter_map(line).collect()
}

pub(crate) fn document(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let cell = |(name, c): &(&'static str, Cell)| {
            (name.to_string(), json!({ "per_second": c.per_second, "cpu_us_per_io": c.cpu_us }))
        };
        json!({
            "workload": row.workload.name,
            "write": row.workload.direction == Direction::Write,
            "bytes": row.workload.bytes,
            "depth": row.workload.depth,
            "targets": row.cells.iter().map(cell).collect::<serde_json::Map<_, _>>(),
            "rate_ratio": row.ratios().map(|(rate, _)| rate),
            "cpu_ratio": row.ratios().map(|(_, cpu)| cpu),
        })
    };
    json!({ "schema": 1, "rows": rows.iter().map(row).collect::<Vec<_>>(), "goals": goals(rows) })
}

//! Writes the inputs that a fuzz target begins with: `seeds TARGET DIRECTORY`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, directory] = &arguments[..] else {
        eprintln!("usage: seeds TARGET DIRECTORY");
        return ExitCode::from(64);
    };
    let Some(target) = fuzzing::TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("seeds: there is no fuzz target {name}");
        return ExitCode::from(64);
    };
    for (number, seed) in (target.seeds)().iter().enumerate() {
        if let Err(error) = std::fs::write(Path::new(directory).join(format!("seed-{number:03}")), seed) {
            eprintln!("seeds: {directory}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

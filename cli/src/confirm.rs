//! May we? Asks on a terminal; without one only `--yes` will do. Never waits for an answer nobody can give.

use std::io::{IsTerminal, Write};

use crate::args::Confirm;
use crate::error::CliError;

/// Ask `question` (a sentence without its question mark) unless the answer was given with `--yes`.
pub(crate) fn confirm(answer: Confirm, question: &str) -> Result<(), CliError> {
    if answer.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CliError::NeedsYes { question: question.to_owned() });
    }
    eprint!("{question}. Go on? [y/N] ");
    let mut line = String::new();
    let asked = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut line));
    match asked.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        true => Ok(()),
        false => Err(CliError::Declined),
    }
}

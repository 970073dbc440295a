//! The lines of `up`: redrawn on a terminal, printed once each when done elsewhere. Fits the terminal's width.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use mainstay_api::Progress;
use mainstay_types::State;

use crate::screen;

/// Width of the first column; longer names push their own line only.
const WHAT: usize = 10;
/// Room for `12 min 34 s` after the text.
const TOOK: usize = 12;
/// Wider lines are hard to read, and a file has no width.
const WIDEST: usize = 112;
/// Below this nothing is legible; the terminal may wrap then.
const NARROWEST: usize = 40;

/// Columns that lines may use here.
pub(crate) fn columns() -> usize {
    if !std::io::stdout().is_terminal() {
        return WIDEST;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    // Some terminals do not know their size.
    if columns == 0 { 80 } else { columns.clamp(NARROWEST, WIDEST) }
}

/// Breaks a text at spaces; a longer word has a line of its own.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Cuts a text that is only a step on the way: it must not wrap, for it will be drawn over.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Prints a line of the table `up` prints: a name, and what there is to say of it.
pub(crate) fn say(what: &str, text: &str) {
    let indent = " ".repeat(WHAT + 3);
    println!("  {what:<WHAT$} {}", wrap(text, columns() - WHAT - 3).join(&format!("\n{indent}")));
}

/// The lines of `up`.
pub(crate) struct Board {
    on_terminal: bool,
    /// Nothing is shown: stdout is for JSON.
    is_silent: bool,
    printed: Vec<String>,
    frame: String,
    began: Instant,
}

impl Board {
    pub(crate) fn new(is_silent: bool) -> Self {
        let on_terminal = std::io::stdout().is_terminal();
        Self { on_terminal, is_silent, printed: Vec::new(), frame: String::new(), began: Instant::now() }
    }

    /// Shows how far it is.
    pub(crate) fn show(&mut self, progress: &[Progress]) {
        if self.is_silent {
            return;
        }
        // The console's line is printed at the end, with its link.
        let lines = progress.iter().filter(|line| line.what != "console");
        if self.on_terminal {
            let width = columns();
            self.redraw(lines.map(|line| self.text(line, width)).collect());
            return;
        }
        for line in lines {
            let is_done = matches!(line.state, State::Ready | State::NotConfigured);
            if is_done && !self.printed.contains(&line.what) {
                print!("{}", self.text(line, WIDEST));
                self.printed.push(line.what.clone());
            }
        }
    }

    /// What is drawn stays.
    pub(crate) fn finish(&mut self) {
        self.frame.clear();
    }

    fn redraw(&mut self, frame: String) {
        if frame == self.frame {
            return;
        }
        let drawn = self.frame.lines().count();
        let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
        print!("{up}{frame}");
        std::io::stdout().flush().ok();
        self.frame = frame;
    }

    /// A line with its end; more than one when its text does not fit.
    fn text(&self, line: &Progress, width: usize) -> String {
        let what = &line.what;
        let room = width.saturating_sub(WHAT.max(what.len()) + 3);
        match line.state {
            State::Ready | State::NotConfigured => {
                let room = room.saturating_sub(TOOK).max(1);
                let took = line.took_ms.map_or(String::new(), screen::took);
                let mut text = String::new();
                for (number, part) in wrap(&line.text, room).iter().enumerate() {
                    let (what, took) = if number == 0 { (what.as_str(), took.as_str()) } else { ("", "") };
                    let padded = format!("{part:<room$}");
                    let padded = if line.state == State::Ready { padded } else { screen::yellow(&padded) };
                    let end = format!(
                        "  {what:<WHAT$} {padded} {}",
                        screen::dim(&format!("{took:>width$}", width = TOOK - 1))
                    );
                    text.push_str(end.trim_end());
                    text.push('\n');
                }
                text
            }
            State::Failed | State::CrashLoop => format!("  {what:<WHAT$} {}\n", screen::red(&cut(&line.text, room))),
            State::Waiting => format!("  {what:<WHAT$} {}\n", screen::dim("waiting")),
            State::Starting
            | State::Degraded
            | State::Draining
            | State::BackingOff
            | State::Stopped
            | State::Unknown => {
                let turn = usize::try_from(self.began.elapsed().as_millis() / 120 % 4).unwrap_or(0);
                let spinner = screen::yellow(["|", "/", "-", "\\"][turn]);
                format!("  {what:<WHAT$} {spinner} {}\n", cut(&line.text, room.saturating_sub(2)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, state: State) -> Progress {
        Progress { what: "database".to_owned(), text: text.to_owned(), took_ms: Some(1900), state, lost: None }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let text = "primary streaming to standby, synchronous; router 127.0.0.1:6432 (write) :6433 (read)";
        let board = Board {
            on_terminal: true,
            is_silent: false,
            printed: Vec::new(),
            frame: String::new(),
            began: Instant::now(),
        };
        for width in [40, 80, 112] {
            for state in [State::Ready, State::Starting, State::Failed, State::Waiting, State::NotConfigured] {
                let shown = board.text(&line(text, state), width);
                assert!(shown.lines().all(|line| line.chars().count() <= width), "{width} {state}:\n{shown}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_goes_on_below_and_the_time_stays_above() {
        let board = Board {
            on_terminal: true,
            is_silent: false,
            printed: Vec::new(),
            frame: String::new(),
            began: Instant::now(),
        };
        let shown = board.text(&line("one two three four five six seven eight", State::Ready), 48);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 2, "{shown}");
        assert!(lines[0].ends_with("1.9 s") && lines[1].starts_with("             "), "{shown}");
    }

    #[test]
    fn a_word_that_is_too_long_is_not_lost() {
        assert_eq!(wrap("see http://a.very.long.name/ there", 10), ["see", "http://a.very.long.name/", "there"]);
    }
}

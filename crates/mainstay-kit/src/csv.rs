//! Comma-separated values after RFC 4180, bounded, and safe to open in a spreadsheet.
//!
//! A cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return would be taken for a
//! formula (CWE-1236): [`write`] puts an apostrophe before it, and [`read`] takes that apostrophe away.

/// Cells of one record, and the line of the text on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// **Unit**: lines, the first is 1.
    pub line: usize,
    /// In order.
    pub cells: Vec<String>,
}

/// Why a text is not CSV.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A quotation mark inside a cell that does not begin with one.
    #[error("line {0}: a quotation mark inside a cell without quotation marks")]
    BareQuote(usize),
    /// Text between a closing quotation mark and the next comma.
    #[error("line {0}: text after a closing quotation mark")]
    AfterQuote(usize),
    /// The text ends inside quotation marks.
    #[error("the cell that begins in line {0} is never closed")]
    Unclosed(usize),
    /// More than the caller allows.
    #[error("more than {0} lines")]
    TooMany(usize),
}

/// Records of a text; empty lines are left out, a byte order mark is skipped.
///
/// **Errors**: [`Malformed`]; at most `max` records are read.
pub fn read(text: &str, max: usize) -> Result<Vec<Record>, Malformed> {
    let mut reader = Reader { records: Vec::new(), cells: Vec::new(), cell: String::new(), line: 1, begin: 1 };
    let mut state = State::Start;
    let mut chars = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    while let Some(c) = chars.next() {
        // CRLF and a lone CR end a line like LF.
        let c = match c {
            '\r' if state != State::Quoted => {
                chars.next_if_eq(&'\n');
                '\n'
            }
            other => other,
        };
        state = match (state, c) {
            (State::Start, '"') => State::Quoted,
            (State::Plain | State::Closed | State::Start, ',') => {
                reader.end_cell();
                State::Start
            }
            (State::Plain | State::Closed | State::Start, '\n') => {
                reader.end_record(max)?;
                State::Start
            }
            (State::Plain, '"') => return Err(Malformed::BareQuote(reader.line)),
            (State::Start | State::Plain, other) => {
                reader.cell.push(other);
                State::Plain
            }
            (State::Quoted, '"') => match chars.next_if_eq(&'"') {
                Some(_) => {
                    reader.cell.push('"');
                    State::Quoted
                }
                None => State::Closed,
            },
            (State::Quoted, other) => {
                reader.line += usize::from(other == '\n');
                reader.cell.push(other);
                State::Quoted
            }
            (State::Closed, _) => return Err(Malformed::AfterQuote(reader.line)),
        };
    }
    if state == State::Quoted {
        return Err(Malformed::Unclosed(reader.begin));
    }
    reader.end_record(max)?;
    Ok(reader.records)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Plain,
    Quoted,
    Closed,
}

struct Reader {
    records: Vec<Record>,
    cells: Vec<String>,
    cell: String,
    line: usize,
    begin: usize,
}

impl Reader {
    fn end_cell(&mut self) {
        let cell = std::mem::take(&mut self.cell);
        let is_guarded = cell.strip_prefix('\'').is_some_and(is_formula);
        self.cells.push(if is_guarded { cell[1..].to_owned() } else { cell });
    }

    fn end_record(&mut self, max: usize) -> Result<(), Malformed> {
        self.end_cell();
        let cells = std::mem::take(&mut self.cells);
        if cells.iter().any(|cell| !cell.is_empty()) {
            if self.records.len() >= max {
                return Err(Malformed::TooMany(max));
            }
            self.records.push(Record { line: self.begin, cells });
        }
        self.line += 1;
        self.begin = self.line;
        Ok(())
    }
}

/// Appends one record with its line end.
pub fn write<'a>(out: &mut String, cells: impl IntoIterator<Item = &'a str>) {
    for (index, cell) in cells.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let guard = if is_formula(cell) { "'" } else { "" };
        if cell.contains(['"', ',', '\n', '\r']) {
            out.push('"');
            out.push_str(guard);
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(guard);
            out.push_str(cell);
        }
    }
    out.push_str("\r\n");
}

fn is_formula(cell: &str) -> bool {
    cell.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(text: &str) -> Vec<Vec<String>> {
        read(text, 100).unwrap().into_iter().map(|record| record.cells).collect()
    }

    #[test]
    fn reads_the_forms_of_rfc_4180() {
        assert_eq!(cells("a,b\r\nc,d\r\n"), [["a", "b"], ["c", "d"]]);
        assert_eq!(cells("a,b\nc,d"), [["a", "b"], ["c", "d"]], "the last line end may be missing");
        assert_eq!(cells("\"a,1\",\"say \"\"hi\"\"\"\n"), [["a,1", "say \"hi\""]]);
        assert_eq!(cells("\"two\nlines\",x"), [["two\nlines", "x"]]);
        assert_eq!(cells("\u{feff}a,\n\n,b"), [["a", ""], ["", "b"]]);
        assert!(cells("").is_empty());
    }

    #[test]
    fn says_on_which_line_of_the_text_a_record_begins() {
        let lines: Vec<usize> = read("a\n\n\"x\ny\"\nb", 100).unwrap().iter().map(|r| r.line).collect();
        assert_eq!(lines, [1, 3, 5]);
    }

    #[test]
    fn refuses_what_is_not_csv_and_what_is_too_long() {
        assert_eq!(read("a\"b", 9), Err(Malformed::BareQuote(1)));
        assert_eq!(read("x\n\"a\"b", 9), Err(Malformed::AfterQuote(2)));
        assert_eq!(read("x\n\"a", 9), Err(Malformed::Unclosed(2)));
        assert_eq!(read("1\n2\n3", 2), Err(Malformed::TooMany(2)));
    }

    #[test]
    fn what_would_be_a_formula_is_text_and_comes_back_as_it_was() {
        for cell in ["=1+1", "+1", "-ada", "@SUM(A1)", "\tx", "=a,\"b\"", "it's", "'quoted"] {
            let mut out = String::new();
            write(&mut out, [cell, "x"]);
            let first = out.trim_start_matches('"').chars().next();
            assert!(!first.is_some_and(|c| "=+-@\t\r".contains(c)), "{out}");
            assert_eq!(cells(&out), [[cell, "x"]]);
        }
    }
}

//! The terminal: colour only there, tables that need none.

use std::io::IsTerminal;

fn colour(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub(crate) fn red(text: &str) -> String {
    colour("31", text)
}

pub(crate) fn green(text: &str) -> String {
    colour("32", text)
}

pub(crate) fn yellow(text: &str) -> String {
    colour("33", text)
}

pub(crate) fn dim(text: &str) -> String {
    colour("2", text)
}

pub(crate) fn bold(text: &str) -> String {
    colour("1", text)
}

/// A text with what it may quote of files and answers of others: what could act on a terminal is shown as `\u{1b}`.
pub(crate) fn tame(text: &str) -> String {
    let acts = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    let shown = |letter: char| if acts(letter) { letter.escape_unicode().to_string() } else { letter.to_string() };
    text.chars().map(shown).collect()
}

/// A text in lines of at most 80 columns, as far as its words allow.
pub(crate) fn wrap(text: &str, first: &str, next: &str) -> String {
    let mut lines = vec![first.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("begun with one");
        let is_begun = line.as_str() != first && line.as_str() != next;
        let width = line.chars().count() + usize::from(is_begun) + word.chars().count();
        if is_begun && width > 80 {
            lines.push(format!("{next}{word}"));
        } else {
            if is_begun {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// A state in its colour, padded before it is coloured.
pub(crate) fn state(state: mainstay_types::State, width: usize) -> String {
    use mainstay_types::State;
    let text = format!("{:<width$}", state.to_string());
    match state {
        State::Ready => green(&text),
        State::Waiting | State::Stopped | State::NotConfigured => dim(&text),
        State::Starting | State::Degraded | State::Draining | State::BackingOff => yellow(&text),
        State::CrashLoop | State::Failed | State::Unknown => red(&text),
    }
}

/// Milliseconds as people read them: `84 ms`, `3.4 s`, `2 min 5 s`.
pub(crate) fn took(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        // Rounded: cut off, what was measured would look better than it was.
        1000..59_950 => {
            let tenths = (millis + 50) / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        59_950..60_000 => took(60_000),
        _ => format!("{} min {} s", millis / 60_000, millis % 60_000 / 1000),
    }
}

/// A duration since a moment: `12 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn age(duration: std::time::Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Now, for ages on the screen.
pub(crate) fn now() -> mainstay_types::Timestamp {
    let micros = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_micros());
    mainstay_types::Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

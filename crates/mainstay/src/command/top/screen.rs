//! The terminal while `top` has it: a screen of its own, keys as they are pressed. Given back on every way out.

use std::io::{IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios};
use tokio::sync::mpsc;

use super::{Picture, table};

/// The terminal's second screen, without a cursor.
pub(super) struct Screen {
    /// How the keyboard was before; `None` when there is none.
    before: Option<Termios>,
    keys: mpsc::Receiver<u8>,
}

impl Screen {
    pub(super) fn open() -> Self {
        let stdin = std::io::stdin();
        let before = stdin.is_terminal().then(|| rustix::termios::tcgetattr(&stdin).ok()).flatten();
        let (sender, keys) = mpsc::channel(16);
        if let Some(before) = &before {
            let mut keyboard = before.clone();
            // Ctrl-C stays a signal.
            keyboard.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &keyboard).ok();
            // Ends with the process: nothing else can end a read of a keyboard.
            std::thread::spawn(move || {
                let mut key = [0];
                while std::io::stdin().lock().read(&mut key).is_ok_and(|count| count == 1) {
                    if sender.blocking_send(key[0]).is_err() {
                        return;
                    }
                }
            });
        }
        write("\x1b[?1049h\x1b[?25l\x1b[2J");
        Self { before, keys }
    }

    /// The next key; never, without a keyboard.
    pub(super) async fn key(&mut self) -> Option<u8> {
        match self.keys.recv().await {
            Some(key) => Some(key),
            None => std::future::pending().await,
        }
    }

    pub(super) fn draw(&self, heading: &str, picture: &Picture) {
        let size = rustix::termios::tcgetwinsize(std::io::stdout());
        let rows = size.map_or(24, |size| usize::from(size.ws_row)).max(4);
        let lines = table::lines(heading, picture, crate::board::columns(), Some(rows));
        // Each line is cleared to its end, the rest of the screen below: nothing flickers.
        write(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write("\x1b[?25h\x1b[?1049l");
        if let Some(before) = &self.before {
            rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before).ok();
        }
    }
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    // A terminal that is gone ends the command by its signal.
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

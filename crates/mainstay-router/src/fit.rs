//! Settings of a session on a server that another one used before: found out, and made the same.
//!
//! What a server reports by itself (ParameterStatus) is known at any time; of the rest it is asked after a SET.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use crate::glance::{CARRIED, Ties};
use crate::link::{AttemptError, Greeting, Link, Parameters, Refused, quoted, set_config};
use crate::message;
use crate::statements::{Statement, close};

/// Settings that a server does not report, with the text that `set_config` takes.
pub(crate) type Settings = BTreeMap<String, String>;

/// What was set in this session. Those that a server reports come back too.
const READ_BACK: &str = "select name, setting from pg_catalog.pg_settings where source = 'session'";

/// What a session wants its server to be like.
#[derive(Clone, Debug)]
pub(crate) struct Suit {
    /// As the client knows them, and as its last server had them at first; `None`: it has had none.
    pub(crate) known: Option<(Arc<Parameters>, Arc<Parameters>)>,
    /// Of those that a server reports, what differs from the server's own.
    pub(crate) reported: Settings,
    /// Of those that it does not report.
    pub(crate) unreported: Settings,
}

impl Suit {
    /// The server is like that already.
    pub(crate) fn fits(&self, link: &Link) -> bool {
        let is_same = |(known, initial): &(Arc<Parameters>, Arc<Parameters>)| {
            Arc::ptr_eq(known, &link.side.parameters) && Arc::ptr_eq(initial, &link.initial)
        };
        self.known.as_ref().is_some_and(is_same) && self.unreported == link.side.settings
    }

    fn wanted<'a>(&'a self, name: &str, link: &'a Link) -> Option<&'a str> {
        self.reported.get(name).or_else(|| link.initial.get(name)).map(String::as_str)
    }

    /// What has to be said for that.
    fn statements(&self, link: &Link) -> String {
        let mut text = String::new();
        for name in CARRIED {
            let now = link.side.parameters.get(name).map(String::as_str);
            if let Some(wanted) = self.wanted(name, link).filter(|wanted| Some(*wanted) != now) {
                write!(text, "SET {name} TO {};", quoted(wanted)).ok();
            }
        }
        for name in link.side.settings.keys().filter(|name| !self.unreported.contains_key(*name)) {
            write!(text, "RESET {name};").ok();
        }
        for (name, value) in &self.unreported {
            if link.side.settings.get(name) != Some(value) {
                text.push_str(&set_config(name, value));
            }
        }
        text
    }
}

/// Makes the server what the session wants.
///
/// **Errors**: it is lost, or does not take a setting; either way nobody should use it.
pub(crate) async fn fit(link: &mut Link, suit: &Suit) -> Result<(), AttemptError> {
    let text = suit.statements(link);
    if !text.is_empty() {
        ask(link, &text).await?;
        link.side.settings.clone_from(&suit.unreported);
    }
    if let Some((known, _)) = suit.known.as_ref().filter(|(known, _)| *known == link.side.parameters) {
        // Compared by address next time.
        link.side.parameters = Arc::clone(known);
    }
    Ok(())
}

/// The settings that differ from the server's own; `None`: it cannot tell, or one of them changes how text is read.
///
/// **Errors**: it is lost.
pub(crate) async fn read_back(link: &mut Link) -> Result<Option<Settings>, AttemptError> {
    let rows = match talk(link, &read_back_messages()).await {
        Ok(rows) => rows,
        // Its own settings may be what forbids it: a timeout of a millisecond.
        Err(AttemptError::Final(Refused::Luggage(_))) => return Ok(None),
        Err(other) => return Err(other),
    };
    let is_plain = |name: &str| link.side.parameters.get(name).is_none_or(|value| value == "on");
    if !is_plain("standard_conforming_strings") {
        return Ok(None);
    }
    let mut settings = Settings::new();
    for (name, value) in rows {
        let is_reported = CARRIED.contains(&name.as_str()) || link.side.parameters.contains_key(&name);
        if !is_reported {
            settings.insert(name, value);
        }
    }
    Ok(Some(settings))
}

/// Runs statements of the router's own. Gives the rows of two columns of text.
pub(crate) async fn ask(link: &mut Link, text: &str) -> Result<Vec<(String, String)>, AttemptError> {
    // A simple query drops the unnamed statement.
    link.side.unnamed = None;
    let mut out = Vec::new();
    message::query(&mut out, text);
    talk(link, &out).await
}

/// The question as a statement of its own name, which leaves the client's unnamed one alone.
fn read_back_messages() -> Vec<u8> {
    const NAME: &[u8] = b"mainstay_settings";
    let mut out = Vec::new();
    close(&mut out, NAME);
    Statement::own(format!("{READ_BACK}\0\0\0").as_bytes(), Ties::NONE).parse(&mut out, NAME);
    message::put(&mut out, b'B', |out| {
        message::put_string(out, NAME);
        message::put_string(out, NAME);
        out.extend_from_slice(&[0; 6]);
    });
    message::put(&mut out, b'E', |out| {
        message::put_string(out, NAME);
        out.extend_from_slice(&[0; 4]);
    });
    close(&mut out, NAME);
    message::sync(&mut out);
    out
}

async fn talk(link: &mut Link, out: &[u8]) -> Result<Vec<(String, String)>, AttemptError> {
    let parameters = (*link.side.parameters).clone();
    let mut greeting = Greeting { stream: &mut link.stream, buffer: std::mem::take(&mut link.leftover), parameters };
    greeting.stream.write_all(out).await?;
    let mut rows = Vec::new();
    let mut failed = None;
    loop {
        match greeting.next().await {
            Ok((b'D', body)) => rows.extend(pair(&body)),
            Ok((b'Z', _)) => break,
            Ok(_) => {}
            Err(AttemptError::Final(Refused::ByServer(failure))) if !failure.is_fatal => failed = Some(failure.text),
            Err(other) => return Err(other),
        }
    }
    link.leftover = greeting.buffer;
    if greeting.parameters != *link.side.parameters {
        link.side.parameters = Arc::new(greeting.parameters);
    }
    failed.map_or(Ok(rows), |text| Err(AttemptError::Final(Refused::Luggage(text))))
}

/// The two columns of a DataRow.
fn pair(body: &[u8]) -> Option<(String, String)> {
    let mut rest = body.get(2..)?;
    let mut column = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        rest = after;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    Some((column()?, column()?))
}

/// What arrived on a server connection that nobody used. `false`: it is not to be used any more.
pub(crate) fn is_fresh(link: &mut Link) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut chunk = [0; 4096];
    loop {
        // Not through the runtime, which may not have heard yet that the server is gone.
        match recv(&link.stream, &mut chunk, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return false,
            Ok((count, _)) => link.leftover.extend_from_slice(&chunk[..count]),
            Err(rustix::io::Errno::AGAIN) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    take_news(link)
}

/// Settings that a reload changed and notices are all that a server says unasked.
fn take_news(link: &mut Link) -> bool {
    let mut at = 0;
    while let Ok(Some(frame)) = crate::frame::peek(&link.leftover[at..]) {
        let Some(body) = link.leftover.get(at + crate::frame::HEADER..at + frame.len) else { break };
        match frame.kind {
            b'S' => crate::link::record_parameter(Arc::make_mut(&mut link.side.parameters), body),
            b'N' | b'A' => {}
            _ => return false,
        }
        at += frame.len;
    }
    link.leftover.drain(..at);
    // Half a message: too seldom to be waited for.
    link.leftover.is_empty()
}

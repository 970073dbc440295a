//! The first packet of a client: what it wants, under whose name.
//!
//! Pure; a malformed packet is an error and never a panic, and no more than [`MAX_PACKET`] is ever read for it.
//! **Source**: PostgreSQL manual, "Message Flow: Start-up"; `src/backend/tcop/backend_startup.c`.

use crate::frame::split_string;
use crate::message;

pub(crate) const PROTOCOL_3_0: u32 = 3 << 16;
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// `MAX_STARTUP_PACKET_LENGTH` of PostgreSQL.
pub(crate) const MAX_PACKET: usize = 10_000;

/// What a first packet asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// TLS; answered by `S` and the handshake, or by `N`, then another packet comes.
    Tls,
    /// GSS encryption; answered by `N`, then another packet comes.
    Gss,
    /// Cancel what this key's session does.
    Cancel {
        process: u32,
        secret: Vec<u8>,
    },
    Session(Startup),
}

/// A session to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Startup {
    pub(crate) user: String,
    pub(crate) database: String,
    /// What the server gets besides: settings in the client's order.
    pub(crate) parameters: Vec<(String, String)>,
    /// The client speaks a newer minor version or asks for protocol options: it is told what we speak.
    pub(crate) unknown_options: Option<Vec<String>>,
    pub(crate) is_replication: bool,
}

/// Why a first packet is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum StartupError {
    #[error("startup packet of {length} bytes, limits are 8 and {MAX_PACKET}")]
    Length { length: usize },
    #[error("protocol version {major}.{minor} is not supported, 3.0 is")]
    Version { major: u32, minor: u32 },
    #[error("startup packet ends within a parameter")]
    Truncated,
    #[error("startup packet is not UTF-8")]
    Encoding,
    #[error("startup packet names no user")]
    NoUser,
}

/// The length that a packet's first four bytes announce, without these four.
pub(crate) fn body_length(head: [u8; 4]) -> Result<usize, StartupError> {
    let length = u32::from_be_bytes(head) as usize;
    if !(8..=MAX_PACKET).contains(&length) {
        return Err(StartupError::Length { length });
    }
    Ok(length - 4)
}

/// Reads a packet's body (after its length).
pub(crate) fn parse(body: &[u8]) -> Result<Request, StartupError> {
    let (version, rest) = body.split_first_chunk::<4>().ok_or(StartupError::Truncated)?;
    match u32::from_be_bytes(*version) {
        SSL_REQUEST => Ok(Request::Tls),
        GSS_REQUEST => Ok(Request::Gss),
        CANCEL_REQUEST => {
            let (process, secret) = rest.split_first_chunk::<4>().ok_or(StartupError::Truncated)?;
            Ok(Request::Cancel { process: u32::from_be_bytes(*process), secret: secret.to_vec() })
        }
        version if version >> 16 == 3 => session(version & 0xffff, rest).map(Request::Session),
        version => Err(StartupError::Version { major: version >> 16, minor: version & 0xffff }),
    }
}

fn session(minor: u32, mut rest: &[u8]) -> Result<Startup, StartupError> {
    let mut startup = Startup {
        user: String::new(),
        database: String::new(),
        parameters: Vec::new(),
        unknown_options: None,
        is_replication: false,
    };
    let mut options = Vec::new();
    loop {
        let (name, after) = split_string(rest).ok_or(StartupError::Truncated)?;
        if name.is_empty() {
            break;
        }
        let (value, after) = split_string(after).ok_or(StartupError::Truncated)?;
        rest = after;
        let name = std::str::from_utf8(name).map_err(|_| StartupError::Encoding)?;
        let value = std::str::from_utf8(value).map_err(|_| StartupError::Encoding)?;
        match name {
            "user" => value.clone_into(&mut startup.user),
            "database" => value.clone_into(&mut startup.database),
            "replication" => startup.is_replication = !matches!(value, "false" | "off" | "no" | "0"),
            _ if name.starts_with("_pq_.") => options.push(name.to_owned()),
            _ => startup.parameters.push((name.to_owned(), value.to_owned())),
        }
    }
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    if minor > 0 || !options.is_empty() {
        startup.unknown_options = Some(options);
    }
    Ok(startup)
}

/// Appends what tells the client that we speak 3.0 and know none of its options.
pub(crate) fn negotiate(out: &mut Vec<u8>, options: &[String]) {
    message::put(out, b'v', |out| {
        out.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
        out.extend_from_slice(&u32::try_from(options.len()).unwrap_or(0).to_be_bytes());
        for option in options {
            message::put_string(out, option.as_bytes());
        }
    });
}

/// All that a server's startup packet carries for this session.
pub(crate) fn for_server(startup: &Startup, is_read_only: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let own = [("user", startup.user.as_str()), ("database", startup.database.as_str())];
    let given = startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let read_only = is_read_only.then_some(("default_transaction_read_only", "on"));
    message::startup(&mut out, own.into_iter().chain(given).chain(read_only));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(version: u32, text: &[u8]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend_from_slice(text);
        body
    }

    #[test]
    fn a_session_names_user_database_and_settings() {
        let body = packet(PROTOCOL_3_0 + 2, b"user\0ada\0application_name\0x\0_pq_.new\0on\0\0");
        let Ok(Request::Session(startup)) = parse(&body) else { panic!("no session") };
        assert_eq!((startup.user.as_str(), startup.database.as_str()), ("ada", "ada"));
        assert_eq!(startup.parameters, vec![("application_name".to_owned(), "x".to_owned())]);
        assert_eq!(startup.unknown_options, Some(vec!["_pq_.new".to_owned()]));
    }

    #[test]
    fn what_the_server_gets_reads_back_as_the_same_session() {
        let body = packet(PROTOCOL_3_0, b"user\0ada\0database\0d\0options\0-c a=b\0\0");
        let Ok(Request::Session(startup)) = parse(&body) else { panic!("no session") };
        let sent = for_server(&startup, false);
        assert_eq!(parse(&sent[4..]), Ok(Request::Session(startup)));
    }

    #[test]
    fn lengths_outside_the_limits_are_refused() {
        assert!(body_length(7u32.to_be_bytes()).is_err());
        assert!(body_length(10_001u32.to_be_bytes()).is_err());
        assert_eq!(body_length(10_000u32.to_be_bytes()), Ok(9_996));
        assert_eq!(parse(&packet(PROTOCOL_3_0, b"database\0d\0\0")), Err(StartupError::NoUser));
        assert_eq!(parse(&packet(2 << 16, b"")), Err(StartupError::Version { major: 2, minor: 0 }));
    }

    proptest! {
        #[test]
        fn no_packet_makes_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&body);
            let mut session = PROTOCOL_3_0.to_be_bytes().to_vec();
            session.extend_from_slice(&body);
            if let Ok(Request::Session(startup)) = parse(&session) {
                prop_assert!(!startup.user.is_empty());
                prop_assert!(startup.parameters.len() <= body.len() / 2);
            }
        }

        #[test]
        fn no_bytes_make_the_frame_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(frame)) = crate::frame::peek(&bytes) {
                prop_assert!(frame.len >= crate::frame::HEADER && frame.len <= crate::frame::MAX_MESSAGE + 1);
            }
        }
    }
}

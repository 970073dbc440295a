//! Frames on a Unix socket: four bytes of length (big endian), then that many bytes of JSON.
//!
//! keep, edge and router all speak this. A frame over [`MAX_FRAME`] is refused unread.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame. A policy snapshot with certificates is some hundred KiB.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The bytes of a frame.
///
/// **Errors**: the value does not serialize, or is longer than [`MAX_FRAME`].
pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(value).map_err(|error| invalid(error.to_string()))?;
    if body.len() > MAX_FRAME {
        return Err(invalid(format!("frame of {} bytes, limit is {MAX_FRAME}", body.len())));
    }
    let length = u32::try_from(body.len()).map_err(|error| invalid(error.to_string()))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

fn checked_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(invalid(format!("frame of {length} bytes, limit is {MAX_FRAME}")));
    }
    Ok(length)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(|error| invalid(format!("frame is not understood: {error}")))
}

/// Writes one frame.
///
/// **Errors**: as [`encode`], or the socket's.
pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    to.write_all(&encode(value)?)
}

/// Reads one frame; `None` at a clean end.
///
/// **Errors**: the socket's, a frame too long, or not the JSON of a `T`.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut header = [0; 4];
    match from.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; checked_length(header)?];
    from.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// Writes one frame without blocking the thread.
///
/// **Errors**: as [`write`].
pub async fn send<T: Serialize + Sync>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    to.write_all(&encode(value)?).await?;
    to.flush().await
}

/// Reads one frame without blocking the thread; `None` at a clean end. Not cancellation safe: give it a
/// task of its own.
///
/// **Errors**: as [`read`].
pub async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let mut header = [0; 4];
    match from.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; checked_length(header)?];
    from.read_exact(&mut body).await?;
    decode(&body).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let mut pipe = Vec::new();
        write(&mut pipe, &vec!["a", "b"]).expect("writes");
        let back: Option<Vec<String>> = read(&mut pipe.as_slice()).expect("reads");
        assert_eq!(back, Some(vec!["a".to_owned(), "b".to_owned()]));
        let end: Option<Vec<String>> = read(&mut [].as_slice()).expect("clean end");
        assert_eq!(end, None);
    }

    #[test]
    fn a_huge_length_is_refused_before_memory_is_taken() {
        let error = read::<String>(&mut [0xff, 0xff, 0xff, 0xff, 0].as_slice()).expect_err("refused");
        assert!(error.to_string().contains("limit"), "{error}");
    }
}

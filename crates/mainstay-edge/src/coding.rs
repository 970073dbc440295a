//! Content codings: what a client takes, what is worth it, and the encoders.
//!
//! **Source**: RFC 9110 sections 8.4 and 12.5.3; RFC 8878 section 8 for the window of zstd.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;

/// Answers that are encoded as they pass, all connections together: each takes up to a megabyte meanwhile.
const MOST_AT_ONCE: usize = 64;
/// Window of brotli and zstd for answers that pass: 256 KiB, so that the memory of each is bounded.
const WINDOW_LOG: u32 = 18;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

impl Coding {
    /// Smallest result first: for what is encoded once.
    pub(crate) const SMALLEST: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];
    /// Least work first: for what is encoded each time.
    pub(crate) const FASTEST: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its name in headers.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What files of it end with.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// The codings of `order` that a client takes, those it likes best first.
pub(crate) fn accepted(headers: &HeaderMap, order: [Coding; 3]) -> Vec<Coding> {
    let mut said: Vec<(String, u16)> = Vec::new();
    for value in headers.get_all(http::header::ACCEPT_ENCODING) {
        // What is no text says nothing.
        for item in value.to_str().unwrap_or_default().split(',') {
            let (name, parameter) = item.split_once(';').map_or((item, None), |(name, rest)| (name, Some(rest)));
            said.push((name.trim().to_ascii_lowercase(), parameter.map_or(Some(1000), weight).unwrap_or(0)));
        }
    }
    let weight_of = |coding: Coding| {
        let of = |name: &str| said.iter().find(|(known, _)| known == name).map(|(_, weight)| *weight);
        of(coding.token()).or_else(|| of("*")).unwrap_or(0)
    };
    let mut taken: Vec<(Coding, u16)> = order.iter().map(|coding| (*coding, weight_of(*coding))).collect();
    taken.retain(|(_, weight)| *weight > 0);
    // Stable: of those it likes the same, ours decides.
    taken.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    taken.into_iter().map(|(coding, _)| coding).collect()
}

/// `q=0.5`, in thousandths.
fn weight(parameter: &str) -> Option<u16> {
    let value = parameter.trim().strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim();
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let is_number = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{part:0<3}").parse::<u16>().ok().filter(|_| is_number)?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Whether content of this type becomes smaller. Streams of events do not wait for an encoder.
pub(crate) fn is_worth_it(content_type: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(content_type) else { return false };
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let others = [
        "application/json",
        "application/javascript",
        "application/xml",
        "application/x-ndjson",
        "application/wasm",
        "image/svg+xml",
        "image/x-icon",
        "font/ttf",
        "font/otf",
    ];
    (kind.starts_with("text/") && kind != "text/event-stream")
        || others.contains(&kind.as_str())
        || kind.starts_with("application/") && (kind.ends_with("+json") || kind.ends_with("+xml"))
}

/// All of some content at once, well encoded; for what is kept.
///
/// **Errors**: the library's; none for memory.
pub(crate) fn encode_whole(coding: Coding, content: &[u8]) -> io::Result<Bytes> {
    let room = content.len() / 3;
    let encoded = match coding {
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(room), flate2::Compression::new(7));
            encoder.write_all(content)?;
            encoder.finish()?
        }
        Coding::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::with_capacity(room), 9)?;
            // What browsers must take: 8 MiB.
            encoder.window_log(23)?;
            encoder.write_all(content)?;
            encoder.finish()?
        }
        Coding::Brotli => {
            // Quality 6 takes a tenth of the time of 9 and is a few per cent larger; 22 is what everybody takes.
            let mut encoder = brotli::CompressorWriter::new(Vec::with_capacity(room), 4096, 6, 22);
            encoder.write_all(content)?;
            encoder.into_inner()
        }
    };
    Ok(Bytes::from(encoded))
}

enum Engine {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Option<Box<brotli::CompressorWriter<Vec<u8>>>>),
}

/// Encodes an answer as it passes.
pub(crate) struct Encoder {
    engine: Engine,
    _place: Place,
}

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// A place among those that encode, given back when dropped.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken = AT_WORK
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < MOST_AT_ONCE).then_some(count + 1));
        taken.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Encoder {
    /// `None` when too many are at work: the answer then goes out as it is.
    pub(crate) fn new(coding: Coding) -> Option<Self> {
        let place = Place::take()?;
        let engine = match coding {
            Coding::Gzip => Engine::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(5))),
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).ok()?;
                encoder.window_log(WINDOW_LOG).ok()?;
                Engine::Zstd(encoder)
            }
            Coding::Brotli => {
                Engine::Brotli(Some(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, 4, WINDOW_LOG))))
            }
        };
        Some(Self { engine, _place: place })
    }

    /// The next piece, complete up to here: a client that waits for a part of an answer gets it.
    ///
    /// **Errors**: the library's.
    pub(crate) fn encode(&mut self, piece: &[u8], is_end: bool) -> io::Result<Bytes> {
        let encoded = match &mut self.engine {
            Engine::Gzip(encoder) => {
                encoder.write_all(piece)?;
                if is_end {
                    encoder.try_finish()?
                } else {
                    encoder.flush()?
                }
                std::mem::take(encoder.get_mut())
            }
            Engine::Zstd(encoder) => {
                encoder.write_all(piece)?;
                if is_end {
                    encoder.do_finish()?
                } else {
                    encoder.flush()?
                }
                std::mem::take(encoder.get_mut())
            }
            Engine::Brotli(encoder) => {
                let Some(open) = encoder else { return Ok(Bytes::new()) };
                open.write_all(piece)?;
                match is_end {
                    // Only so is the last block written.
                    true => encoder.take().map(|open| open.into_inner()).unwrap_or_default(),
                    false => {
                        open.flush()?;
                        std::mem::take(open.get_mut())
                    }
                }
            }
        };
        Ok(Bytes::from(encoded))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;

    use super::*;

    /// The content of an encoded body.
    pub(crate) fn decode(coding: Coding, body: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(body).read_to_end(&mut content).expect("gzip"),
            Coding::Zstd => {
                zstd::stream::read::Decoder::new(body).expect("zstd").read_to_end(&mut content).expect("zstd")
            }
            Coding::Brotli => brotli::Decompressor::new(body, 4096).read_to_end(&mut content).expect("brotli"),
        };
        content
    }

    fn taken(text: &str) -> Vec<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert("accept-encoding", text.parse().expect("value"));
        accepted(&headers, Coding::SMALLEST).into_iter().map(Coding::token).collect()
    }

    #[test]
    fn a_client_gets_what_it_likes_best_and_nothing_it_refuses() {
        assert_eq!(taken("gzip, deflate, br, zstd"), ["br", "zstd", "gzip"]);
        assert_eq!(taken("br;q=0.5, GZIP;q=0.8"), ["gzip", "br"]);
        assert_eq!(taken("*"), ["br", "zstd", "gzip"]);
        assert_eq!(taken("*;q=0.1, br;q=0"), ["zstd", "gzip"]);
        assert_eq!(taken("gzip;q=1.0, zstd;q=0.999"), ["gzip", "zstd"]);
        for none in ["identity", "", "br;q=0", "br;q=2", "br;q=0.5555", "br;x=1", "deflate", "gzip2"] {
            assert!(taken(none).is_empty(), "{none}");
        }
        assert!(accepted(&HeaderMap::new(), Coding::SMALLEST).is_empty());
    }

    #[test]
    fn what_is_encoded_is_the_same_when_decoded_and_each_piece_is_complete() {
        let content: Vec<u8> = (0..70_000_u32).flat_map(|number| (number / 7).to_be_bytes()).collect();
        for coding in Coding::SMALLEST {
            let whole = encode_whole(coding, &content).expect("encodes");
            assert!(whole.len() * 2 < content.len(), "{coding:?}: {}", whole.len());
            assert_eq!(decode(coding, &whole), content, "{coding:?}");
            let mut encoder = Encoder::new(coding).expect("a place");
            let mut body = Vec::new();
            for (nth, piece) in content.chunks(30_000).enumerate() {
                let encoded = encoder.encode(piece, false).expect("encodes");
                assert!(!encoded.is_empty(), "{coding:?}: piece {nth} waits");
                body.extend_from_slice(&encoded);
            }
            body.extend_from_slice(&encoder.encode(&[], true).expect("ends"));
            assert_eq!(decode(coding, &body), content, "{coding:?}");
        }
    }

    #[test]
    fn types_that_are_compressed_already_and_streams_are_left_alone() {
        for worth in ["text/html; charset=utf-8", "TEXT/CSS", "application/problem+json", "image/svg+xml"] {
            assert!(is_worth_it(worth.as_bytes()), "{worth}");
        }
        for not in ["image/png", "text/event-stream", "application/zip", "font/woff2", "application/grpc", ""] {
            assert!(!is_worth_it(not.as_bytes()), "{not}");
        }
    }
}

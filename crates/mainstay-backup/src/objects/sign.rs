//! Signatures of requests, version 4 ("AWS Signature Version 4", header form), as every store that speaks S3 asks.
//!
//! **Source**: Amazon S3 API reference, "Authenticating requests: using the Authorization header".

use hmac::{Hmac, KeyInit, Mac};
use mainstay_types::{Secret, Timestamp};
use sha2::{Digest, Sha256};

/// What opens the bucket.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Names who asks. No secret by itself, but nobody else's business.
    pub access: Secret,
    /// Signs.
    pub secret: Secret,
}

/// A request before it is signed.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    /// Encoded.
    pub(super) path: &'a str,
    /// Names and values, not encoded.
    pub(super) query: &'a [(&'a str, String)],
    /// Names in lower case, with `host`, `x-amz-date` and `x-amz-content-sha256`.
    pub(super) headers: &'a [(&'a str, String)],
    /// SHA-256 of the body, in hexadecimal.
    pub(super) payload: &'a str,
}

/// `20130524T000000Z`.
pub(super) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    let seconds = text.get(..19).unwrap_or(&text);
    seconds.chars().filter(|c| !matches!(c, '-' | ':')).chain(['Z']).collect()
}

/// Percent-encoding of everything but unreserved characters; a path keeps its `/`.
pub(super) fn encode(text: &str, keeps_slash: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b'/' if keeps_slash => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The query as it is signed and as it is sent: encoded and in order.
pub(super) fn query(pairs: &[(&str, String)]) -> String {
    let mut parts: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false))).collect();
    parts.sort();
    parts.join("&")
}

/// The value of the header `Authorization`.
pub(super) fn authorization(request: &Unsigned<'_>, keys: &Keys, region: &str, at: Timestamp) -> String {
    let mut headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (*name, value.trim())).collect();
    headers.sort_unstable();
    let signed = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let listed: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{listed}\n{signed}\n{}",
        request.method,
        request.path,
        query(request.query),
        request.payload
    );
    let moment = moment(at);
    let day = moment.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", crate::hex(&Sha256::digest(canonical)));
    let mut key = format!("AWS4{}", keys.secret.expose()).into_bytes();
    for part in [day, region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = crate::hex(&mac(&key, &text));
    let access = keys.access.expose();
    format!("AWS4-HMAC-SHA256 Credential={access}/{scope},SignedHeaders={signed},Signature={signature}")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length: the error cannot occur, and an empty answer opens nothing.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// The examples of Amazon's reference: keys, moment, bucket and signatures are theirs.
    fn signature(method: &str, path: &str, query: &[(&str, String)], more: &[(&str, &str)], payload: &str) -> String {
        let keys = Keys {
            access: Secret::new("AKIAIOSFODNN7EXAMPLE"),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        };
        let mut headers = vec![
            ("host", "examplebucket.s3.amazonaws.com".to_owned()),
            ("x-amz-content-sha256", payload.to_owned()),
            ("x-amz-date", "20130524T000000Z".to_owned()),
        ];
        headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let request = Unsigned { method, path, query, headers: &headers, payload };
        let at = Timestamp::from_millis(1_369_353_600_000);
        let whole = authorization(&request, &keys, "us-east-1", at);
        whole.rsplit_once("Signature=").expect("a signature").1.to_owned()
    }

    #[test]
    fn the_references_own_examples_have_the_references_signatures() {
        assert_eq!(
            signature("GET", "/test.txt", &[], &[("range", "bytes=0-9")], EMPTY),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let put = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        assert_eq!(
            signature(
                "PUT",
                &encode("/test$file.text", true),
                &[],
                &put,
                "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            signature("GET", "/", &[("lifecycle", String::new())], &[], EMPTY),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        let list = [("prefix", "J".to_owned()), ("max-keys", "2".to_owned())];
        assert_eq!(
            signature("GET", "/", &list, &[], EMPTY),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(encode("a/b c+ü~", true), "a/b%20c%2B%C3%BC~");
        assert_eq!(encode("a/b", false), "a%2Fb");
    }
}

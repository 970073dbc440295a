//! Azure Blob Storage: how requests are signed with the key of a storage account ("Shared Key"), and what a list is.
//!
//! **Source**: Azure Storage services REST reference, "Authorize with Shared Key", "Put Blob", "List Blobs".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mainstay_types::Timestamp;
use sha2::Sha256;

use super::sign::Keys;
use super::{Object, Page};

/// Version of the interface: from this on a blob may be put at once up to 5000 MiB.
pub(super) const VERSION: &str = "2021-08-06";
/// Headers that are signed at a place of their own, in this order; the others that are signed begin with `x-ms-`.
const IN_ORDER: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// A request before it is signed.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    /// As it is sent, encoded.
    pub(super) path: &'a str,
    /// Names and values, not encoded.
    pub(super) query: &'a [(&'a str, String)],
    /// Names in lower case. A length of zero is none.
    pub(super) headers: &'a [(&'a str, String)],
}

/// What is signed.
fn text(request: &Unsigned<'_>, account: &str) -> String {
    let of = |name: &str| request.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.trim());
    let mut text = format!("{}\n", request.method);
    for name in IN_ORDER {
        let value = of(name).filter(|value| (name, *value) != ("content-length", "0")).unwrap_or_default();
        text.push_str(value);
        text.push('\n');
    }
    let mut own: Vec<_> = request.headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    own.sort();
    for (name, value) in own {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }
    text.push_str(&format!("/{account}{}", request.path));
    let mut query: Vec<_> = request.query.iter().collect();
    query.sort();
    for (name, value) in query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

/// The value of the header `Authorization`. `None`: the key is no base64.
pub(super) fn authorization(request: &Unsigned<'_>, keys: &Keys) -> Option<String> {
    let account = keys.access.expose();
    let key = STANDARD.decode(keys.secret.expose().trim()).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(text(request, account).as_bytes());
    Some(format!("SharedKey {account}:{}", STANDARD.encode(mac.finalize().into_bytes())))
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Fri, 26 Jun 2015 23:39:12 GMT`.
pub(super) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.checked_sub(1)?)).unwrap_or(&"Jan");
    // The first of January 1970 was a Thursday.
    let day = usize::try_from(at.as_millis().div_euclid(86_400_000).rem_euclid(7)).unwrap_or_default();
    format!("{}, {} {month} {} {} GMT", DAYS[day], part(8..10), part(0..4), part(11..19))
}

/// Such a moment, read.
fn read_moment(text: &str) -> Option<Timestamp> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, _] = parts.as_slice() else { return None };
    let month = MONTHS.iter().position(|known| known == month)? + 1;
    super::moment(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

/// A page of a list.
pub(super) fn page(body: &[u8]) -> Result<Page, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    // Azure begins with a mark that XML does without.
    let document =
        roxmltree::Document::parse(text.trim_start_matches('\u{feff}')).map_err(|error| error.to_string())?;
    let root = document.root_element();
    if root.tag_name().name() != "EnumerationResults" {
        return Err(format!("a list that is a {:?}", root.tag_name().name()));
    }
    let of = |node: roxmltree::Node<'_, '_>, name: &str| {
        let found = node.descendants().find(|child| child.tag_name().name() == name)?;
        Some(found.text().unwrap_or_default().to_owned())
    };
    let mut objects = Vec::new();
    for one in root.descendants().filter(|node| node.tag_name().name() == "Blob") {
        let key = of(one, "Name").ok_or("an object without a name")?;
        let bytes = of(one, "Content-Length").and_then(|text| text.parse().ok()).ok_or("an object without a size")?;
        let stored = of(one, "Last-Modified").and_then(|text| read_moment(&text)).unwrap_or_default();
        objects.push((key, Object { bytes, stored }));
    }
    Ok(Page { objects, next: of(root, "NextMarker").filter(|next| !next.is_empty()) })
}

#[cfg(test)]
mod tests {
    use mainstay_types::Secret;

    use super::*;

    /// The two examples of the reference, "Authorize with Shared Key": text that is signed, of a put and of a list.
    #[test]
    fn the_references_own_examples_have_the_references_text() {
        let headers =
            [("x-ms-version", "2015-02-21".to_owned()), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT".to_owned())];
        let path = "/mycontainer";
        let get = [("comp", "metadata".to_owned()), ("restype", "container".to_owned()), ("timeout", "20".to_owned())];
        let request = Unsigned { method: "GET", path, query: &get, headers: &headers };
        let wanted = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
            /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(text(&request, "myaccount"), wanted);
        let put = [headers.to_vec(), vec![("content-length", "11".to_owned()), ("if-none-match", "*".to_owned())]];
        let request = Unsigned { method: "PUT", path: "/mycontainer/a", query: &[], headers: &put.concat() };
        let signed = text(&request, "myaccount");
        assert!(signed.starts_with("PUT\n\n\n11\n\n\n\n\n\n*\n\n\nx-ms-date:"), "{signed}");
    }

    #[test]
    fn a_signature_is_of_the_decoded_key() {
        let keys = Keys { access: Secret::new("account"), secret: Secret::new("a2V5") };
        let request = Unsigned { method: "GET", path: "/c", query: &[], headers: &[] };
        let signed = authorization(&request, &keys).expect("a signature");
        let mut mac = Hmac::<Sha256>::new_from_slice(b"key").expect("any length");
        mac.update(b"GET\n\n\n\n\n\n\n\n\n\n\n\n/account/c");
        assert_eq!(signed, format!("SharedKey account:{}", STANDARD.encode(mac.finalize().into_bytes())));
        let keys = Keys { secret: Secret::new("no base64!"), ..keys };
        assert_eq!(authorization(&request, &keys), None);
    }

    #[test]
    fn a_moment_is_written_and_read() {
        let at = Timestamp::from_millis(1_435_361_952_000);
        assert_eq!(moment(at), "Fri, 26 Jun 2015 23:39:12 GMT");
        assert_eq!(read_moment("Fri, 26 Jun 2015 23:39:12 GMT"), Some(at));
        assert_eq!(read_moment("yesterday"), None);
    }

    #[test]
    fn a_list_is_read_page_by_page() {
        let text = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"c\"><Blobs>\
            <Blob><Name>shop/a</Name><Properties><Last-Modified>Fri, 26 Jun 2015 23:39:12 GMT</Last-Modified>\
            <Content-Length>5</Content-Length></Properties></Blob></Blobs><NextMarker>more</NextMarker></EnumerationResults>";
        let found = page(text.as_bytes()).expect("a page");
        assert_eq!(found.next.as_deref(), Some("more"));
        let object = Object { bytes: 5, stored: Timestamp::from_millis(1_435_361_952_000) };
        assert_eq!(found.objects, [("shop/a".to_owned(), object)]);
        assert!(page(b"<html/>").is_err());
    }
}

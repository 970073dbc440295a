//! What the edge answers by itself: refusals, redirects, proofs of a name.

use std::time::Duration;

use bytes::Bytes;
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::code::code;
use crate::entry;
use crate::proxy::{MAINTENANCE, RequestState};

/// What a client is told to wait after a 503 of which nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Shows a certificate authority that the name is ours.
pub(crate) async fn prove(session: &mut Session, text: Bytes, ctx: &RequestState) -> Result<()> {
    let mut head = ResponseHeader::build(200, Some(4))?;
    head.insert_header("Content-Type", "application/octet-stream")?;
    head.insert_header("Content-Length", text.len())?;
    head.insert_header("X-Request-Id", ctx.identity())?;
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(text), true).await
}

/// Answers with the place where to ask instead.
pub(crate) async fn send_elsewhere(
    session: &mut Session,
    status: u16,
    location: String,
    ctx: &RequestState,
) -> Result<()> {
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header("Location", location)?;
    head.insert_header("Content-Length", "0")?;
    head.insert_header("X-Request-Id", ctx.identity())?;
    ctx.dress(&mut head)?;
    session.write_response_header(Box::new(head), true).await
}

/// Answers with a refusal of ours.
pub(crate) async fn refuse(session: &mut Session, status: u16, reason: &str, ctx: &RequestState) -> Result<()> {
    let identity = ctx.identity();
    let title = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let is_page = (status, reason) == MAINTENANCE && entry::wants_a_page(&session.req_header().headers);
    let (kind, body) = if is_page {
        ("text/html; charset=utf-8", Bytes::from_static(entry::MAINTENANCE_PAGE.as_bytes()))
    } else {
        // "about:blank": the title is the status's own (RFC 9457, 4.2.1); what `mainstay explain` knows has the code.
        let body = serde_json::json!({
            "type": "about:blank", "code": code(status), "status": status, "title": title, "detail": reason,
            "request_id": identity,
        });
        ("application/problem+json", Bytes::from(body.to_string()))
    };
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header("Content-Type", kind)?;
    head.insert_header("Content-Length", body.len())?;
    head.insert_header("Cache-Control", "no-store")?;
    head.insert_header("X-Request-Id", identity)?;
    if status == 503 {
        head.insert_header("Retry-After", crate::limit::whole_seconds(ctx.retry_in.unwrap_or(RETRY_AFTER)).max(1))?;
    }
    ctx.dress(&mut head)?;
    if let Some(refused) = ctx.quota.as_ref().and_then(|quota| quota.refused.as_ref()) {
        head.insert_header("Retry-After", refused.retry_after())?;
    }
    if let Some(challenge) = &ctx.challenge {
        head.insert_header("WWW-Authenticate", challenge.as_str())?;
    } else if status == 401 {
        head.insert_header("WWW-Authenticate", "Basic realm=\"restricted\", charset=\"UTF-8\"")?;
    }
    if status == 405 {
        // RFC 9110, 15.5.6. What a service behind us allows of these only it can say.
        head.insert_header("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")?;
    }
    let is_head = session.req_header().method == http::Method::HEAD;
    // What is left of the request's body is not read: the connection ends.
    session.set_keepalive(None);
    session.write_response_header(Box::new(head), is_head).await?;
    if !is_head {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

//! Users in and out as CSV.

use std::time::SystemTime;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use mainstay_kit::audit;
use mainstay_kit::auth::{Principal, Role};
use mainstay_kit::pool::Failure;
use mainstay_kit::problem::Problem;
use mainstay_kit::time::rfc3339;
use serde::Deserialize;
use serde_json::json;

use crate::import::{self, EXPORT_MAX, Report, Sheet};
use crate::model::{CreateUser, ListQuery};
use crate::state::AppState;
use crate::store;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImportQuery {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /api/users/import?dryRun=true`: all lines or none; a dry run only says what would be.
pub(super) async fn import(
    State(state): State<AppState>,
    caller: Principal,
    query: Result<Query<ImportQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Report>, Problem> {
    caller.require(Role::Editor)?;
    let Query(query) = query?;
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("text/csv")) {
        let title = "Unreadable body";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, title).detail("send Content-Type: text/csv"));
    }
    let body =
        body.map_err(|rejection| Problem::new(rejection.status(), "Unreadable body").detail(rejection.body_text()))?;
    let text = std::str::from_utf8(&body).map_err(|_| Problem::bad_request("the text is not UTF-8"))?;
    let mut sheet = Sheet::read(text, caller.role)?;
    let usernames: Vec<String> = sheet.users.iter().map(|(_, user)| user.username.to_lowercase()).collect();
    let emails: Vec<String> = sheet.users.iter().map(|(_, user)| user.email.to_lowercase()).collect();
    let (names, addresses) = (&usernames, &emails);
    let (names, addresses) =
        state.database.read(|client| Box::pin(async move { store::taken(&*client, names, addresses).await })).await?;
    sheet.mark_taken(&names, &addresses);
    if query.dry_run {
        return Ok(Json(sheet.report(true, 0)));
    }
    if !sheet.faults.is_empty() {
        return Err(sheet.refusal());
    }
    let users: Vec<CreateUser> = sheet.users.iter().map(|(_, user)| user.clone()).collect();
    let (users, caller) = (&users, &caller);
    let created = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let ids = store::insert_all(&transaction, users, &caller.username).await?;
                let entry = audit::Entry {
                    actor: &caller.username,
                    action: "users.imported",
                    subject: "users",
                    details: json!({ "number": ids.len(), "first": ids.iter().min(), "last": ids.iter().max() })
                        .to_string(),
                };
                audit::append(&transaction, &entry).await?;
                Ok(ids.len())
            })
        })
        .await
        .map_err(taken_meanwhile)?;
    #[expect(clippy::cast_precision_loss, reason = "an import has at most 5000 users")]
    state.metrics.add("users_signups_total", &[], created as f64);
    state.metrics.add("users_transactions_total", &[], 1.0);
    Ok(Json(sheet.report(false, created)))
}

fn taken_meanwhile(failure: Failure) -> Problem {
    match failure.unique_constraint() {
        Some(_) => Problem::conflict("a name or address was taken meanwhile; nothing was imported, try again"),
        None => failure.into(),
    }
}

/// `GET /api/users/export?sort&q&role&active`: CSV; editors and administrators.
pub(super) async fn export(
    State(state): State<AppState>,
    caller: Principal,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    caller.require(Role::Editor)?;
    let Query(query) = query?;
    let mut listing = ListQuery { page: None, size: None, ..query }.check()?;
    listing.size = EXPORT_MAX;
    let listing = &listing;
    let page = state.database.read(|client| Box::pin(async move { store::list(&client, listing).await })).await?;
    if page.total_elements > i64::from(EXPORT_MAX) {
        let detail = format!("{} users are more than the {EXPORT_MAX} of one export; filter them", page.total_elements);
        return Err(Problem::conflict(detail));
    }
    let caller = &caller;
    let number = page.content.len();
    state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let entry = audit::Entry {
                    actor: &caller.username,
                    action: "users.exported",
                    subject: "users",
                    details: json!({ "number": number }).to_string(),
                };
                audit::append(&transaction, &entry).await
            })
        })
        .await?;
    let day = rfc3339(SystemTime::now());
    let name = format!("attachment; filename=\"users-{}.csv\"", &day[..10]);
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, import::export(&page.content)).into_response())
}

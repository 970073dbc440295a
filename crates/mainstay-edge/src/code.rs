//! Codes of the edge's own refusals, each with a page in `docs/errors` that `mainstay explain` prints.

/// The code of an answer that the edge gives itself. Which of several reasons a status has is said by `detail`.
pub(crate) const fn code(status: u16) -> &'static str {
    match status {
        400 => "MS6400",
        401 => "MS6401",
        403 => "MS6403",
        404 => "MS6404",
        405 => "MS6405",
        408 => "MS6408",
        413 => "MS6413",
        421 => "MS6421",
        429 => "MS6429",
        431 => "MS6431",
        502 => "MS6502",
        503 => "MS6503",
        504 => "MS6504",
        // Nothing else is ours: Pingora gives some statuses for what it could not do.
        _ => "MS6500",
    }
}

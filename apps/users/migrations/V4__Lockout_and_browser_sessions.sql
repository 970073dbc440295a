-- Wrong passwords in a row, and until when an account waits.
ALTER TABLE users
    ADD COLUMN failed_signins integer     NOT NULL DEFAULT 0,
    ADD COLUMN last_failed_at timestamptz,
    ADD COLUMN locked_until   timestamptz;

-- Sessions of browsers: what their cookie must hash to, when and from where they were used.
ALTER TABLE sessions
    ADD COLUMN secret_hash  bytea,
    ADD COLUMN last_seen_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN address      text        NOT NULL DEFAULT '',
    ADD COLUMN agent        text        NOT NULL DEFAULT '';

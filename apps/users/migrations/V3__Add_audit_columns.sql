-- Who changed a user, which version it is, and the chained record of every change.
ALTER TABLE users
    ADD COLUMN created_by text   NOT NULL DEFAULT 'system',
    ADD COLUMN updated_by text   NOT NULL DEFAULT 'system',
    ADD COLUMN version    bigint NOT NULL DEFAULT 1;

CREATE TABLE audit_log (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL,
    actor         text        NOT NULL,
    action        text        NOT NULL,
    subject       text        NOT NULL,
    request_id    text        NOT NULL,
    details       text        NOT NULL,
    previous_hash bytea       NOT NULL,
    hash          bytea       NOT NULL
);

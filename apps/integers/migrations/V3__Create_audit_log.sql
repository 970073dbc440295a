-- The chained record of every change but increments, whose record is the counter itself.
CREATE TABLE audit_log (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at             timestamptz NOT NULL,
    actor          text        NOT NULL,
    action         text        NOT NULL,
    subject        text        NOT NULL,
    request_id     text        NOT NULL,
    details        text        NOT NULL,
    previous_hash  bytea       NOT NULL,
    hash           bytea       NOT NULL
);

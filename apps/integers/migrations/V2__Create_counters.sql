-- One counter for each user. It is changed by one statement, never read first and written then.
-- calls and issued only grow: the usage roll-up takes differences of them, so that counting usage
-- costs the increment nothing. epoch grows when the value is set back, so that (epoch, value) never repeats.
CREATE TABLE counters (
    user_id        bigint      PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    value          bigint      NOT NULL DEFAULT 0 CHECK (value >= 0),
    epoch          bigint      NOT NULL DEFAULT 1,
    calls          bigint      NOT NULL DEFAULT 0,
    issued         bigint      NOT NULL DEFAULT 0,
    updated_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50); -- room on the page for the next version of the row: no index entry is written

CREATE TABLE idempotency_keys (
    owner          bigint      NOT NULL REFERENCES users ON DELETE CASCADE,
    key            text        NOT NULL,
    fingerprint    bytea       NOT NULL,
    answer         text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);

CREATE TABLE usage_daily (
    user_id        bigint      NOT NULL REFERENCES users ON DELETE CASCADE,
    day            date        NOT NULL,
    calls          bigint      NOT NULL,
    issued         bigint      NOT NULL,
    PRIMARY KEY (user_id, day)
);
-- How much of a counter is in usage_daily already.
CREATE TABLE usage_watermarks (
    user_id        bigint      PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    calls          bigint      NOT NULL,
    issued         bigint      NOT NULL
);

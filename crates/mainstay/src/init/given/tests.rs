//! Commands as people write them, and what becomes of them.

use super::*;

const PLACE: Place<'_> = Place { file: "Procfile", line: Some(3) };

/// The command of a service that listens, and what was said.
fn fitted(line: &str) -> (String, String) {
    let (command, taken) = fit(&Command::new(line), true, PLACE);
    let mut said: Vec<String> = taken.said.iter().map(|(what, _)| what.clone()).collect();
    said.extend(taken.open);
    (command.line, said.join("\n"))
}

#[test]
fn a_fixed_port_becomes_the_one_that_is_given() {
    for (before, after) in [
        ("next start -p 3000", "next start -p $PORT"),
        ("PORT=3000 node x", "node x"),
        ("NODE_ENV=production PORT=3000 node x", "NODE_ENV=production node x"),
        ("cross-env PORT=3000 node x", "cross-env node x"),
        ("export PORT=3000 && node x", "export PORT=$PORT && node x"),
        ("uvicorn main:app --host 0.0.0.0 --port 8080", "uvicorn main:app --host 127.0.0.1 --port $PORT"),
        ("uvicorn main:app --host=0.0.0.0 --port=8080", "uvicorn main:app --host=127.0.0.1 --port=$PORT"),
        ("gunicorn -b 0.0.0.0:8000 app:app", "gunicorn -b 127.0.0.1:$PORT app:app"),
        ("gunicorn -b0.0.0.0:8000 app:app", "gunicorn -b127.0.0.1:$PORT app:app"),
        ("gunicorn --bind '0.0.0.0:8000' app:app", "gunicorn --bind 127.0.0.1:$PORT app:app"),
        ("gunicorn --bind=:8000 app:app", "gunicorn --bind=127.0.0.1:$PORT app:app"),
        ("./server -addr :8080", "./server -addr 127.0.0.1:$PORT"),
        ("gunicorn --bind 0.0.0.0:$PORT app:app", "gunicorn --bind 127.0.0.1:$PORT app:app"),
        ("puma -b tcp://0.0.0.0:9292", "puma -b tcp://127.0.0.1:$PORT"),
        ("python manage.py runserver 0.0.0.0:8000", "python manage.py runserver 127.0.0.1:$PORT"),
        ("java -Dserver.port=8080 -jar a.jar", "java -Dserver.port=$PORT -jar a.jar"),
        ("java -jar a.jar --server.port=8080", "java -jar a.jar --server.port=$PORT"),
        ("php -S 0.0.0.0:8000 -t public", "php -S 127.0.0.1:$PORT -t public"),
        ("PORT=3000 next start -p 3000", "next start -p $PORT"),
        ("sh -c \"node x -p 3000\"", "sh -c 'node x -p $PORT'"),
        ("psql -p 5432 -c 'select 1' && node x -p 3000", "psql -p 5432 -c 'select 1' && node x -p $PORT"),
    ] {
        let (found, said) = fitted(before);
        assert_eq!(found, after, "{before}\n{said}");
        assert!(said.contains("it listens on"), "{before}: {said}");
    }
}

#[test]
fn what_fixes_no_port_stays_as_it_is() {
    for line in [
        "node server.js",
        "mkdir -p log && node server.js",
        "gunicorn app:app --timeout 3000 --workers 80",
        "gunicorn app:app -b unix:/run/app.sock",
        "celery -A shop --import 8000",
        "app --redis-port 6379 --redis localhost:6379",
        "wait-for-it.sh localhost:5432 -- ./server",
        "./server --port ${PORT:-8080} --metrics-port 9090",
        "echo 'open",
    ] {
        let (found, said) = fitted(line);
        assert_eq!((found.as_str(), said.as_str()), (line, ""));
    }
    let (command, taken) = fit(&Command::new("flower --port 5555"), false, PLACE);
    assert_eq!((command.line.as_str(), taken.said.len()), ("flower --port 5555", 0), "a worker's port is its own");
}

#[test]
fn two_ports_are_said_with_file_and_line() {
    let (found, said) = fitted("./server --http-port 8080 --https-port 8443");
    assert_eq!(found, "./server --http-port 8080 --https-port 8443");
    assert!(said.contains("Procfile:3: it listens on port 8080 and 8443, whatever PORT says"), "{said}");
}

/// Commands that hold something secret, and what becomes of them.
const WITH_SECRETS: &[(&str, &str)] = &[
    ("DATABASE_URL=postgres://u:hunter2@db/shop node x", "node x"),
    ("DATABASE_URL='postgresql+asyncpg://u:hunter2@db/shop' node x", "node x"),
    ("SECRET_KEY=hunter2 DEBUG=0 node x", "DEBUG=0 node x"),
    ("export SECRET_KEY=hunter2 && node x", "export SECRET_KEY && node x"),
    ("env JWT_SECRET=\"hunter2 x\" node x", "env node x"),
    ("node x --db postgres://u:hunter2@db/shop", "node x --db \"$DATABASE_URL\""),
    ("node x --cache=redis://:hunter2@cache:6379/1", "node x \"--cache=$REDIS_URL\""),
    ("node x --mq amqp://u:hunter2@mq:5672/", "node x --mq \"amqp://u:$MQ_PASSWORD@mq:5672/\""),
    ("node x --admin-password hunter2", "node x --admin-password \"$ADMIN_PASSWORD\""),
    ("node x --api-token=hunter2", "node x \"--api-token=$API_TOKEN\""),
    ("sh -c 'DB_PASSWORD=hunter2 exec node x'", "sh -c 'exec node x'"),
    ("STRIPE=sk_live_hunter2 node x", "node x"),
    ("SENTRY_DSN=https://hunter2@o1.ingest.sentry.io/1 node x", "node x"),
    ("node x --key AIzaSyD-hunter2", "node x --key \"$KEY\""),
    ("node x --license=4711-hunter2", "node x \"--license=$LICENSE\""),
    ("node x --auth user:hunter2", "node x --auth \"$AUTH\""),
    ("node x --dsn https://hunter2@sentry.io/1", "node x --dsn \"$DSN\""),
    ("node x --db postgres://hunter2@db/shop", "node x --db \"$DATABASE_URL\""),
    ("mysql -u root -phunter2 shop", "mysql -u root \"-p$APP_PASSWORD\" shop"),
    ("redis-cli -p 6379 -a hunter2 ping", "redis-cli -p 6379 -a \"$APP_PASSWORD\" ping"),
    ("node x -H \"Authorization: Bearer hunter2\"", "./server"),
    ("node x -H 'X-Api-Key: hunter2'", "./server"),
    ("node x https://hooks.slack.com/services/T/B/hunter2", "./server"),
    ("curl $(echo http://u:hunter2@x/)", "./server"),
    ("node x 'DATABASE_URL=postgres://u:hunter2@x", "./server"),
    ("node x PASSWORD=hunter2", "./server"),
    ("celery flower --basic_auth=admin:hunter2", "celery flower \"--basic_auth=$BASIC_AUTH\""),
    ("FLOWER_BASIC_AUTH=admin:hunter2 celery flower", "celery flower"),
    ("curl -u admin:hunter2 http://h/", "curl -u \"$APP_PASSWORD\" http://h/"),
    ("curl -uadmin:hunter2 http://h/", "curl \"-u$APP_PASSWORD\" http://h/"),
    ("curl --user admin:hunter2 http://h/", "curl --user \"$APP_USER\" http://h/"),
    ("node x --pass hunter2", "node x --pass \"$APP_PASS\""),
    ("sshpass -p hunter2 ssh -p 22 h", "sshpass -p \"$APP_PASSWORD\" ssh -p 22 h"),
    ("echo $(curl -u admin:hunter2 h)", "./server"),
    ("echo 'open --pass hunter2", "./server"),
    ("java -Dapp.dbPassword=hunter2 -jar x", "java \"-Dapp.dbPassword=$DAPP_DBPASSWORD\" -jar x"),
    ("JAVA_OPTS=-Dapp.dbPassword=hunter2 java -jar x", "java -jar x"),
    ("node x '{\"password\":\"hunter2\"}'", "./server"),
    ("node x 'http://h/?token=hunter2'", "./server"),
    ("dotnet x.dll /token:hunter2", "./server"),
    ("node x --bearer hunter2", "node x --bearer \"$BEARER\""),
    ("node x --hmac=hunter2", "node x \"--hmac=$HMAC\""),
    ("node x --pepper hunter2 --license hunter2-x", "node x --pepper \"$PEPPER\" --license \"$LICENSE\""),
    ("node x --cookie hunter2", "node x --cookie \"$COOKIE\""),
    ("node x --otp hunter2", "node x --otp \"$OTP\""),
    ("node x --token=-hunter2", "node x \"--token=$TOKEN\""),
    ("node x --dsn 'root:hunter2@tcp(db:3306)/x'", "node x --dsn \"root:$DSN_PASSWORD@tcp(db:3306)/x\""),
    ("node x --dsn root:hunter2@tcp(db)/x", "node x --dsn \"root:$DSN_PASSWORD@tcp\"(db)/x"),
    ("DSN='root:hunter2@tcp(db:3306)/x?loc=/a' node x", "node x"),
    ("node x 'a root:hunter2@tcp(db)/x'", "./server"),
    ("node x dsn=root:hunter2@db:3306/x", "./server"),
    ("BEARER=hunter2 PEPPER=hunter2 ENCRYPTION=hunter2 LICENSE=hunter2 SALT=hunter2 COOKIE=hunter2 node x", "node x"),
    ("APP_SALTS=hunter2 HMAC=hunter2 SIGNING=hunter2 APP_JWT=hunter2 APP_KEYS=hunter2,b node x", "node x"),
    ("node x --header 'X-Auth: hunter2'", "./server"),
    ("node s.js --key hunter2", "node s.js --key \"$KEY\""),
    ("node s.js --auth=hunter2", "node s.js \"--auth=$AUTH\""),
    ("node s.js --tls-cert hunter2", "node s.js --tls-cert \"$TLS_CERT\""),
    ("AUTH=hunter2 CERT_PEM=hunter2 KEY=hunter2 node x", "node x"),
    ("curl -b 'session=hunter2' http://h/", "curl -b \"$APP_COOKIE\" http://h/"),
    ("curl -bsession=hunter2 http://h/", "curl \"-b$APP_COOKIE\" http://h/"),
    ("node x --anchor 9f86d081884c7d659a2feaa0c55ad015", "node x --anchor \"$ANCHOR\""),
];

#[test]
fn a_password_reaches_neither_the_command_nor_what_is_said() {
    for (before, after) in WITH_SECRETS.iter().copied() {
        let (found, said) = fitted(before);
        assert_eq!(found, after, "{before}\n{said}");
        assert!(!found.contains("hunter2") && !said.contains("hunter2"), "{before}: {found}\n{said}");
        assert!(!said.is_empty(), "{before}: nothing was said");
    }
    // Names that a stack file keeps for itself are never proposed for a secret.
    for name in ["--database-password hunter2", "--redis mysql://u:hunter2@h/", "--mainstay-token=hunter2"] {
        let taken = fit(&Command::new(format!("node x {name}")), true, PLACE).1;
        assert!(taken.secrets.iter().all(|secret| secret.starts_with("APP_")), "{name}: {:?}", taken.secrets);
    }
    // What is no secret stays.
    for line in [
        "node x --key /etc/tls.key",
        "node x --key tls.key --cert certs/server.crt --keys 3 --auth basic --tls-cert $CERT",
        "curl -b cookies.txt http://h/",
        "SECRET_KEY=$KEY node x",
        "TOKEN_TTL=3600 node x",
        "node x http://h/a@b",
        "node x -H \"Authorization: Bearer $T\"",
        "x --title 'a basic shop'",
        "docker run --user www-data:www-data x",
        "chpst -u app:staff node x",
        "php artisan token:refresh",
        "curl http://h /api/token:refresh",
        "node x '{\"token\":\"$T\",\"name\":\"x\"}'",
        "curl -u admin:$T http://h/",
        "node x --license MIT --seed 42 --cookie lax --encryption starttls",
        "node x --token --verbose",
        "node x mailto:you@example.com npm:left-pad@1.2.3 12:30@x",
        "docker run postgres:17@sha256:9f86d081884c7d659a2feaa0c55ad015",
        "node x --commit 9f86d081884c7d659a2feaa0c55ad015",
    ] {
        assert_eq!(fitted(line), (line.to_owned(), String::new()));
    }
}

/// Variables with their values, and what becomes of them.
const VARIABLES: &[(&str, &str, &str)] = &[
    ("DATABASE_URL", "postgres://u:p@db:5432/shop?sslmode=require", "given"),
    ("REDIS_URL", "redis://cache:6379/0", "given"),
    ("PORT", "3000", "given"),
    ("DB_URL", "postgres://u:p@db/shop", "${DATABASE_URL}"),
    (
        "DATABASE_URL",
        "postgresql+asyncpg://u:p/w@db/shop?prepared_statement_cache_size=0",
        "postgresql+asyncpg://${DATABASE_USER}:${DATABASE_PASSWORD}@${DATABASE_HOST}:${DATABASE_PORT}/\
         ${DATABASE_NAME}?prepared_statement_cache_size=0",
    ),
    (
        "SPRING_DATASOURCE_URL",
        "jdbc:postgresql://db:5432/shop",
        "jdbc:postgresql://${DATABASE_HOST}:${DATABASE_PORT}/${DATABASE_NAME}",
    ),
    ("CELERY_BROKER_URL", "redis://cache:6379/0", "${REDIS_STORE_URL}"),
    ("DB_PASSWORD", "hunter2", "${DATABASE_PASSWORD}"),
    ("PGHOST", "db", "${DATABASE_HOST}"),
    ("DATABASE_HOST", "db", "given"),
    ("AMQP_URL", "amqp://u:p$$w@mq/", "amqp://u:${AMQP_PASSWORD}@mq/"),
    ("SECRET_KEY", "hunter2", "secret"),
    ("REDIS_PASSWORD", "hunter2", "given"),
    ("MAINSTAY_TOKEN", "hunter2", "given"),
    ("STRIPE_PUBLIC_KEY", "pk", "own"),
    ("DATABASE_URL", "sqlite:///x.db", "own"),
    ("STRIPE", "sk_live_AAAA", "left out"),
    ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE", "left out"),
    ("SENTRY_DSN", "https://0123@o1.ingest.sentry.io/1", "left out"),
    ("WEBHOOK", "https://hooks.slack.com/services/T/B/X", "left out"),
    ("UPSTREAM_AUTH", "Basic dTpw", "left out"),
    ("SESSION", "eyJhbGciOiJIUzI1NiJ9.e30.x", "left out"),
    ("CERTIFICATE", "-----BEGIN PRIVATE KEY-----", "left out"),
    ("UPSTREAM_AUTH", "Bearer ${OTHER}", "own"),
    ("REGION", "ASIA", "own"),
    ("HOME_PAGE", "https://shop.example/a@b", "own"),
    ("LOG_LEVEL", "info", "own"),
    ("SHOP_DSN", "root:p@tcp(db:3306)/shop?parseTime=true", "root:${SHOP_PASSWORD}@tcp(db:3306)/shop?parseTime=true"),
    ("DATABASE_DSN", "root:p/w@h@unix(/run/my.sock)/shop", "root:${APP_DATABASE_PASSWORD}@unix(/run/my.sock)/shop"),
    ("MYSQL_URL", "root:p@/shop", "root:${MYSQL_PASSWORD}@/shop"),
    ("PROXY", "me:p@proxy.example:3128", "me:${PROXY_PASSWORD}@proxy.example:3128"),
    ("MQ_URL", "amqp://guest:guest@mq/", "amqp://guest:${MQ_PASSWORD}@mq/"),
    ("DSN", "root@tcp(db:3306)/shop", "own"),
    ("SHOP_BEARER", "hunter2", "secret"),
    ("SHOP_HMAC", "hunter2", "secret"),
    ("SHOP_PEPPER", "hunter2", "secret"),
    ("SHOP_ENCRYPTION", "hunter2", "secret"),
    ("SHOP_LICENSE", "hunter2", "secret"),
    ("SHOP_SALT", "hunter2", "secret"),
    ("SHOP_COOKIE", "hunter2", "secret"),
    ("VAULT_SECRET_ID", "hunter2", "secret"),
    ("ACCESS_TOKEN", "-hunter2", "secret"),
    ("X_THING", "9f86d081884c7d659a2feaa0c55ad015", "left out"),
    ("X_THING", "mFq3Zb8Lk1Wv9Rt5Yx2Nc7Ua", "left out"),
    ("GIT_COMMIT", "9f86d081884c7d659a2feaa0c55ad015", "own"),
    ("MAIL_ENCRYPTION", "tls", "own"),
    ("COOKIE_DOMAIN", ".shop.example", "own"),
    ("SESSION_COOKIE_SECURE", "true", "own"),
    ("COOKIE_MAX_AGE", "3600", "own"),
    ("LICENSE", "Apache-2.0", "own"),
    ("HMAC", "sha256", "own"),
    ("JWT_EXPIRES", "15m", "own"),
    ("JWT_ISSUER", "shop", "own"),
    ("SHOP_SPINNER", "dots", "own"),
    ("RANDOM_SEED", "42", "own"),
    ("JAVA_OPTS", "-Xmx512m -Dspring.datasource.dbPassword=hunter2", "left out"),
    ("CALLBACK", "https://h/x?a=1&token=hunter2", "left out"),
    ("CONNECTION", "Host=db;Username=x;Password=hunter2", "left out"),
    ("CONNECTION", "Server=db;Uid=x;Pwd=hunter2", "left out"),
    ("CONFIG", "{\"user\": \"x\", \"password\": \"hunter2\"}", "left out"),
    ("CONFIG", "{\"password\":4711,\"user\":\"x\"}", "left out"),
    ("CONFIG", "{\\\"password\\\":\\\"hunter2\\\"}", "left out"),
    ("MQ_URL", "amqp://u:p@mq/?token=hunter2", "left out"),
    ("FLOWER_BASIC_AUTH", "admin:hunter2", "left out"),
    ("ARGUMENTS", "--pass hunter2", "left out"),
    ("AUTH", "https://login.example/x", "own"),
    ("AUTH", "hunter2", "left out"),
    ("CERT_PEM", "hunter2", "left out"),
    ("TLS_CERT_BASE64", "hunter2", "left out"),
    ("KEY", "hunter2", "left out"),
    ("AUTH", "basic", "own"),
    ("AUTH", "auth.shop.example", "own"),
    ("TLS_CERT", "server.pem", "own"),
    ("TLS_CERT", "/run/tls/server.crt", "own"),
    ("CERT_EMAIL", "me@shop.example", "own"),
    ("FORWARD_AUTH", "auth:9000", "own"),
    ("JAVA_OPTS", "-Xmx512m -Dapp.mode=prod", "own"),
    ("CONFIG", "{\"user\": \"x\", \"password\": \"${DB_PASSWORD}\"}", "own"),
    ("TITLE", "the token and the password are on the card", "own"),
];

#[test]
fn addresses_become_those_of_the_stack() {
    for (name, value, wanted) in VARIABLES.iter().copied() {
        let mut taken = Taken::default();
        let found = match taken.setting(name, value) {
            Setting::Given => "given".to_owned(),
            Setting::Secret => "secret".to_owned(),
            Setting::Own => "own".to_owned(),
            Setting::Withheld => "left out".to_owned(),
            Setting::Template(template) => template,
        };
        assert_eq!(found, wanted, "{name}={value}");
        assert!(taken.open.iter().all(|line| !line.contains("p$$w")), "{:?}", taken.open);
    }
}

#[test]
fn words_of_a_list_are_given_as_they_are() {
    let of =
        |words: &[&str]| fit(&Command::of_words(words.iter().map(|word| (*word).to_owned()).collect()), true, PLACE).0;
    assert_eq!(of(&["prog", "$HOME", "a b"]).toml(), r#"["prog", "$HOME", "a b"]"#);
    assert_eq!(of(&["sh", "-c", "echo $X"]).toml(), r#"["sh", "-c", "echo $X"]"#);
    assert_eq!(of(&["prog", "--plain"]).toml(), r#""prog --plain""#);
    assert_eq!(of(&["prog", "-p", "3000", "$HOME"]).toml(), r#"["sh", "-c", "exec prog -p $PORT '$HOME'"]"#);
    assert_eq!(of(&["sh", "-c", "exec node x -p 3000"]).toml(), r#"["sh", "-c", "exec node x -p $PORT"]"#);
    assert_eq!(of(&["env", "SECRET_KEY=x", "node", ""]).toml(), r#"["env", "node", ""]"#);
}

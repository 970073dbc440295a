//! Asks Prometheus for one number.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use mainstay_types::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::USER_NAME;

/// A question that takes longer is none for a decision each 15 s.
const DEADLINE: Duration = Duration::from_secs(5);
/// A number, or some series that are summed; more is not what was asked for.
const MOST: u64 = 1 << 20;

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub enum NoNumber {
    /// Nothing listens, or the connection broke.
    #[error("Prometheus does not answer on 127.0.0.1:{port}")]
    Unreachable {
        /// The port.
        port: u16,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It does not answer in time.
    #[error("Prometheus gave no answer within {} s", DEADLINE.as_secs())]
    Silent,
    /// It refused the question, or the answer is none of its forms.
    #[error("Prometheus: {0}")]
    Refused(String),
    /// The answer is empty.
    #[error("Prometheus has no sample for it")]
    Empty,
}

/// The value of a PromQL expression now; the samples of a vector are summed.
///
/// **Errors**: no answer in time, a refusal, no sample, no number.
pub async fn query_number(port: u16, password: &Secret, expression: &str) -> Result<f64, NoNumber> {
    let Ok(answer) = tokio::time::timeout(DEADLINE, ask(port, password, expression)).await else {
        return Err(NoNumber::Silent);
    };
    number(&answer.map_err(|source| NoNumber::Unreachable { port, source })?)
}

async fn ask(port: u16, password: &Secret, expression: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{USER_NAME}:{}", password.expose()));
    // HTTP/1.0: the answer ends with the connection, and comes in one piece.
    let request = format!(
        "GET /api/v1/query?query={} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Basic {credentials}\r\n\r\n",
        escaped(expression)
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}

fn number(answer: &[u8]) -> Result<f64, NoNumber> {
    let refused = |what: &str| NoNumber::Refused(what.to_owned());
    let start = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(|| refused("no HTTP answer"))?;
    let body: serde_json::Value =
        serde_json::from_slice(&answer[start + 4..]).map_err(|_| refused("an answer that is no JSON"))?;
    if body["status"] != "success" {
        let why = body["error"].as_str().unwrap_or("it refused the question");
        return Err(NoNumber::Refused(why.chars().take(200).collect()));
    }
    let value = |pair: &serde_json::Value| pair[1].as_str().and_then(|text| text.parse::<f64>().ok());
    let data = &body["data"];
    let values: Vec<Option<f64>> = match data["resultType"].as_str() {
        Some("scalar") => vec![value(&data["result"])],
        Some("vector") => data["result"].as_array().into_iter().flatten().map(|one| value(&one["value"])).collect(),
        _ => return Err(refused("the answer is neither a number nor a vector")),
    };
    if values.is_empty() {
        return Err(NoNumber::Empty);
    }
    let sum = values.into_iter().collect::<Option<Vec<f64>>>().map(|all| all.iter().sum::<f64>());
    sum.filter(|sum| sum.is_finite()).ok_or_else(|| refused("the answer is not finite"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<f64, String> {
        number(format!("HTTP/1.0 200 OK\r\nX: y\r\n\r\n{body}").as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_or_the_sum_of_a_vector_is_the_answer() {
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"2.5"]}}"#;
        assert_eq!(read(scalar), Ok(2.5));
        let vector = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]},{"metric":{},"value":[1,"3"]}]}}"#;
        assert_eq!(read(vector), Ok(5.0));
    }

    #[test]
    fn what_is_no_number_says_why() {
        let empty = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        assert_eq!(read(empty).expect_err("none"), "Prometheus has no sample for it");
        let nan = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"NaN"]}}"#;
        assert_eq!(read(nan).expect_err("none"), "Prometheus: the answer is not finite");
        let wrong = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(read(wrong).expect_err("none"), "Prometheus: parse error");
        assert!(number(b"nonsense").is_err());
    }

    #[test]
    fn an_expression_survives_the_way_to_prometheus() {
        assert_eq!(escaped("sum(rate(x{a=\"b\"}[1m]))"), "sum%28rate%28x%7Ba%3D%22b%22%7D%5B1m%5D%29%29");
    }
}

//! Reads the little of EDN that published histories use, as JSON values: keywords and symbols become texts.

use serde_json::{Map, Value};

/// The values of a text, one after the other.
pub(crate) fn read(text: &str) -> Vec<Value> {
    let mut reader = Reader { rest: text };
    let mut values = Vec::new();
    while reader.peek().is_some() {
        values.push(reader.value());
    }
    values
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Commas are blanks.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        self.rest.chars().next()
    }

    fn skip(&mut self, c: char) {
        self.rest = self.rest.strip_prefix(c).unwrap_or(self.rest);
    }

    fn value(&mut self) -> Value {
        match self.peek().expect("a value") {
            '{' => {
                self.skip('{');
                let mut map = Map::new();
                while self.peek() != Some('}') {
                    let key = self.value();
                    let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                    let value = self.value();
                    map.insert(key, value);
                }
                self.skip('}');
                Value::Object(map)
            }
            '[' | '(' => self.list(),
            // A set, or a tag before a value: the tag is dropped.
            '#' => {
                self.skip('#');
                if self.peek() == Some('{') {
                    return self.list();
                }
                self.word();
                self.value()
            }
            '"' => {
                self.skip('"');
                let (text, rest) = self.rest.split_once('"').expect("an end of the text");
                self.rest = rest;
                Value::from(text)
            }
            _ => self.word(),
        }
    }

    fn list(&mut self) -> Value {
        let open = self.peek().expect("an open bracket");
        self.skip(open);
        let mut items = Vec::new();
        while !matches!(self.peek(), Some(']' | ')' | '}')) {
            items.push(self.value());
        }
        let close = self.peek().expect("a closing bracket");
        self.skip(close);
        Value::from(items)
    }

    fn word(&mut self) -> Value {
        let end = self.rest.find(|c: char| c.is_whitespace() || "{}[](),\"".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "nil" => Value::Null,
            "true" => Value::from(true),
            "false" => Value::from(false),
            _ => word.parse::<i64>().map_or_else(|_| Value::from(word.trim_start_matches(':')), Value::from),
        }
    }
}

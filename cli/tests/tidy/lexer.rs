//! As much of Rust's lexing as the rules need: words and punctuation with their lines; comments and literals fall away,
//! so that a sample in a string is never mistaken for code.

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// An identifier, `::`, or one punctuation character.
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// All tokens of a file.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    Lexer { chars: source.chars().collect(), at: 0, line: 1, tokens: Vec::new() }.run()
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn run(mut self) -> Vec<Token> {
        while let Some(c) = self.peek(0) {
            match (c, self.peek(1)) {
                ('/', Some('/')) => self.skip_while(|c| c != '\n'),
                ('/', Some('*')) => self.skip_block_comment(),
                ('"', _) => self.skip_string(),
                ('\'', next) => self.skip_char_or_lifetime(next),
                _ if c.is_alphabetic() || c == '_' => self.word(),
                _ if c.is_ascii_digit() => self.skip_while(|c| c.is_alphanumeric() || c == '_'),
                _ if c.is_whitespace() => self.bump(),
                (':', Some(':')) => {
                    self.push("::".to_owned());
                    self.bump();
                    self.bump();
                }
                _ => {
                    self.push(c.to_string());
                    self.bump();
                }
            }
        }
        self.tokens
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn bump(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn push(&mut self, text: String) {
        self.tokens.push(Token { text, line: self.line });
    }

    fn skip_while(&mut self, more: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&more) {
            self.bump();
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.bump();
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.bump();
                }
                (None, _) => return,
                _ => {}
            }
            self.bump();
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_string(&mut self) {
        self.bump();
        while let Some(c) = self.peek(0) {
            self.bump();
            match c {
                '\\' => self.bump(),
                '"' => return,
                _ => {}
            }
        }
    }

    /// From the quote on, which `hashes` many `#` follow at the end.
    fn skip_raw_string(&mut self, hashes: usize) {
        self.bump();
        while let Some(c) = self.peek(0) {
            self.bump();
            if c == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                (0..hashes).for_each(|_| self.bump());
                return;
            }
        }
    }

    fn skip_char_or_lifetime(&mut self, next: Option<char>) {
        self.bump();
        if next == Some('\\') {
            self.bump();
            self.bump();
            self.skip_while(|c| c != '\'');
            self.bump();
        } else if self.peek(1) == Some('\'') {
            self.bump();
            self.bump();
        } else {
            self.skip_while(|c| c.is_alphanumeric() || c == '_');
        }
    }

    fn word(&mut self) {
        let start = self.at;
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        let text: String = self.chars[start..self.at].iter().collect();
        let hashes = self.chars[self.at..].iter().take_while(|c| **c == '#').count();
        let raw = matches!(text.as_str(), "r" | "br" | "cr");
        match self.peek(if raw { hashes } else { 0 }) {
            Some('"') if raw => {
                (0..hashes).for_each(|_| self.bump());
                self.skip_raw_string(hashes);
            }
            Some('"') if matches!(text.as_str(), "b" | "c") => self.skip_string(),
            Some('\'') if text == "b" => {
                let next = self.peek(1);
                self.skip_char_or_lifetime(next);
            }
            // `r#type`
            Some(_) if text == "r" && hashes == 1 => self.bump(),
            _ => self.push(text),
        }
    }
}

/// Whether a file is compiled for tests only, where dev-dependencies are free.
pub(crate) fn is_test_file(file: &str) -> bool {
    file.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

/// The same without what is compiled for tests only.
pub(crate) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match attribute_end(tokens, at) {
            Some(end) if is_test_only(&tokens[at..end]) => at = item_end(tokens, end),
            Some(end) => {
                kept.extend_from_slice(&tokens[at..end]);
                at = end;
            }
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// The end of the outer attribute that starts here, if one does.
fn attribute_end(tokens: &[Token], at: usize) -> Option<usize> {
    let starts = tokens[at].is("#") && tokens.get(at + 1).is_some_and(|token| token.is("["));
    starts.then(|| closing(tokens, at + 1) + 1)
}

fn is_test_only(attribute: &[Token]) -> bool {
    let has = |text: &str| attribute.iter().any(|token| token.is(text));
    has("cfg") && has("test") && !has("not")
}

/// The end of the item that starts here, after its other attributes.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "{" => return closing(tokens, at) + 1,
            "(" | "[" => at = closing(tokens, at),
            _ => {}
        }
        at += 1;
    }
    at
}

/// Where the bracket that opens here is closed.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        let texts: Vec<String> = without_tests(&tokens(source)).into_iter().map(|token| token.text).collect();
        assert_eq!(texts.join(" "), expected, "{source}");
    }

    #[test]
    fn comments_and_literals_fall_away() {
        check("a // b\nc /* d /* e */ f */ g", "a c g");
        check(r##"a "b \" c" d r"e\" f r#"g " h"# i b"j" k 'l' '\'' '\u{1F600}' b'm' n"##, "a d f i k n");
        check("fn f<'a>(x: &'a str) -> u8 { 0x1f_u8 }", "fn f < > ( x : & str ) - > u8 { }");
        check("r#type::x", "type :: x");
    }

    #[test]
    fn what_only_tests_compile_falls_away() {
        check("a; #[cfg(test)] mod tests { b { c } } d", "a ; d");
        check("#[cfg(test)]\n#[path = \"x\"]\nmod tests;\na", "a");
        check("#[cfg(test)] use b; a", "a");
        check("#[cfg(any(test, feature = \"f\"))] fn b(c: [u8; 2]) {} a", "a");
        check("#[cfg(not(test))] a", "# [ cfg ( not ( test ) ) ] a");
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let tokens = tokens("a\n/* \n */ \"\n\" r\"\n\"\nb");
        assert_eq!(tokens.last().map(|token| token.line), Some(6));
    }
}

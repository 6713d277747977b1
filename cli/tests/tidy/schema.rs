//! Rules about `.proto` files: people read them through reflection, so everything in them is explained.

use crate::Finding;

const KEYWORDS: &[&str] = &["service ", "rpc ", "message ", "enum ", "oneof "];

/// Declarations without a comment above them.
pub(crate) fn findings(file: &str, source: &str) -> Vec<Finding> {
    let mut above = "";
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(source.lines().map(str::trim)) {
        if declares(line) && !above.starts_with("//") {
            findings.push(Finding {
                file: file.to_owned(),
                line: number,
                message: format!("no comment above `{line}`"),
            });
        }
        above = line;
    }
    findings
}

fn declares(line: &str) -> bool {
    KEYWORDS.iter().any(|keyword| line.starts_with(keyword)) || is_numbered(line)
}

/// A field or an enum's value: `string name = 1;`.
fn is_numbered(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let Some((name, number)) = code.split_once('=') else { return false };
    let number = number.trim().trim_end_matches(';').split(['[', ' ']).next().unwrap_or_default();
    let is_statement =
        ["syntax", "option", "reserved"].iter().any(|word| name.trim_start().starts_with(word));
    !is_statement && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, lines: &[usize]) {
        let found: Vec<usize> = findings("a.proto", source).iter().map(|finding| finding.line).collect();
        assert_eq!(found, lines, "{source}");
    }

    #[test]
    fn messages_and_fields_are_explained() {
        check("message A {\n}\n", &[1]);
        check("// A.\nmessage A {\n  string b = 1;\n  // C.\n  map<string, string> c = 2;\n}\n", &[3]);
        check("// A.\nmessage A {\n  oneof b {\n    // C.\n    C c = 1 [deprecated = true];\n  }\n}\n", &[3]);
    }

    #[test]
    fn values_services_and_calls_are_explained() {
        check("enum A {\n  B = 0; // Too late.\n}\n", &[1, 2]);
        check("// A.\nservice A {\n  rpc B(C) returns (D);\n}\n", &[3]);
    }

    #[test]
    fn a_comment_counts_only_for_what_follows_it() {
        check("// A.\nmessage A {\n  // B.\n  string b = 1;\n  string c = 2;\n}\n", &[5]);
        check("// Lost.\n\nmessage A {}\n", &[3]);
    }

    #[test]
    fn statements_of_the_file_need_none() {
        check("syntax = \"proto3\";\n\npackage a;\n\nimport \"b\";\n", &[]);
    }
}

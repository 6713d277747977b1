//! Placeholders in commands: checked here, where the file and line are known; replaced by the coordinator.

use super::problem::{nearest, quoted};

/// Checks one argument. `known` are the names that mean something in it.
pub(super) fn check(argument: &str, known: &[&str]) -> Result<(), (String, String)> {
    const LITERAL: &str = "For a literal brace write it twice: `{{` or `}}`.";
    let mut rest = argument;
    while let Some(at) = rest.find(['{', '}']) {
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(("a `}` without its `{`".to_owned(), LITERAL.to_owned()));
        }
        let Some(end) = rest.find(['{', '}']).filter(|end| rest[*end..].starts_with('}')) else {
            return Err(("a `{` without its `}`".to_owned(), LITERAL.to_owned()));
        };
        let name = &rest[..end];
        if !known.contains(&name) {
            let hint = if known.is_empty() {
                format!("This task has no item. {LITERAL}")
            } else {
                format!("{} {LITERAL}", nearest(name, known.iter().copied()))
            };
            return Err((format!("unknown placeholder {}", quoted(&format!("{{{name}}}"))), hint));
        }
        rest = &rest[end + 1..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn known_placeholders_and_literal_braces_pass() {
        for good in ["", "{item}", "--n={index}/{item}", "{{item}}", "{{{item}}}", "awk '{{print $1}}'"] {
            assert_eq!(check(good, &["item", "index"]), Ok(()), "{good}");
        }
    }

    #[test]
    fn others_are_refused() {
        for bad in ["{", "}", "{}", "{itm}", "a{item", "{it{item}", "{item}}", "{{item}"] {
            assert!(check(bad, &["item", "index"]).is_err(), "{bad}");
        }
        assert!(check("{item}", &[]).is_err());
    }
}
